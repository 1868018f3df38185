"""Donors of another shape, another library, another layout."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.layers import (
    resample_abs_pos_embed,
    resample_abs_pos_embed_nhwc,
    resample_patch_embed,
    resize_rel_pos_bias_table,
)
from torch import nn

import surgeon
from surgeon import ModelSpec, Recipe, Swap
from surgeon.errors import PlanError
from surgeon.sources import load_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:timm")  # of torch's, at timm

TINY = {"embed_dim": 48, "depth": 2, "num_heads": 3}


def swapped(name, site, donor, **options):
    """State of the operated model, the plan, and the donor's own state."""
    recipe = Recipe(ModelSpec(name, options=options), donors={"d": donor}) | Swap(site, donor="d")
    model = recipe.load()
    before = surgeon.fingerprint(model, full=True)
    with surgeon.operate(model, recipe) as subject:
        state = {n: t.clone() for n, t in model.state_dict().items()}
        with torch.no_grad():
            subject(torch.rand(1, *subject.anatomy.input_size))
        plan = subject.plan
    assert not before.difference(surgeon.fingerprint(model, full=True))
    return state, plan, load_model(donor).state_dict()


def vit(name="timm/vit_tiny_patch16_224", seed=5, **options):
    return ModelSpec(name, seed=seed, options={**TINY, **options})


# --- position embeddings


def test_positions_of_another_grid_are_resampled_and_the_plan_says_so():
    state, plan, theirs = swapped(
        "timm/vit_tiny_patch16_224", "pos_embed", vit(), img_size=96, **TINY
    )
    expected = resample_abs_pos_embed(theirs["pos_embed"], [6, 6], [14, 14], num_prefix_tokens=1)
    assert torch.equal(state["pos_embed"], expected)
    assert "resampled: pos_embed from 1x197x48 to 1x37x48" in str(plan)


def test_positions_of_a_grid_that_is_not_square():
    donor = vit(img_size=(64, 128))
    state, _, theirs = swapped("timm/vit_tiny_patch16_224", "pos_embed", donor, img_size=96, **TINY)
    expected = resample_abs_pos_embed(theirs["pos_embed"], [6, 6], [4, 8], num_prefix_tokens=1)
    assert torch.equal(state["pos_embed"], expected)


def test_positions_without_prefix_tokens():
    options = {"class_token": False, "global_pool": "avg"}
    state, _, theirs = swapped(
        "timm/vit_tiny_patch16_224", "pos_embed", vit(**options), img_size=64, **options, **TINY
    )
    expected = resample_abs_pos_embed(theirs["pos_embed"], [4, 4], num_prefix_tokens=0)
    assert torch.equal(state["pos_embed"], expected)


def test_a_token_to_which_the_donor_gives_no_position_gets_none():
    donor = vit(no_embed_class=True)
    state, _, theirs = swapped(
        "timm/vit_tiny_patch16_224", "pos_embed", donor, img_size=224, **TINY
    )
    assert theirs["pos_embed"].shape == (1, 196, 48)
    assert torch.equal(state["pos_embed"][:, :1], torch.zeros(1, 1, 48))
    assert torch.equal(state["pos_embed"][:, 1:], theirs["pos_embed"])


def test_positions_of_class_and_register_tokens_stay_in_front():
    donor = vit(
        "timm/vit_small_patch14_reg4_dinov2", img_size=56, reg_tokens=4, no_embed_class=False
    )
    state, _, theirs = swapped(
        "timm/vit_small_patch14_reg4_dinov2", "pos_embed", donor,
        img_size=84, reg_tokens=4, no_embed_class=False, **TINY,
    )  # fmt: skip
    expected = resample_abs_pos_embed(theirs["pos_embed"], [6, 6], [4, 4], num_prefix_tokens=5)
    assert torch.equal(state["pos_embed"], expected)
    assert torch.equal(state["pos_embed"][:, :5], theirs["pos_embed"][:, :5])


def test_positions_as_a_map():
    options = {
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 3,
        "global_attn_indexes": (),
        "use_abs_pos": True,
    }
    donor = ModelSpec("timm/samvit_base_patch16_224", seed=5, options={**options, "img_size": 96})
    state, _, theirs = swapped(
        "timm/samvit_base_patch16_224", "pos_embed", donor, img_size=64, **options
    )
    assert torch.equal(state["pos_embed"], resample_abs_pos_embed_nhwc(theirs["pos_embed"], [4, 4]))


def test_a_file_of_another_image_size_than_the_donor_it_is_said_to_be(tmp_path):
    big = load_model(vit(img_size=160)).state_dict()
    save_file(big, tmp_path / "big.safetensors")
    donor = ModelSpec("timm/vit_tiny_patch16_224", str(tmp_path / "big.safetensors"), options=TINY)
    recipe = Recipe(vit(img_size=96), donors={"d": donor}) | Swap("pos_embed", donor="d")
    model = recipe.load()
    with surgeon.operate(model, recipe):
        expected = resample_abs_pos_embed(big["pos_embed"], [6, 6], [10, 10], num_prefix_tokens=1)
        assert torch.equal(model.pos_embed, expected)


