"""Operations on real architectures give, bit for bit, what hand-written forwards give."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import timm
import torch
import torchvision
from oracles import (
    adds_of,
    blocks_of,
    module_surgery,
    no_fast_path,
    output_of,
    pass_block,
    plain_copy,
    run,
)
from safetensors.torch import save_file
from torch import nn

import surgeon
from surgeon import Ablate, Bypass, DropResidual, ModelSpec, Only, Recipe, Swap, Truncate
from surgeon.errors import PlanError, SelectionError

SIZE = (3, 224, 224)


@dataclass(frozen=True)
class Case:
    """One architecture, all figures counted by hand from its definition.

    Attributes:
        adds: residual adds in the whole model.
        stem, norm1: paths of the stem and of the first norm of block 0.
        first: the first block with a residual add.
        tokens: path of the final norm, where the head reads the class token alone.
    """

    name: str
    blocks: int
    adds: int
    stem: str
    norm1: str
    first: int = 0
    tokens: str = ""


# fmt: off
CASES = [
    Case("torchvision/vit_b_32", 12, 24, "conv_proj", "encoder.layers.encoder_layer_0.ln_1",
         tokens="encoder.ln"),
    Case("torchvision/resnet50", 3 + 4 + 6 + 3, 16, "conv1", "layer1.0.bn1"),
    Case("torchvision/swin_t", 2 + 2 + 6 + 2, 24, "features.0", "features.1.0.norm1"),
    Case("torchvision/convnext_tiny", 3 + 3 + 9 + 3, 18, "features.0", "features.1.0.block.2"),
    Case("torchvision/maxvit_t", 2 + 2 + 5 + 2, 11 * 5, "stem",
         "blocks.0.layers.0.layers.MBconv.layers.pre_norm"),
    Case("timm/vit_tiny_patch16_224", 12, 24, "patch_embed", "blocks.0.norm1", tokens="norm"),
    Case("timm/deit_tiny_patch16_224", 12, 24, "patch_embed", "blocks.0.norm1", tokens="norm"),
    Case("timm/mixer_s32_224", 8, 16, "stem", "blocks.0.norm1"),
    Case("timm/resmlp_12_224", 12, 24, "stem", "blocks.0.norm1"),
    Case("timm/swin_tiny_patch4_window7_224", 2 + 2 + 6 + 2, 24, "patch_embed",
         "layers.0.blocks.0.norm1"),
    Case("timm/beit_base_patch16_224", 12, 24, "patch_embed", "blocks.0.norm1"),
    Case("timm/cait_xxs24_224", 24 + 2, 52, "patch_embed", "blocks.0.norm1", tokens="norm"),
    Case("timm/xcit_nano_12_p16_224", 12 + 2, 12 * 3 + 2 * 2, "patch_embed", "blocks.0.norm1",
         tokens="norm"),
    Case("timm/poolformer_s12", 2 + 2 + 6 + 2, 24, "stem", "stages.0.blocks.0.norm1"),
    Case("timm/convnext_atto", 2 + 2 + 6 + 2, 12, "stem", "stages.0.blocks.0.norm"),
    # Stages of 1, 2, 2, 3, 3, 4, 1 blocks; the first of each has no skip.
    Case("timm/efficientnet_b0", 16, 1 + 1 + 2 + 2 + 3, "conv_stem", "blocks.0.0.bn1", first=2),
    Case("timm/eva02_tiny_patch14_224", 12, 24, "patch_embed", "blocks.0.norm1"),
]
# fmt: on
# Some of their tests take more than three seconds.
SLOW = {"torchvision/vit_b_32", "torchvision/maxvit_t", "timm/beit_base_patch16_224"}
BY_NAME = {case.name: case for case in CASES}

# class: numbers of its sublayers that mix tokens (or pixels), and of those that don't.
# Two sublayers, the mixing one first, where a class isn't named.
KINDS = {
    "Bottleneck": ({0}, set()),
    "CNBlock": ({0}, set()),
    "ConvNeXtBlock": ({0}, set()),
    "DepthwiseSeparableConv": ({0}, set()),
    "InvertedResidual": ({0}, set()),
    "MaxVitLayer": ({0, 1, 3}, {2, 4}),  # MBConv, window attention, MLP, grid attention, MLP
    "XCABlock": ({0, 1}, {2}),  # attention, local patch interaction, MLP
}


# --- models and images


def build(name, seed):
    """An untrained model, then every parameter and buffer moved away from its initial value."""
    library, _, architecture = name.partition("/")
    torch.manual_seed(seed)
    if library == "timm":
        model = timm.create_model(architecture)
    else:
        model = torchvision.models.get_model(architecture)
    perturb(model, seed)
    return model.eval()


@torch.no_grad()
def perturb(model, seed):
    """Noise on all weights, strong enough for what is in the images to reach the output.

    Vectors and tokens by 0.5, matrices and kernels by a gain of 2; running variances stay positive.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_floating_point():
            continue
        flat = tensor.shape[0] == 1 or tensor.numel() == max(tensor.shape)
        scale = 0.5 if flat else 2 * (tensor.shape[0] / tensor.numel()) ** 0.5
        tensor.add_(scale * torch.randn(tensor.shape, generator=generator))
        if name.endswith("running_var"):
            tensor.abs_().add_(3)


