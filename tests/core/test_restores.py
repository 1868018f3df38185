"""After every surgery, whatever happened, the model is what it was."""

from __future__ import annotations

import copy
import signal

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import surgeon
from surgeon import (
    Ablate,
    Bypass,
    DropResidual,
    ModelSpec,
    Only,
    Recipe,
    Reinit,
    Swap,
    Truncate,
    fingerprint,
)
from surgeon.errors import RestoreError, SurgeonError
from surgeon.surgery.handles import Handle
from surgeon.testing import assert_restores, tiny_vit

SIZE = (3, 16, 16)


class Shelf:
    """Donors that make tensors up."""

    def tensors(self, donor, site, anatomy):
        return {n: self._made(anatomy, n) for n in anatomy.parameters_of(site)}

    def initial(self, seed, names):
        return {}

    def _made(self, anatomy, name):
        from surgeon.surgery.edits import TensorSource

        shape = anatomy.graph.parameters[name]
        return TensorSource(shape, lambda: torch.full(shape, 0.25))


OPERATIONS = [
    DropResidual("blocks[*]"),
    DropResidual("blocks[1].residual2"),
    Bypass("blocks[0].attention"),
    Bypass("blocks[*].mlp"),
    Bypass("blocks[1].norm1"),
    Bypass("blocks[0]"),
    Bypass("pos_embed"),
    Swap("blocks[1].norm2", donor="timm/any"),
    Swap(("stem", "pos_embed", "class_token"), donor="timm/any"),
    Ablate("blocks[0].mlp"),
    Ablate("blocks[0].norm1", value="mean"),
]
ENDINGS = [Truncate("blocks[0]"), Only("blocks[1]"), Truncate("stem"), Truncate("blocks[1].mlp")]


def operate(model, recipe, **options):
    return surgeon.operate(model, recipe, input_size=SIZE, donors=Shelf(), **options)


@pytest.mark.parametrize("operation", OPERATIONS + ENDINGS, ids=str)
def test_after_success(vit, images, operation):
    with torch.no_grad():
        before = vit(images)
        with assert_restores(vit), operate(vit, Recipe() | operation) as subject:
            out = subject.raw(images)
            assert torch.equal(out, vit(images)), "model(x) and subject.raw(x) agree"
        assert torch.equal(vit(images), before)


@pytest.mark.parametrize("operation", OPERATIONS + ENDINGS, ids=str)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_exception_in_the_middle_of_a_forward(vit, images, operation, error):
    failing = []

    def fail(module, args, out):
        if failing:
            raise error

    vit.patch_embed.register_forward_hook(fail)
    with assert_restores(vit), pytest.raises(error), operate(vit, Recipe() | operation) as subject:
        failing.append(True)
        subject.raw(images)


@pytest.mark.parametrize("operation", [DropResidual("blocks[*]"), Bypass("blocks[*].attention")])
def test_ctrl_c_while_the_mode_is_on(vit, images, operation):
    """A real signal, in a function that the owner of the adds runs itself."""
    forward = type(vit.blocks[1]).forward

    def interrupted(self, x):
        y = forward(self, x)
        signal.raise_signal(signal.SIGINT)
        return y

    class Block(type(vit.blocks[1])):
        pass

    Block.forward = interrupted
    vit.blocks[1].__class__ = Block
    with assert_restores(vit), pytest.raises(KeyboardInterrupt):
        with operate(vit, Recipe() | operation) as subject:
            subject.raw(images)


def test_an_interrupted_forward_leaves_the_subject_usable(vit, images):
    recipe = Recipe() | DropResidual("blocks[*]")
    with operate(vit, recipe) as subject, torch.no_grad():
        expected = subject.raw(images)
        hook = vit.blocks[1].attn.register_forward_hook(_interrupt)
        with pytest.raises(KeyboardInterrupt):
            subject.raw(images)
        hook.remove()
        assert torch.equal(subject.raw(images), expected)
        assert torch._C._len_torch_function_stack() == 0


def _interrupt(*_):
    raise KeyboardInterrupt


operations = st.lists(st.sampled_from(OPERATIONS), min_size=5, max_size=5)
endings = st.sampled_from([None, *ENDINGS])


