"""The subject: running parts, segments, derivatives, pins, dtypes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torchvision
from torch import nn

import surgeon
from surgeon import Bypass, DropResidual, Preprocessing, Recipe, Truncate
from surgeon.errors import PlanError
from surgeon.testing import tiny_vit

SIZE = (3, 16, 16)


@pytest.fixture
def subject(vit):
    with surgeon.operate(vit, Recipe(), input_size=SIZE) as found:
        yield found


def site(subject, name):
    return subject.anatomy.select(name)[0]


def by_hand(vit, images):
    """Every value of interest, by a plain forward."""
    found = {"stem": vit.patch_embed(images).flatten(2).transpose(1, 2)}
    tokens = torch.cat([vit.cls_token.expand(len(images), -1, -1), found["stem"]], 1)
    x = found["pos_embed"] = tokens + vit.pos_embed
    for i, block in enumerate(vit.blocks):
        found[f"blocks[{i}].norm1"] = block.norm1(x)
        x = found[f"blocks[{i}].residual1"] = x + block.attn(block.norm1(x))
        x = found[f"blocks[{i}]"] = x + block.mlp(block.norm2(x))
    found["final_norm"] = vit.norm(x)
    found["head"] = vit.head(found["final_norm"][:, 0])
    return found


def test_capture_gives_every_value(vit, subject, images):
    expected = by_hand(vit, images)
    captured = subject.capture(images, list(expected))
    for name, value in expected.items():
        assert torch.equal(captured[name], value), name


def test_capture_then_inject_is_the_identity(vit, subject, images):
    expected = vit(images)
    for name in by_hand(vit, images):
        place = site(subject, name)
        value = subject.run(images, capture=[place])[place]
        again = subject.run(images, inject={place: value}).output
        assert torch.equal(again, expected), name


def test_a_value_that_leaves_something_open_needs_the_image(subject):
    place = site(subject, "blocks[0].norm1")
    with pytest.raises(PlanError, match="image too"):
        subject.run(None, inject={place: torch.zeros(1, 5, 8)})


def test_what_is_injected_goes_on(vit, subject, images):
    values = by_hand(vit, images)
    place = site(subject, "blocks[0].residual1")
    other = torch.randn_like(values["blocks[0].residual1"])
    x = other + vit.blocks[0].mlp(vit.blocks[0].norm2(other))
    out = subject.run(None, inject={place: other}, capture=[site(subject, "blocks[0]")])
    assert torch.equal(out["blocks[0]"], x)


def test_nothing_that_is_not_needed_runs(vit, subject, images):
    ran = []
    for path, module in vit.named_modules():
        if not list(module.children()):
            forward = module.forward
            module.forward = lambda *a, f=forward, p=path: ran.append(p) or f(*a)
    first, last = site(subject, "blocks[0].residual1"), site(subject, "blocks[0]")
    subject.run(None, inject={first: torch.zeros(1, 5, 8)}, capture=[last], stop=last)
    assert ran == [
        "blocks.0.norm2", "blocks.0.mlp.0", "blocks.0.mlp.1", "blocks.0.mlp.2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "target", "tokenwise", "affine"),
    [
        ("pos_embed", "blocks[0].residual1", False, False),
        ("blocks[0].residual1", "blocks[0]", True, False),
        ("blocks[0]", "blocks[1].norm1", True, False),
        ("stem", "pos_embed", True, True),
        ("blocks[0]", "blocks[1]", False, False),
    ],
)
def test_segments_equal_the_same_by_hand(vit, subject, images, source, target, tokenwise, affine):
    values = by_hand(vit, images)
    segment = subject.segment(source, target)
    assert torch.equal(segment(values[source]), values[target])
    assert (segment.tokenwise, segment.affine) == (tokenwise, affine)


def test_tokenwise_means_what_it_says(subject):
    """One token changed changes that token alone, and only where the segment says so."""
    for source, target in [
        ("blocks[0].residual1", "blocks[0]"),
        ("blocks[0]", "blocks[1].residual1"),
    ]:
        segment = subject.segment(source, target)
        x = torch.randn(1, 5, 8)
        y = x.clone()
        y[:, 2] += torch.randn(8)
        changed = (segment(x) != segment(y)).any(-1)[0]
        assert changed.tolist() == ([False, False, True, False, False] if segment.tokenwise
                                    else [True] * 5)  # fmt: skip


@pytest.mark.parametrize("recipe", [Recipe(), Recipe() | DropResidual("blocks[*]")])
def test_derivatives_equal_the_dense_jacobian(vit, recipe):
    vit.double()
    with surgeon.operate(vit, recipe, input_size=SIZE) as subject:
        segment = subject.segment("pos_embed", "blocks[0]")
        x = torch.randn(1, 5, 8, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(segment, x).reshape(40, 40)
        v, u = torch.randn(40, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
        value, forward = segment.jvp(x, v.reshape(x.shape))
        again, pull = segment.vjp(x)
        assert torch.equal(value, segment(x))
        assert torch.equal(again, value)
        torch.testing.assert_close(forward.flatten(), jacobian @ v)
        torch.testing.assert_close(pull(u.reshape(x.shape)).flatten(), u @ jacobian)


def test_vmap_over_a_segment(subject):
    segment = subject.segment("blocks[0].residual1", "blocks[0]")
    x = torch.randn(4, 1, 5, 8)
    together = torch.func.vmap(segment)(x)
    torch.testing.assert_close(together, torch.stack([segment(one) for one in x]))


def test_a_segment_backwards_is_refused(subject):
    with pytest.raises(PlanError, match="comes first"):
        subject.segment("blocks[1]", "blocks[0]")


def test_class_token_is_known_before_attention_and_not_after(vit, subject):
    before = subject.known(site(subject, "pos_embed"))
    assert before.mask.tolist() == [True, False, False, False, False]
    assert torch.equal(before.values[0, 0], (vit.cls_token + vit.pos_embed[:, :1])[0, 0])
    assert not subject.known(site(subject, "blocks[0]")).mask.any()
    pinned = before.apply(torch.zeros(2, 5, 8))
    assert torch.equal(pinned[1, 0], before.values[0, 0])
    assert not pinned[:, 1:].any()


def test_a_run_beyond_the_stop_is_refused(vit, images):
    with surgeon.operate(vit, Recipe() | Truncate("blocks[0]"), input_size=SIZE) as subject:
        assert torch.equal(subject.capture(images, "blocks[0]")["blocks[0]"], subject.raw(images))
        subject.capture(images, "blocks[0].residual1")
        with pytest.raises(PlanError, match="stops at blocks"):
            subject.capture(images, "blocks[1]")


def test_a_run_inside_what_is_bypassed_is_refused(vit, images):
    with surgeon.operate(vit, Recipe() | Bypass("blocks[0]"), input_size=SIZE) as subject:
        with pytest.raises(PlanError, match="bypassed"):
            subject.capture(images, "blocks[0].norm1")


def test_captures_see_the_operated_value_and_survive_work_in_place(images):
    model = torchvision.models.resnet18().eval()
    x = torch.rand(1, 3, 64, 64)
    kept = {}
    model.layer1[0].bn1.register_forward_hook(lambda m, a, o: kept.update(bn=o.clone()))
    with torch.no_grad(), surgeon.operate(model, Recipe(), input_size=(3, 64, 64)) as subject:
        captured = subject.capture(x, "layer1.0.bn1")  # a relu in place follows
    assert torch.equal(next(iter(captured.values.values())), kept["bn"])
    assert (kept["bn"] < 0).any()


def test_normalisation_is_applied_once_inside(vit, images):
    pre = Preprocessing(SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    with surgeon.operate(vit, Recipe(), preprocessing=pre, input_size=SIZE) as subject:
        mean = torch.tensor(pre.mean)[:, None, None]
        std = torch.tensor(pre.std)[:, None, None]
        assert torch.equal(subject(images), vit((images - mean) / std))
        assert torch.equal(subject.raw(images), vit(images))
        captured = subject.capture(images, "head")
        assert torch.equal(captured["head"], subject(images))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(vit, images, dtype):
    vit.to(dtype)
    recipe = Recipe() | Bypass("blocks[0].attention") | Truncate("blocks[1]")
    with surgeon.operate(vit, recipe, input_size=SIZE) as subject:
        out = subject(images)
        segment = subject.segment("blocks[0].residual1", "blocks[1]")
        assert out.dtype == dtype
        assert segment(torch.zeros(1, 5, 8, dtype=dtype)).dtype == dtype


def test_gradients_reach_the_input_and_weights_are_frozen(subject, images):
    x = images.clone().requires_grad_(True)
    subject(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in subject.model.parameters())


def test_flops_of_parts_add_up():
    model = torchvision.models.vit_b_32().to("meta")
    anatomy = surgeon.anatomy(model)
    from surgeon.surgery.program import build_program

    def to(name):
        place = anatomy.select(name)[0]
        return build_program(anatomy, (), captures=[place], stop=place).flops

    assert to("blocks[0]") - to("stem") == anatomy.graph.flops(
        [op for op in anatomy.graph.ops if "encoder_layer_0" in anatomy.graph.calls[op.call].path]
    )
    assert to("blocks[11]") > 0.99 * anatomy.graph.flops()


def test_ledger_counts_shares():
    from surgeon.inversion.ledger import Ledger

    ledger = Ledger(unit=300)
    ledger.forward()
    ledger.jvp(flops=150, columns=2)
    ledger.backward(flops=300)
    assert ledger.spent == pytest.approx(1 / 3 + 2 / 3 + 2 / 3)


def test_shared_modules_are_told_apart_by_call():
    """timm's Mixer runs one drop_path twice a block; a shared norm likewise."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 4, 4)
            self.norm = nn.LayerNorm(8)
            self.one = nn.Linear(8, 8)
            self.drop = nn.Dropout(0.0)

        def forward(self, x):
            x = self.stem(x).flatten(2).transpose(1, 2)
            x = x + self.drop(self.one(self.norm(x)))
            x = x + self.drop(self.one(self.norm(x)))
            return self.norm(x)

    model = Shared().eval()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        tokens = model.stem(x).flatten(2).transpose(1, 2)
        first = tokens + model.one(model.norm(tokens))
        expected = model.norm(model.one(model.norm(first)))
        recipe = Recipe() | DropResidual("residuals[1]")
        with surgeon.operate(model, recipe, input_size=(3, 8, 8)) as subject:
            model.requires_grad_(False)
            assert torch.equal(subject.raw(x), expected)
            captured = subject.capture(x, ["norm#1", "residuals[0]"])
            assert torch.equal(captured["norm#1"], model.norm(first))
        recipe = Recipe() | Bypass("norm#1")
        with surgeon.operate(model, recipe, input_size=(3, 8, 8)) as subject:
            assert torch.equal(subject.raw(x), model_norm_free(model, tokens))