def seeded_images():
    """Noise on squares of other noise: two images that differ in the large and in the small."""
    generator = torch.Generator().manual_seed(7)
    squares = torch.randn(2, 3, 7, 7, generator=generator)
    squares = squares.repeat_interleave(32, 2).repeat_interleave(32, 3)
    return squares + torch.randn(2, *SIZE, generator=generator)


@dataclass(frozen=True)
class Held:
    """A model held in hand."""

    case: Case
    model: nn.Module
    images: torch.Tensor


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.name in SLOW else [])
        for c in CASES
    ],
)
def held(request):
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        return Held(request.param, build(request.param.name, seed=1), seeded_images())


@pytest.fixture(autouse=True)
def _one_thread(_torch_as_it_was):
    """Two threads on two busy cores wait for each other: ten times slower."""
    torch.set_num_threads(1)


def only_of(*names):
    """The same fixture for some models."""
    return pytest.mark.parametrize("held", [BY_NAME[n] for n in names], indirect=True, ids=names)


# --- operating and comparing


def operated(held, recipe):
    """The operated output; the model is then as it was."""
    before = surgeon.fingerprint(held.model)
    with torch.no_grad(), surgeon.operate(held.model, recipe, input_size=SIZE) as subject:
        out = subject.raw(held.images)
    assert not before.difference(surgeon.fingerprint(held.model))
    return out


def assert_exact(held, recipe, expected, *, tells=True):
    """The operated output equals an oracle's, which tells the two images apart."""
    assert torch.isfinite(expected).all()
    apart = (expected[0] - expected[1]).abs().max() / expected.abs().max()
    assert apart > 1e-4 if tells else apart == 0
    out = operated(held, recipe)
    assert out.shape == expected.shape
    assert torch.equal(out, expected), f"largest difference {(out - expected).abs().max():.3g}"


def by_hand(held, edits):
    with torch.no_grad():
        return run(module_surgery(held.model, edits), held.images)


def everywhere(held, kind):
    """Edits that bypass the sublayers of a kind in every block: 0 the mixing ones, 1 the others."""
    edits = {}
    for index, block in enumerate(blocks_of(held.model)):
        numbers = KINDS.get(type(block).__name__, ({0}, {1}))[kind]
        edits[index] = {"bypass": numbers & adds_of(block)}
    return edits


def count(held, recipe):
    return surgeon.plan(held.model, recipe, input_size=SIZE).operations[0].count


# --- the tests


def test_oracle_without_edits_is_the_model(held):
    blocks = blocks_of(held.model)
    assert len(blocks) == held.case.blocks
    assert sum(len(adds_of(block)) for block in blocks) == held.case.adds
    with torch.no_grad():
        expected = run(plain_copy(held.model), held.images)
    assert torch.equal(by_hand(held, {i: {} for i in range(len(blocks))}), expected)


def test_drop_every_residual(held):
    recipe = Recipe() | DropResidual("blocks[*]")
    edits = {i: {"drop": adds_of(b)} for i, b in enumerate(blocks_of(held.model))}
    assert count(held, recipe) == held.case.adds
    assert_exact(held, recipe, by_hand(held, edits))


def test_drop_one_residual(held):
    recipe = Recipe() | DropResidual(f"blocks[{held.case.first}].residual1")
    assert count(held, recipe) == 1
    assert_exact(held, recipe, by_hand(held, {held.case.first: {"drop": {0}}}))


@pytest.mark.parametrize(("role", "kind"), [("attention", 0), ("mlp", 1)])
def test_bypass_sublayers(held, role, kind):
    recipe = Recipe() | Bypass(f"blocks[*].{role}")
    edits = everywhere(held, kind)
    if not any(edit["bypass"] for edit in edits.values()):
        with pytest.raises(SelectionError):
            surgeon.plan(held.model, recipe, input_size=SIZE)
        return
    assert count(held, recipe) == sum(len(edit["bypass"]) for edit in edits.values())
    blind = bool(held.case.tokens) and role == "attention"  # the class token sees no patch
    assert_exact(held, recipe, by_hand(held, edits), tells=not blind)
    if blind:
        patched = module_surgery(held.model, edits)
        with torch.no_grad():
            expected = output_of(patched, patched.get_submodule(held.case.tokens), held.images)
        assert_exact(held, recipe | Truncate("final_norm"), expected)