# --- relative position tables

SWIN = {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 6)}


def test_relative_tables_of_another_window():
    donor = ModelSpec(
        "timm/swin_tiny_patch4_window7_224", seed=5,
        options={**SWIN, "window_size": 4, "img_size": 128},
    )  # fmt: skip
    state, plan, theirs = swapped(
        "timm/swin_tiny_patch4_window7_224", "blocks[0].attention", donor, **SWIN
    )
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert theirs[name].shape == (49, 1)
    expected = resize_rel_pos_bias_table(theirs[name], (7, 7), (169, 1))
    assert torch.equal(state[name], expected)
    assert torch.equal(
        state["layers.0.blocks.0.attn.qkv.weight"], theirs["layers.0.blocks.0.attn.qkv.weight"]
    )
    assert "resampled" in str(plan)


def test_relative_tables_with_rows_for_the_class_token():
    options = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    donor = ModelSpec("timm/beit_base_patch16_224", seed=5, options={**options, "img_size": 96})
    state, _, theirs = swapped(
        "timm/beit_base_patch16_224", "blocks[1].attention", donor, img_size=64, **options
    )
    name = "blocks.1.attn.relative_position_bias_table"
    assert (theirs[name].shape, state[name].shape) == ((124, 3), (52, 3))
    assert torch.equal(state[name], resize_rel_pos_bias_table(theirs[name], (4, 4), (52, 3)))
    assert torch.equal(state[name][-3:], theirs[name][-3:])


# --- first layers


@pytest.mark.parametrize(("here", "there"), [(8, 16), (16, 8)])
def test_patches_of_another_size(here, there):
    donor = vit(patch_size=there, img_size=64)
    state, _, theirs = swapped(
        "timm/vit_tiny_patch16_224", "stem", donor, patch_size=here, img_size=64, **TINY
    )
    expected = resample_patch_embed(theirs["patch_embed.proj.weight"], [here, here])
    assert torch.equal(state["patch_embed.proj.weight"], expected)


def test_a_colour_donor_for_grey_answers_alike_on_grey_pictures():
    donor = ModelSpec("timm/resnet18", seed=5)
    state, _, theirs = swapped("timm/resnet18", "stem", donor, in_chans=1)
    grey = torch.rand(2, 1, 32, 32)
    ours = nn.functional.conv2d(grey, state["conv1.weight"], stride=2, padding=3)
    full = nn.functional.conv2d(
        grey.expand(-1, 3, -1, -1), theirs["conv1.weight"], stride=2, padding=3
    )
    torch.testing.assert_close(ours, full)


def test_a_grey_donor_for_colour_answers_alike_on_grey_pictures():
    donor = ModelSpec("timm/resnet18", seed=5, options={"in_chans": 1})
    state, _, theirs = swapped("timm/resnet18", "stem", donor)
    grey = torch.rand(2, 1, 32, 32)
    ours = nn.functional.conv2d(
        grey.expand(-1, 3, -1, -1), state["conv1.weight"], stride=2, padding=3
    )
    torch.testing.assert_close(
        ours, nn.functional.conv2d(grey, theirs["conv1.weight"], stride=2, padding=3)
    )


