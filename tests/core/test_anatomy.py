"""Anatomy, found by looking: what is what in models of several kinds."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

import surgeon
from surgeon.anatomist.look import look, meta_copy
from surgeon.anatomist.record import plain_name, record
from surgeon.errors import AnatomyError
from surgeon.testing import assert_restores, tiny_vit

# name: (blocks, stages, residual adds, stem, head), counted by hand from the papers.
MODELS = {
    "torchvision/vit_b_32": (12, 1, 24, "conv_proj", "heads.head"),
    "torchvision/resnet50": (16, 4, 16, "conv1", "fc"),
    "torchvision/swin_t": (12, 4, 24, "features.0", "head"),
    "torchvision/convnext_tiny": (18, 4, 18, "features.0", "classifier.2"),
    "torchvision/maxvit_t": (11, 4, 55, "stem", "classifier.5"),
    "torchvision/mobilenet_v2": (17, 1, 10, "features.0", "classifier.1"),
    "torchvision/vgg11": (7, 1, 0, "features.0", "classifier.6"),
    "timm/vit_tiny_patch16_224": (12, 1, 24, "patch_embed", "head"),
    "timm/mixer_s32_224": (8, 1, 16, "stem", "head"),
    "timm/resmlp_12_224": (12, 1, 24, "stem", "head"),
    "timm/swin_tiny_patch4_window7_224": (12, 4, 24, "patch_embed", "head.fc"),
    "timm/beit_base_patch16_224": (12, 1, 24, "patch_embed", "head"),
    "timm/cait_xxs24_224": (26, 2, 52, "patch_embed", "head"),
    "timm/xcit_nano_12_p16_224": (14, 2, 40, "patch_embed", "head"),
    "timm/poolformer_s12": (12, 4, 24, "stem", "head.fc"),
    "timm/convnext_atto": (12, 4, 12, "stem", "head.fc"),
    "timm/efficientnet_b0": (16, 7, 9, "conv_stem", "classifier"),
    "timm/eva02_tiny_patch14_224": (12, 1, 24, "patch_embed", None),
    "timm/densenet121": (58, 4, 0, "features.conv0", "classifier"),
}


def meta(name):
    library, _, architecture = name.partition("/")
    with torch.device("meta"):
        if library == "timm":
            return timm.create_model(architecture)
        return torchvision.models.get_model(architecture)


@pytest.mark.parametrize("name", MODELS)
def test_counts_and_ends(name):
    blocks, stages, residuals, stem, head = MODELS[name]
    anatomy = look(meta(name), (3, 224, 224))
    assert len(anatomy.blocks) == blocks
    assert anatomy.blocks[-1].stage + 1 == stages
    assert len(anatomy.residuals) == residuals
    assert anatomy.reading.stem.path == stem
    assert [h.path for h in anatomy.reading.head] == ([head] if head else [])


def test_stem_is_reported_as_tokens_where_the_model_has_tokens():
    assert look(meta("torchvision/vit_b_32")).select("stem")[0].shape == (1, 49, 768)
    assert look(meta("torchvision/resnet50")).select("stem")[0].shape == (1, 64, 112, 112)


def test_norms_and_residuals_follow_the_order_of_execution():
    anatomy = look(meta("timm/xcit_nano_12_p16_224"))
    paths = [anatomy.select(f"blocks[0].norm{j}")[0].path for j in (1, 2, 3)]
    assert paths == ["blocks.0.norm1", "blocks.0.norm3", "blocks.0.norm2"]
    orders = [anatomy.select(f"blocks[0].residual{j}")[0].order for j in (1, 2, 3)]
    assert orders == sorted(orders)


def test_attention_and_mlp_by_what_they_do():
    anatomy = look(meta("timm/mixer_s32_224"))
    assert anatomy.select("blocks[0].attention")[0].path == "blocks.0.mlp_tokens"
    assert anatomy.select("blocks[0].mlp")[0].path == "blocks.0.mlp_channels"
    mixer = timm.models.mlp_mixer.MlpMixer(img_size=128, patch_size=32, embed_dim=16, num_blocks=2)
    square = look(mixer, (3, 128, 128))  # as many tokens as channels: sizes alone can't tell
    assert square.select("blocks[0].attention")[0].path == "blocks.0.mlp_tokens"


def test_a_sublayer_owns_its_mixer_and_layer_scale_but_no_norm():
    anatomy = look(meta("timm/cait_xxs24_224"))
    owned = anatomy.parameters_of(anatomy.select("blocks[0].attention")[0])
    assert "blocks.0.gamma_1" in owned
    assert "blocks.0.attn.qkv.weight" in owned
    assert not any("norm" in name or "gamma_2" in name for name in owned)


def test_stages_count_blocks_anew():
    anatomy = look(meta("timm/convnext_atto"))
    assert anatomy.select("stages[2].blocks[0]")[0].role == "blocks[4]"
    assert len(anatomy.select("stages[*].blocks[0]")) == 4
    assert [s.shape[1] for s in anatomy.select("stages[*]")] == [40, 80, 160, 320]


def test_fused_modules_are_marked_and_say_what_to_select():
    anatomy = look(meta("torchvision/vit_b_32"))
    path = "encoder.layers.encoder_layer_0.self_attention.out_proj"
    site = anatomy.select(path)[0]
    assert "never called" in site.blocked
    assert "encoder_layer_0.self_attention" in site.blocked
    assert "never called" in str(anatomy)


def test_a_module_called_twice_has_two_sites():
    anatomy = look(meta("torchvision/resnet50"), (3, 64, 64))
    assert [s.name for s in anatomy.select("layer1.0.relu")] == [
        "layer1.0.relu", "layer1.0.relu#1", "layer1.0.relu#2",
    ]  # fmt: skip
    assert anatomy.select("layer1.0.relu#2")[0].call == 2


def test_looking_leaves_the_model_alone(vit):
    vit.train()
    with assert_restores(vit):
        look(vit, (3, 16, 16))


def test_looking_at_an_operated_model_sees_it_as_it_was_built(vit):
    plain = look(tiny_vit(), (3, 16, 16))
    recipe = surgeon.Recipe() | surgeon.Bypass("blocks[0]") | surgeon.DropResidual("blocks[1]")
    with surgeon.operate(vit, recipe, input_size=(3, 16, 16)):
        again = record(meta_copy(vit), torch.empty(1, 3, 16, 16, device="meta"))
    assert again.ops == plain.graph.ops


def test_a_model_altered_between_looks_is_looked_at_anew(vit):
    assert len(look(vit, (3, 16, 16)).blocks) == 2
    vit.blocks = vit.blocks[:1]
    assert len(look(vit, (3, 16, 16)).blocks) == 1


def test_wrong_input_size(vit):
    with pytest.raises(AnatomyError, match="input_size"):
        look(vit, (3, 99, 99))


def test_values_needed_after_all():
    class Valued(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            x = self.layer(x)
            return x * float(x.detach().mean())

    anatomy = look(Valued(), (3, 8, 8))
    assert anatomy.reading.stem.path == "layer"


def test_one_add_of_another_kind_is_no_residual():
    class Rotary(nn.Module):
        """x cos + x' sin shares an ancestor but does no work: rotary positions."""

        def __init__(self):
            super().__init__()
            self.lift = nn.Linear(8, 8)
            self.register_buffer("cos", torch.rand(4, 8))

        def forward(self, x):
            x = self.lift(x.flatten(2).transpose(1, 2)[:, :4, :8])
            return x * self.cos + x.flip(-1) * (1 - self.cos)

    assert look(Rotary(), (8, 2, 4)).residuals == ()


def test_plain_names_fold_operators_and_in_place_forms():
    folded = [torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__iadd__]
    assert {plain_name(f) for f in folded} == {"add"}


def test_flops_are_counted():
    graph = look(meta("torchvision/vit_b_32")).graph
    assert graph.flops() == pytest.approx(
        2 * 4.409e9, rel=1e-3
    )  # 4.41 GMACs in torchvision's table