def model_norm_free(model, tokens):
    first = tokens + model.one(nn.functional.layer_norm(tokens, (8,), *_affine(model)))
    second = first + model.one(first)
    return nn.functional.layer_norm(second, (8,), *_affine(model))


def _affine(model):
    return model.norm.weight, model.norm.bias


def test_two_models_in_two_threads_do_not_mix():
    """A subject is for one thread, but each thread may have one."""
    x = torch.rand(1, 3, 16, 16)
    recipes = [Recipe() | DropResidual("blocks[0]"), Recipe() | Truncate("blocks[1].residual1")]
    expected = []
    for seed, recipe in enumerate(recipes):
        with surgeon.operate(tiny_vit(seed), recipe, input_size=(3, 16, 16)) as subject:
            expected.append(subject.raw(x).detach())

    models = [tiny_vit(0), tiny_vit(1)]  # not in the threads: torch has one seed for all

    def work(number):
        model = models[number]
        for _ in range(25):
            with surgeon.operate(model, recipes[number], input_size=(3, 16, 16)) as subject:
                if not torch.equal(subject.raw(x), expected[number]):
                    return False
        return not any("forward" in vars(module) for module in model.modules())

    flag = torch.backends.mha.get_fastpath_enabled()
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(work, range(2)))
    assert torch.backends.mha.get_fastpath_enabled() == flag


def test_a_segment_may_end_where_the_model_does():
    x = torch.rand(1, 3, 16, 16)
    with surgeon.operate(tiny_vit(), Recipe(), input_size=(3, 16, 16)) as subject:
        segment = subject.segment(None, subject.output)
        assert torch.equal(segment(x), subject(x))
        assert segment.target.name == "head"
