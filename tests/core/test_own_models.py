"""Any module of the user's own: what is handled, and what is refused with what to do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import surgeon
from surgeon import Bypass, DropResidual, Recipe, Truncate
from surgeon.anatomist.look import look
from surgeon.errors import AnatomyError, PlanError
from surgeon.testing import assert_restores, tiny_vit

SIZE = (3, 16, 16)
RECIPE = Recipe() | DropResidual("blocks[0]") | Truncate("blocks[1]")


def refused(model, *words, size=SIZE):
    with pytest.raises(AnatomyError) as error:
        surgeon.operate(model, RECIPE, input_size=size)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    for word in words:
        assert word in str(error.value)
    return lines


def test_compiled_models_are_refused(vit):
    refused(torch.compile(vit, backend="eager"), "compiled", "_orig_mod")
    refused(nn.Sequential(torch.compile(vit, backend="eager")), "0 of Sequential", "compiled")
    inside = copy.deepcopy(vit)
    inside.compile(backend="eager")
    refused(inside, "compiled", "operate on it first")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_an_operated_model_may_be_compiled(vit, images):
    with surgeon.operate(vit, RECIPE, input_size=SIZE) as subject, torch.no_grad():
        compiled = torch.compile(vit, backend="eager")
        assert torch.equal(compiled(images), subject.raw(images))


def test_wrapped_models_are_refused_and_work_by_their_inside(vit, images):
    wrapped = nn.DataParallel(vit)
    refused(wrapped, "DataParallel", "model.module")
    with torch.no_grad():
        with surgeon.operate(wrapped.module, RECIPE, input_size=SIZE) as subject:
            assert torch.equal(wrapped.module(images), subject.raw(images))


@pytest.fixture
def process_group(tmp_path):
    """A process group of this process alone."""
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("this torch is built without torch.distributed")
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_models_are_refused_and_an_operated_one_may_be_wrapped(vit, images):
    from torch.nn.parallel import DistributedDataParallel

    refused(DistributedDataParallel(vit), "DistributedDataParallel", "model.module")
    model = copy.deepcopy(vit)
    with surgeon.operate(model, RECIPE, input_size=SIZE, trainable=True) as subject:
        wrapped = DistributedDataParallel(model)
        assert torch.equal(wrapped(images), subject.raw(images))
        wrapped(images).sum().backward()
        assert model.patch_embed.weight.grad is not None


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sharded_models_are_refused(vit):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    old = FullyShardedDataParallel(copy.deepcopy(vit), device_id=torch.device("cpu"))
    refused(old, "weights lie in shards", "before wrapping")
    new = copy.deepcopy(vit)
    fully_shard(new, mesh=init_device_mesh("cpu", (1,)))
    refused(new, "weights lie in shards", "before wrapping")


def test_a_model_traced_by_fx_has_the_sites_of_modules_that_are_still_called():
    import torch.fx
    import torchvision

    model = torchvision.models.resnet18().eval()
    traced = torch.fx.symbolic_trace(model)
    photo = torch.rand(1, 3, 64, 64)
    recipe = Recipe() | Truncate("path:layer1.0.conv2")
    outputs = []
    for each in (model, traced):
        with surgeon.operate(each, recipe, input_size=(3, 64, 64)) as subject, torch.no_grad():
            outputs.append(subject(photo))
    assert torch.equal(*outputs)
    with pytest.raises(surgeon.SurgeonError):
        surgeon.anatomy(traced, (3, 64, 64)).select("path:layer1.0")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_scripted_models_are_refused(vit, images):
    refused(torch.jit.trace(vit, images), "scripted", "before torch.jit.script")
    inside = nn.Sequential(torch.jit.trace(nn.Conv2d(3, 4, 1), images), nn.Conv2d(4, 4, 1))
    refused(inside, "0 of Sequential", "scripted")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_models_are_refused(vit):
    from torch.ao.quantization import quantize_dynamic

    model = quantize_dynamic(copy.deepcopy(vit), {nn.Linear})
    refused(model, "blocks.0.attn.qkv", "quantised", "float model")


def test_several_inputs_are_refused_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)

        def forward(self, left, right, scale=1.0, *rest, flip=False, **more):
            return self.stem(left) + self.stem(right)

    lines = refused(Two(), "2 inputs: left, right")
    assert "takes images alone" in lines[2]


class Several(nn.Module):
    """Features and scores, as a dict or a tuple."""

    def __init__(self, kind):
        super().__init__()
        self.body, self.kind = tiny_vit(), kind

    def forward(self, x):
        scores = self.body(x)
        return self.kind(scores)


@pytest.mark.parametrize(
    "kind", [lambda s: (s, s * 2), lambda s: {"scores": s, "aux": s * 2}, lambda s: [s, [s * 2]]]
)
def test_several_outputs_are_refused_unless_truncated(kind, images):
    model = Several(kind).eval()
    with assert_restores(model), pytest.raises(PlanError) as error:
        surgeon.operate(model, Recipe() | DropResidual("blocks[0]"), input_size=SIZE)
    assert "2 tensors" in str(error.value)
    assert "truncate" in str(error.value).splitlines()[2]
    with torch.no_grad(), surgeon.operate(model, RECIPE, input_size=SIZE) as subject:
        plain = RECIPE
        with surgeon.operate(tiny_vit(), plain, input_size=SIZE) as other:
            assert torch.equal(subject.raw(images), other.raw(images))


def test_one_output_in_a_dict_is_handled(images):
    model = Several(lambda scores: {"scores": scores}).eval()
    with torch.no_grad():
        with surgeon.operate(model, Recipe() | Bypass("blocks[0]"), input_size=SIZE) as subject:
            assert torch.equal(subject.raw(images), model(images)["scores"])


def test_a_training_model_is_evaluated_while_operated_and_trains_again(vit, images):
    vit.train()
    vit.blocks[0].eval()
    with assert_restores(vit), torch.no_grad():
        with surgeon.operate(vit, RECIPE, input_size=SIZE):
            assert not any(module.training for module in vit.modules())
    assert vit.training
    assert not vit.blocks[0].training


def test_blocks_by_stage_are_blocks_in_order_of_execution():
    import timm
    import torchvision

    with torch.device("meta"):
        models = {
            "swin": (timm.create_model("swin_tiny_patch4_window7_224"), (2, 2, 6, 2)),
            "pvt": (timm.create_model("pvt_v2_b0"), (2, 2, 2, 2)),
            "convnext": (timm.create_model("convnext_atto"), (2, 2, 6, 2)),
            "resnet": (torchvision.models.resnet50(), (3, 4, 6, 3)),
            "maxvit": (torchvision.models.maxvit_t(), (2, 2, 5, 2)),
            "efficientnet": (timm.create_model("efficientnet_b0"), (1, 2, 2, 3, 3, 4, 1)),
        }
    for name, (model, depths) in models.items():
        anatomy = look(model, (3, 224, 224))
        assert [len(anatomy.select(f"stages[{s}].blocks[*]")) for s in range(len(depths))] == list(
            depths
        ), name
        first = 0
        for stage, depth in enumerate(depths):
            for i in range(depth):
                site = anatomy.select(f"stages[{stage}].blocks[{i}]")[0]
                assert site == anatomy.select(f"blocks[{first + i}]")[0]
            assert (
                anatomy.select(f"stages[{stage}].blocks[-1]")[0].role
                == f"blocks[{first + depth - 1}]"
            )
            first += depth
        assert first == len(anatomy.blocks)
        orders = [site.order for site in anatomy.select("blocks[*]")]
        assert orders == sorted(orders)


def test_stages_can_be_operated_on(images):
    import timm

    model = timm.create_model("convnext_atto").eval()
    images = torch.rand(1, 3, 64, 64)
    taken = []
    hook = model.stages[1].blocks[0].register_forward_hook(lambda m, a, out: taken.append(out))
    with torch.no_grad():
        model(images)
        hook.remove()
        recipe = Recipe() | Truncate("stages[1].blocks[0]")
        with surgeon.operate(model, recipe, input_size=(3, 64, 64)) as subject:
            assert torch.equal(subject.raw(images), taken[0])
        recipe = Recipe() | DropResidual("stages[2].blocks[*]", expect=6)
        with surgeon.operate(model, recipe, input_size=(3, 64, 64)) as subject:
            assert subject.plan.operations[0].count == 6


class Sized(nn.Module):
    """A block that is given and returns the size of its map beside its tokens."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x, size):
        assert size == (2, 3)
        return x + self.lin(x).relu(), size


def test_a_bypassed_block_returns_the_numbers_it_returned():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.blocks = nn.Conv2d(3, 4, 8, 8), nn.ModuleList(Sized() for _ in range(3))

        def forward(self, x):
            x = self.stem(x)
            x, size = x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])
            for block in self.blocks:
                x, size = block(x, size)
            return x.reshape(len(x), *size, 4)

    model, images = Model().eval(), torch.rand(2, 3, 16, 24)
    hand = copy.deepcopy(model).requires_grad_(False)  # as an operated model's: same kernels
    hand.blocks = hand.blocks[::2]
    with torch.no_grad(), surgeon.operate(
        model, Recipe() | Bypass("blocks[1]"), input_size=(3, 16, 24)
    ) as subject:  # fmt: skip
        assert torch.equal(subject.raw(images), hand(images))