def by_hand(model, images, recipe):
    """The operated forward of a tiny ViT written out: what each operation means."""
    model = copy.deepcopy(model)
    said = {(o.op, o.site) for o in recipe.operations}
    ends = [o for o in recipe.operations if o.op in ("truncate", "only")]
    end = ends[0].site if ends else None
    swapped = [site for op, site in said if op == "swap"]
    owned = {"stem": "patch_embed.", "pos_embed": "pos_embed", "class_token": "cls_token",
             "blocks[1].norm2": "blocks.1.norm2."}  # fmt: skip
    prefixes = [owned[s] for site in swapped for s in ((site,) if isinstance(site, str) else site)]
    for name, parameter in model.named_parameters():
        if any(name.startswith(prefix) for prefix in prefixes):
            parameter.fill_(0.25)
    tokens = model.patch_embed(images).flatten(2).transpose(1, 2)
    if end == "stem":
        return tokens
    x = torch.cat([model.cls_token.expand(len(images), -1, -1), tokens], 1)
    x = x if ("bypass", "pos_embed") in said else x + model.pos_embed
    for i, block in enumerate(model.blocks):
        whole = i == 0 and (
            ("bypass", "blocks[0]") in said or end == "blocks[1]" and ends[0].op == "only"
        )
        dropped = ("drop_residual", "blocks[*]") in said
        if not whole and not (i == 0 and ("bypass", "blocks[0].attention") in said):
            y = x if i == 1 and ("bypass", "blocks[1].norm1") in said else block.norm1(x)
            if i == 0 and ("ablate", "blocks[0].norm1") in said:
                y = y.mean(1, keepdim=True).expand_as(y).clone()
            y = block.attn(y)
            x = y if dropped else x + y
        if not whole and ("bypass", "blocks[*].mlp") not in said:
            y = block.mlp(block.norm2(x))
            if i == 0 and ("ablate", "blocks[0].mlp") in said:
                y = torch.zeros_like(y)
            only_this = i == 1 and ("drop_residual", "blocks[1].residual2") in said
            x = y if dropped or only_this else x + y
        if end in (f"blocks[{i}]", f"blocks[{i}].mlp"):
            return x
    return model.head(model.norm(x)[:, 0])


@given(operations, endings)
def test_random_stacks_of_five(stack, ending):
    model = tiny_vit()
    images = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(operations=[*stack, *([ending] if ending else [])])
    with torch.no_grad():
        before = model(images)
        expected = by_hand(model, images, recipe)
        with assert_restores(model):
            try:
                subject = operate(model, recipe)
            except SurgeonError:
                return  # a conflict, found before anything was touched
            with subject:
                assert torch.equal(subject.raw(images), expected)
        assert torch.equal(model(images), before)


@given(st.permutations(range(4)))
def test_nested_surgeries_come_off_in_any_order(order):
    """Each removes only its own edits; what the others do stays."""
    model = tiny_vit()
    images = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))
    parts = [
        DropResidual("blocks[0].residual1"),
        Bypass("blocks[1].mlp"),
        Swap("blocks[0].norm1", donor="timm/any"),
        DropResidual("blocks[0].residual2"),
    ]
    with torch.no_grad(), assert_restores(model):
        subjects = [operate(model, Recipe() | part) for part in parts]
        left = list(range(4))
        for number in order:
            subjects[number].remove()
            left.remove(number)
            recipe = Recipe(operations=[parts[i] for i in left])
            other = tiny_vit()
            with operate(other, recipe) as expected:
                assert torch.equal(model(images), expected.raw(images))
        assert not any(p.grad_fn for p in model.parameters())


def test_a_failed_apply_leaves_nothing(vit):
    from surgeon.surgery.edits import SetTensor, TensorSource

    def burst():
        raise OSError("disk on fire")

    class Broken(Shelf):
        def tensors(self, donor, site, anatomy):
            found = super().tensors(donor, site, anatomy)
            return {**found, "norm.weight": TensorSource((8,), burst)}

    recipe = Recipe() | DropResidual("blocks[*]") | Swap("stem", donor="timm/any")
    with assert_restores(vit), pytest.raises(OSError, match="fire"):
        surgeon.operate(vit, recipe, input_size=SIZE, donors=Broken())
    assert SetTensor is not None