def test_bypass_norm(held):
    patched = plain_copy(held.model)
    patched.set_submodule(held.case.norm1, nn.Identity())
    with torch.no_grad():
        expected = run(patched, held.images)
    assert_exact(held, Recipe() | Bypass("blocks[0].norm1"), expected)


@only_of("torchvision/resnet50")
def test_bypass_passes_the_projection(held):
    recipe = Recipe() | Bypass("blocks[3].sublayers[0]")
    assert_exact(held, recipe, by_hand(held, {3: {"bypass": {0}}}))


@only_of(
    "timm/vit_tiny_patch16_224", "timm/beit_base_patch16_224", "timm/xcit_nano_12_p16_224",
    "torchvision/swin_t", "timm/mixer_s32_224",
)  # fmt: skip
def test_ablate_to_zero_adds_nothing(held):
    """x + 0 is x: the same as the sublayer bypassed, though its branch is computed."""
    recipe = Recipe() | Ablate("blocks[*].mlp")
    assert_exact(held, recipe, by_hand(held, everywhere(held, 1)))


@pytest.mark.parametrize("held", [
    BY_NAME[n] for n in ("torchvision/vit_b_32", "timm/deit_tiny_patch16_224",
                         "timm/eva02_tiny_patch14_224")
], indirect=True, ids=lambda case: case.name)  # fmt: skip
@pytest.mark.parametrize("operation", [Bypass("pos_embed"), Ablate("pos_embed")], ids=str)
def test_without_the_position_embedding(held, operation):
    patched = plain_copy(held.model)
    for name, parameter in patched.named_parameters():
        if name.rpartition(".")[2] in ("pos_embed", "pos_embedding"):
            parameter.zero_()
    with torch.no_grad():
        expected = run(patched, held.images)
    assert_exact(held, Recipe() | operation, expected)


@pytest.mark.parametrize("index", [1, -1])
def test_truncate_at_a_block(held, index):
    patched = plain_copy(held.model)
    with torch.no_grad():
        expected = output_of(patched, blocks_of(patched)[index], held.images)
    assert_exact(held, Recipe() | Truncate(f"blocks[{index}]"), expected)


def test_truncate_at_the_stem(held):
    patched = plain_copy(held.model)
    with torch.no_grad():
        if held.case.name == "torchvision/vit_b_32":
            expected = patched._process_input(held.images)
        else:
            expected = output_of(patched, patched.get_submodule(held.case.stem), held.images)
    assert_exact(held, Recipe() | Truncate("stem"), expected)


@pytest.mark.parametrize("index", [1, -1])
def test_only(held, index):
    recipe = Recipe() | Only(f"blocks[{index}]")
    if held.case.first > 0:  # blocks without a skip that change the shape
        with pytest.raises(PlanError):
            surgeon.plan(held.model, recipe, input_size=SIZE)
        return
    patched = plain_copy(held.model)
    blocks = blocks_of(patched)
    for block in blocks[: index % len(blocks)]:
        pass_block(block)
    with torch.no_grad():
        expected = output_of(patched, blocks[index], held.images)
    assert_exact(held, recipe, expected)


def test_swap(held, tmp_path):
    with torch.random.fork_rng(devices=[]):
        other = build(held.case.name, seed=2)
    file = tmp_path / "donor.safetensors"
    save_file(other.state_dict(), file)
    donors = {"d": ModelSpec(held.case.name, weights=str(file))}
    for site, path in (("stem", held.case.stem), ("blocks[0].norm1", held.case.norm1)):
        patched = plain_copy(held.model)
        patched.get_submodule(path).load_state_dict(other.get_submodule(path).state_dict())
        with torch.no_grad():
            expected = run(patched, held.images)
        assert_exact(held, Recipe(donors=donors) | Swap(site, donor="d"), expected)
    file.unlink()  # up to 350 MB, and pytest keeps its folders


# --- gradients


def gradient(forward, images):
    """Of a fixed random weighting of the output, with respect to the images."""
    x = images.clone().requires_grad_()
    out = forward(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((out * weights).sum(), x)[0]


@only_of("timm/vit_tiny_patch16_224", "torchvision/resnet50", "timm/cait_xxs24_224")
def test_gradient_to_the_input(held):
    edits = {i: {"drop": adds_of(b)} for i, b in enumerate(blocks_of(held.model))}
    patched = module_surgery(held.model, edits)
    with no_fast_path():
        expected = gradient(patched, held.images)
    before = surgeon.fingerprint(held.model)
    recipe = Recipe() | DropResidual("blocks[*]")
    with surgeon.operate(held.model, recipe, input_size=SIZE) as subject:
        found = gradient(subject.raw, held.images)
    assert not before.difference(surgeon.fingerprint(held.model))
    assert expected.abs().max() > 0
    assert torch.equal(found, expected)