@pytest.mark.parametrize(
    ("name", "site", "donor", "options", "shapes"),
    [
        ("timm/vit_tiny_patch16_224", "pos_embed", vit(embed_dim=24), TINY,
         ("1x197x24", "1x197x48")),
        ("timm/vit_tiny_patch16_224", "stem", vit(in_chans=5), TINY, ("48x5x16x16", "48x3x16x16")),
        ("timm/vit_tiny_patch16_224", "blocks[0].mlp", vit(embed_dim=24), TINY,
         ("96x24", "192x48")),
        ("timm/resnet18", "stem", ModelSpec("timm/mobilenetv3_small_050"), {},
         ("16x3x3x3", "64x3x7x7")),
        ("timm/resnet18", "stem", ModelSpec("timm/resnet18", options={"in_chans": 5}), {},
         ("64x5x7x7", "64x3x7x7")),
        ("timm/swin_tiny_patch4_window7_224", "blocks[0].attention",
         ModelSpec("timm/swin_tiny_patch4_window7_224",
                   options={**SWIN, "num_heads": (2, 2, 3, 6)}),
         SWIN, ("169x2", "169x1")),
        ("timm/vit_tiny_patch16_224", "pos_embed", vit(),
         {**TINY, "no_embed_class": True}, ("1x197x48", "1x196x48")),
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_both_shapes(name, site, donor, options, shapes):
    recipe = Recipe(ModelSpec(name, options=options), donors={"d": donor}) | Swap(site, donor="d")
    with pytest.raises(PlanError) as error:
        surgeon.plan(surgeon.sources.meta_model(recipe.model), recipe)
    assert str(error.value).count("\n") == 2
    for shape in shapes:
        assert shape in str(error.value)


# --- across libraries


EVERYTHING = ["stem", "class_token", "pos_embed", "blocks[*]", "final_norm", "head"]


@pytest.mark.parametrize("ours", ["timm", "torchvision"])
def test_a_vit_of_the_other_library_answers_alike(ours, tmp_path, monkeypatch):
    """All roles swapped: then it is the donor, as far as the two libraries' kernels agree."""
    sizes = {**TINY, "patch_size": 8, "img_size": 32}
    theirs = torchvision.models.VisionTransformer(32, 8, 2, 3, 48, 192, num_classes=10)
    twin = timm.create_model("vit_tiny_patch16_224", num_classes=10, **sizes)
    for model in (theirs, twin):
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    donor, model = (theirs, twin) if ours == "timm" else (twin, theirs)
    shelf = Held(donor.eval())
    recipe = Recipe(donors={"d": "timm/test_vit"}) | Swap(EVERYTHING, donor="d")
    images = torch.rand(2, 3, 32, 32)
    with surgeon.operate(model, recipe, input_size=(3, 32, 32), donors=shelf) as subject:
        with torch.no_grad():
            torch.testing.assert_close(subject.raw(images), donor(images), rtol=1e-4, atol=1e-5)


class Held:
    """A shelf with one donor that is held, not built."""

    def __init__(self, model):
        from surgeon.donors import Donor
        from surgeon.weights import store_of

        self.donor = Donor("d", ModelSpec("held/model"))
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.donor.store = store_of({n: t.detach() for n, t in tensors.items()}, "held")
        self.donor.anatomy = surgeon.anatomy(model, (3, 32, 32))

    def tensors(self, donor, site, anatomy):
        names = self.donor.names_for(site, anatomy)
        return {own: self.donor.source(theirs, own, anatomy) for own, theirs in names.items()}


# --- checkpoints of another layout


def test_a_checkpoint_of_the_original_layout_goes_through_timms_loader(tmp_path):
    """DINOv2's own files hold a mask token, which timm's models don't have."""
    spec = ModelSpec("timm/vit_small_patch14_dinov2", seed=5, options={**TINY, "img_size": 56})
    own = load_model(spec).state_dict()
    original = {**own, "mask_token": torch.zeros(1, 48)}
    path = tmp_path / "dinov2.safetensors"
    save_file(original, path)
    loaded = load_model(ModelSpec(spec.name, str(path), options=spec.options)).state_dict()
    assert all(torch.equal(loaded[n], own[n]) for n in own)


def test_openais_clip_names_go_through_timms_loader(tmp_path):
    """All names are other ones, positions and tokens of other ranks; as a donor and as weights."""
    spec = ModelSpec(
        "timm/vit_base_patch32_clip_quickgelu_224", seed=5, options={**TINY, "img_size": 64}
    )
    own = load_model(spec).state_dict()
    names = {
        "patch_embed.proj": "conv1", "norm_pre": "ln_pre", "blocks.": "transformer.resblocks.",
        "attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj", "norm1": "ln_1", "norm2": "ln_2", "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
    }  # fmt: skip
    original = {}
    for name, tensor in own.items():
        if name == "head.bias":
            continue
        if name == "head.weight":
            original["visual.proj"] = tensor.T.contiguous()
            continue
        tensor = (
            tensor[0, 0] if name == "cls_token" else tensor[0] if name == "pos_embed" else tensor
        )
        name = "ln_post" + name[4:] if name.startswith("norm.") else name
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        original["visual." + name] = tensor.clone()
    path = tmp_path / "clip.safetensors"
    save_file(original, path)
    given = ModelSpec(spec.name, str(path), options=spec.options)
    loaded = load_model(given).state_dict()
    assert all(torch.equal(loaded[n], own[n]) for n in own if n != "head.bias")
    recipe = Recipe(ModelSpec(spec.name, options=spec.options), donors={"d": given})
    recipe = recipe | Swap("blocks[1].attention", donor="d")
    model = recipe.load()
    with surgeon.operate(model, recipe):
        assert torch.equal(model.blocks[1].attn.qkv.weight, own["blocks.1.attn.qkv.weight"])


def test_an_old_checkpoint_goes_through_torchvisions_loader(tmp_path):
    own = load_model(ModelSpec("torchvision/densenet121", seed=5)).state_dict()
    old = {
        n.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.").replace("conv2.", "conv.2.")
        if "denselayer" in n else n: t
        for n, t in own.items() if not n.endswith("num_batches_tracked")
    }  # fmt: skip
    path = tmp_path / "old.safetensors"
    save_file(old, path)
    loaded = load_model(ModelSpec("torchvision/densenet121", str(path))).state_dict()
    assert all(torch.equal(loaded[n], own[n]) for n in own)
    donors = {"d": ModelSpec("torchvision/densenet121", str(path))}
    recipe = Recipe("torchvision/densenet121", donors=donors) | Swap("blocks[3]", donor="d")
    model = recipe.load()
    with surgeon.operate(model, recipe):
        name = "features.denseblock1.denselayer4.conv1.weight"
        assert torch.equal(model.state_dict()[name], own[name])