@pytest.mark.parametrize("number", [0, 1, 2])
def test_any_edit_that_cannot_be_put_on_takes_the_others_off(vit, monkeypatch, number):
    recipe = Recipe() | Bypass("blocks[0].norm1") | Bypass("blocks[1].norm1") | Truncate("norm")
    calls = []
    original = nn.Module.register_forward_hook
    layers = surgeon.surgery.install.add_layer

    def counted(real):
        def wrapper(*args, **kwargs):
            calls.append(1)
            if len(calls) == number + 1:
                raise RuntimeError("no more room")
            return real(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(nn.Module, "register_forward_hook", counted(original))
    monkeypatch.setattr(surgeon.surgery.install, "add_layer", counted(layers))
    plan = surgeon.plan(vit, recipe, input_size=SIZE)
    calls.clear()
    with assert_restores(vit), pytest.raises(RuntimeError, match="room"):
        plan.apply(vit)


def test_undo_goes_on_past_a_failing_step():
    done = []
    handle = Handle()
    handle.undo_with(lambda: done.append("first on, last off"))
    handle.undo_with(lambda: 1 / 0)
    handle.undo_with(lambda: done.append("last on, first off"))
    with pytest.raises(RestoreError, match="division"):
        handle.remove()
    assert done == ["last on, first off", "first on, last off"]
    handle.remove()
    assert not handle.active


def test_remove_is_idempotent_and_a_removed_subject_refuses(vit, images):
    subject = operate(vit, Recipe() | Truncate("stem"))
    subject.remove()
    subject.remove()
    with pytest.raises(SurgeonError, match="undone"):
        subject(images)


def test_planning_is_inert(vit):
    with assert_restores(vit):
        surgeon.plan(vit, Recipe() | DropResidual("blocks[*]"), input_size=SIZE)


def test_training_mode_and_flags_come_back_one_by_one(vit, images):
    vit.train()
    vit.blocks[0].eval()
    vit.head.weight.requires_grad_(False)
    with assert_restores(vit), operate(vit, Recipe() | Truncate("norm")) as subject:
        assert not any(m.training for m in vit.modules())
        assert not any(p.requires_grad for p in vit.parameters())
        subject.raw(images)


def test_trainable_leaves_flags_alone_and_gradients_reach_the_weights(vit, images):
    vit.train()
    recipe = Recipe() | DropResidual("blocks[0]") | Swap("blocks[1].norm1", donor="timm/any")
    with assert_restores(vit, full=True), operate(vit, recipe, trainable=True) as subject:
        assert vit.training
        subject.raw(images).sum().backward()
        assert vit.blocks[0].attn.qkv.weight.grad is not None
        assert vit.blocks[1].norm1.weight.grad is not None
        vit.zero_grad()


def test_a_users_own_hooks_stay_and_see_the_operated_value(vit, images):
    seen = []
    vit.blocks[0].norm1.register_forward_hook(lambda m, a, o: seen.append(o))
    with assert_restores(vit), operate(vit, Recipe() | Bypass("blocks[0].norm1")) as subject:
        captured = subject.run(images, capture=subject.sites("pos_embed"))
    assert torch.equal(seen[-1], next(iter(captured.values.values())))


@pytest.mark.parametrize("change", ["weight", "hook", "attribute", "mode", "class", "order"])
def test_the_fingerprint_can_fail(vit, change):
    before = fingerprint(vit)
    if change == "weight":
        with torch.no_grad():
            vit.head.weight[0, 0] += 1
    elif change == "hook":
        vit.head.register_forward_hook(lambda *_: None)
    elif change == "attribute":
        vit.head.forward = vit.head.forward
    elif change == "mode":
        vit.head.train()
    elif change == "class":
        vit.head.__class__ = type("Other", (nn.Linear,), {})
    else:
        vit.head._parameters["weight"] = vit.head._parameters.pop("weight")
    assert fingerprint(vit) != before
    assert fingerprint(vit).difference(before)


def test_bytes_changed_behind_torchs_back_need_full(vit):
    before, full = fingerprint(vit), fingerprint(vit, full=True)
    vit.head.weight.data.view(-1).numpy()[0] += 1
    assert fingerprint(vit) == before
    assert fingerprint(vit, full=True) != full


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "operations"),
    [
        ("torchvision/vit_b_32", [DropResidual("blocks[*]"), Truncate("blocks[5]")]),
        ("torchvision/vit_b_32", [Bypass("blocks[*].attention"), Ablate("blocks[0].mlp")]),
        ("torchvision/resnet50", [DropResidual("blocks[0]"), Bypass("blocks[3].sublayers[0]")]),
        ("timm/swin_tiny_patch4_window7_224", [Bypass("blocks[*].mlp"), Reinit("stem", seed=3)]),
        ("timm/eva02_tiny_patch14_224", [DropResidual("blocks[*].residual1"), Only("blocks[2]")]),
    ],
)
def test_real_models_come_back(model, operations):
    recipe = Recipe(ModelSpec(model), operations=operations)
    built = recipe.load()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        before = built(images)
        with assert_restores(built), surgeon.operate(built, recipe) as subject:
            subject(images)
        assert torch.equal(built(images), before)


def test_no_surgery_costs_no_hook():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32).eval()
    with surgeon.operate(model, Recipe(), input_size=(3, 32, 32)):
        assert not any("forward" in vars(m) for m in model.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_torchvision_mha_fast_path_is_put_back():
    model = torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 16).eval()
    mha = torch.backends.mha
    mha.set_fastpath_enabled(True)
    first = surgeon.operate(model, Recipe(), input_size=(3, 32, 32))
    second = surgeon.operate(model, Recipe(), input_size=(3, 32, 32))
    first.remove()
    assert not mha.get_fastpath_enabled(), "the second surgery still needs it off"
    second.remove()
    assert mha.get_fastpath_enabled()
