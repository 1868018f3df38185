"""Slow, plain oracles: what an operated model must compute, written out block by block by hand.

Nothing here knows surgeon. Each `forward` copies the computation of one block class of torchvision
or timm, same kernels in the same order, so that results are equal bit for bit. `drop` holds the
numbers (from 0, in order of execution) of the residual adds that pass their branch alone, `bypass`
those of the sublayers where the stream flows past branch and norm.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import partial
from types import MethodType

import torch
from timm.models import (
    _efficientnet_blocks,
    beit,
    cait,
    convnext,
    eva,
    metaformer,
    mlp_mixer,
    swin_transformer,
    xcit,
)
from timm.models import vision_transformer as timm_vit
from torch import nn
from torchvision.models import convnext as tv_convnext
from torchvision.models import maxvit as tv_maxvit
from torchvision.models import resnet as tv_resnet
from torchvision.models import swin_transformer as tv_swin
from torchvision.models import vision_transformer as tv_vit

NONE = frozenset()


def sublayer(number, x, branch, drop, bypass):
    """`x + branch(x)`, the branch alone, or the stream alone."""
    if number in bypass:
        return x
    if number in drop:
        return branch(x)
    return x + branch(x)


# --- torchvision


def tv_encoder_block(block, x, drop=NONE, bypass=NONE):
    if 0 not in bypass:
        y = block.ln_1(x)
        y, _ = block.self_attention(y, y, y, need_weights=False)
        y = block.dropout(y)
        x = y if 0 in drop else y + x
    return sublayer(1, x, lambda x: block.mlp(block.ln_2(x)), drop, bypass)


def tv_bottleneck(block, x, drop=NONE, bypass=NONE):
    identity = x if block.downsample is None else block.downsample(x)
    if 0 in bypass:
        return torch.relu(identity)
    out = block.relu(block.bn1(block.conv1(x)))
    out = block.relu(block.bn2(block.conv2(out)))
    out = block.bn3(block.conv3(out))
    if 0 not in drop:
        out += identity
    return block.relu(out)


def tv_swin_block(block, x, drop=NONE, bypass=NONE):
    depth = block.stochastic_depth
    x = sublayer(0, x, lambda x: depth(block.attn(block.norm1(x))), drop, bypass)
    return sublayer(1, x, lambda x: depth(block.mlp(block.norm2(x))), drop, bypass)


def tv_cnblock(block, x, drop=NONE, bypass=NONE):
    if 0 in bypass:
        return x
    result = block.layer_scale * block.block(x)
    result = block.stochastic_depth(result)
    if 0 not in drop:
        result += x
    return result


def tv_mbconv(block, x, drop=NONE, bypass=NONE):
    res = block.proj(x)
    if 0 in bypass:
        return res
    x = block.stochastic_depth(block.layers(x))
    return x if 0 in drop else res + x


def tv_partition_attention(block, x, drop=NONE, bypass=NONE):
    rows, columns = block.grid_size[0] // block.p, block.grid_size[1] // block.p
    depth = block.stochastic_dropout
    x = block.partition_swap(block.partition_op(x, block.p))
    x = sublayer(0, x, lambda x: depth(block.attn_layer(x)), drop, bypass)
    x = sublayer(1, x, lambda x: depth(block.mlp_layer(x)), drop, bypass)
    return block.departition_op(block.departition_swap(x), block.p, rows, columns)


# --- timm


def vit_block(block, x, attn_mask=None, is_causal=False, drop=NONE, bypass=NONE):
    def attention(x):
        x = block.attn(block.norm1(x), attn_mask=attn_mask, is_causal=is_causal)
        return block.drop_path1(block.ls1(x))

    def mlp(x):
        return block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    x = sublayer(0, x, attention, drop, bypass)
    return sublayer(1, x, mlp, drop, bypass)


def mixer_block(block, x, drop=NONE, bypass=NONE):
    def tokens(x):
        x = block.mlp_tokens(block.norm1(x).transpose(1, 2)).transpose(1, 2)
        return block.drop_path(x)

    x = sublayer(0, x, tokens, drop, bypass)
    return sublayer(
        1, x, lambda x: block.drop_path(block.mlp_channels(block.norm2(x))), drop, bypass
    )


def resmlp_block(block, x, drop=NONE, bypass=NONE):
    def tokens(x):
        x = block.linear_tokens(block.norm1(x).transpose(1, 2)).transpose(1, 2)
        return block.drop_path(block.ls1 * x)

    def channels(x):
        return block.drop_path(block.ls2 * block.mlp_channels(block.norm2(x)))

    x = sublayer(0, x, tokens, drop, bypass)
    return sublayer(1, x, channels, drop, bypass)


def swin_block(block, x, drop=NONE, bypass=NONE):
    batch, height, width, channels = x.shape
    x = sublayer(0, x, lambda x: block.drop_path1(block._attn(block.norm1(x))), drop, bypass)
    x = x.reshape(batch, -1, channels)
    x = sublayer(1, x, lambda x: block.drop_path2(block.mlp(block.norm2(x))), drop, bypass)
    return x.reshape(batch, height, width, channels)


def beit_block(block, x, shared_rel_pos_bias=None, drop=NONE, bypass=NONE):
    def attention(x):
        x = block.attn(block.norm1(x), shared_rel_pos_bias=shared_rel_pos_bias)
        return block.drop_path1(x if block.gamma_1 is None else block.gamma_1 * x)

    def mlp(x):
        x = block.mlp(block.norm2(x))
        return block.drop_path2(x if block.gamma_2 is None else block.gamma_2 * x)

    x = sublayer(0, x, attention, drop, bypass)
    return sublayer(1, x, mlp, drop, bypass)


def cait_block(block, x, drop=NONE, bypass=NONE):
    def attention(x):
        return block.drop_path(block.gamma_1 * block.attn(block.norm1(x)))

    def mlp(x):
        return block.drop_path(block.gamma_2 * block.mlp(block.norm2(x)))

    x = sublayer(0, x, attention, drop, bypass)
    return sublayer(1, x, mlp, drop, bypass)


def cait_class_block(block, x, x_cls, drop=NONE, bypass=NONE):
    both = torch.cat((x_cls, x), dim=1)

    def attention(_):
        return block.drop_path(block.gamma_1 * block.attn(block.norm1(both)))

    def mlp(x_cls):
        return block.drop_path(block.gamma_2 * block.mlp(block.norm2(x_cls)))

    x_cls = sublayer(0, x_cls, attention, drop, bypass)
    return sublayer(1, x_cls, mlp, drop, bypass)


def xca_block(block, x, height, width, drop=NONE, bypass=NONE):
    def attention(x):
        return block.drop_path1(block.gamma1 * block.attn(block.norm1(x)))

    def local(x):
        return block.drop_path3(block.gamma3 * block.local_mp(block.norm3(x), height, width))

    def mlp(x):
        return block.drop_path2(block.gamma2 * block.mlp(block.norm2(x)))

    x = sublayer(0, x, attention, drop, bypass)
    x = sublayer(1, x, local, drop, bypass)
    return sublayer(2, x, mlp, drop, bypass)


def xcit_class_block(block, x, drop=NONE, bypass=NONE):
    """Its second norm is on the stream itself, before the skip parts: a bypass leaves it."""

    def attention(x):
        normed = block.norm1(x)
        attended = torch.cat([block.attn(normed), normed[:, 1:]], dim=1)
        return block.drop_path1(block.gamma1 * attended)

    def mlp(x):
        token = block.gamma2 * block.mlp(x[:, 0:1])
        return block.drop_path2(torch.cat([token, x[:, 1:]], dim=1))

    x = sublayer(0, x, attention, drop, bypass)
    if block.tokens_norm:
        x = block.norm2(x)
    else:
        x = torch.cat([block.norm2(x[:, 0:1]), x[:, 1:]], dim=1)
    return sublayer(1, x, mlp, drop, bypass)


def metaformer_block(block, x, drop=NONE, bypass=NONE):
    if 0 in bypass:
        x = block.res_scale1(x)
    else:
        y = block.layer_scale1(block.drop_path1(block.token_mixer(block.norm1(x))))
        x = y if 0 in drop else block.res_scale1(x) + y
    if 1 in bypass:
        return block.res_scale2(x)
    y = block.layer_scale2(block.drop_path2(block.mlp(block.norm2(x))))
    return y if 1 in drop else block.res_scale2(x) + y


def convnext_block(block, x, drop=NONE, bypass=NONE):
    if 0 in bypass:
        return block.shortcut(x)
    shortcut = x
    x = block.conv_dw(x)
    if block.use_conv_mlp:
        x = block.mlp(block.norm(x))
    else:
        x = block.mlp(block.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    if block.gamma is not None:
        x = x.mul(block.gamma.reshape(1, -1, 1, 1))
    x = block.drop_path(x)
    return x if 0 in drop else x + block.shortcut(shortcut)


def depthwise_separable(block, x, drop=NONE, bypass=NONE):
    if 0 in bypass and block.has_skip:
        return x
    shortcut = x
    if block.conv_s2d is not None:
        x = block.bn_s2d(block.conv_s2d(x))
    x = block.se(block.aa(block.bn1(block.conv_dw(x))))
    x = block.bn2(block.conv_pw(x))
    if not block.has_skip:
        return x
    x = block.drop_path(x)
    return x if 0 in drop else x + shortcut


def inverted_residual(block, x, drop=NONE, bypass=NONE):
    if 0 in bypass and block.has_skip:
        return x
    shortcut = x
    if block.conv_s2d is not None:
        x = block.bn_s2d(block.conv_s2d(x))
    x = block.bn1(block.conv_pw(x))
    x = block.se(block.aa(block.bn2(block.conv_dw(x))))
    x = block.bn3(block.conv_pwl(x))
    if not block.has_skip:
        return x
    x = block.drop_path(x)
    return x if 0 in drop else x + shortcut


def eva_block(block, x, rope=None, attn_mask=None, is_causal=False, drop=NONE, bypass=NONE):
    def attention(x):
        x = block.attn(block.norm1(x), rope=rope, attn_mask=attn_mask, is_causal=is_causal)
        return block.drop_path1(x if block.gamma_1 is None else block.gamma_1 * x)

    def mlp(x):
        x = block.mlp(block.norm2(x))
        return block.drop_path2(x if block.gamma_2 is None else block.gamma_2 * x)

    x = sublayer(0, x, attention, drop, bypass)
    return sublayer(1, x, mlp, drop, bypass)


# class: (its forward by hand, residual adds in it)
FORWARDS = {
    tv_vit.EncoderBlock: (tv_encoder_block, 2),
    tv_resnet.Bottleneck: (tv_bottleneck, 1),
    tv_swin.SwinTransformerBlock: (tv_swin_block, 2),
    tv_convnext.CNBlock: (tv_cnblock, 1),
    tv_maxvit.MBConv: (tv_mbconv, 1),
    tv_maxvit.PartitionAttentionLayer: (tv_partition_attention, 2),
    timm_vit.Block: (vit_block, 2),
    mlp_mixer.MixerBlock: (mixer_block, 2),
    mlp_mixer.ResBlock: (resmlp_block, 2),
    swin_transformer.SwinTransformerBlock: (swin_block, 2),
    beit.Block: (beit_block, 2),
    cait.LayerScaleBlock: (cait_block, 2),
    cait.LayerScaleBlockClassAttn: (cait_class_block, 2),
    xcit.XCABlock: (xca_block, 3),
    xcit.ClassAttentionBlock: (xcit_class_block, 2),
    metaformer.MetaFormerBlock: (metaformer_block, 2),
    convnext.ConvNeXtBlock: (convnext_block, 1),
    _efficientnet_blocks.DepthwiseSeparableConv: (depthwise_separable, 1),
    _efficientnet_blocks.InvertedResidual: (inverted_residual, 1),
    eva.EvaBlock: (eva_block, 2),
}

# What counts as one block: the classes above, but a whole MaxVitLayer instead of its three parts.
BLOCKS = {*FORWARDS, tv_maxvit.MaxVitLayer} - {tv_maxvit.MBConv, tv_maxvit.PartitionAttentionLayer}


# --- module surgery


def blocks_of(model):
    """Blocks in order of definition, which is the order of execution in all models here."""
    return [module for module in model.modules() if type(module) in BLOCKS]


def adds_of(block):
    """Numbers of all residual adds of a block."""
    return frozenset(range(sum(FORWARDS[type(part)][1] for part in parts_of(block))))


def parts_of(block):
    """The modules of a block that add residuals."""
    if isinstance(block, tv_maxvit.MaxVitLayer):
        return [block.layers.MBconv, block.layers.window_attention, block.layers.grid_attention]
    return [block] if getattr(block, "has_skip", True) else []


def plain_copy(model):
    """A copy that runs as an operated model does: evaluating, weights frozen."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def edit_block(block, drop=NONE, bypass=NONE):
    """Put the hand-written forward on a block, with these numbers of its adds edited."""
    first = 0
    for part in parts_of(block):
        forward, count = FORWARDS[type(part)]
        inner = {
            name: frozenset(n - first for n in numbers if first <= n < first + count)
            for name, numbers in (("drop", drop), ("bypass", bypass))
        }
        part.forward = MethodType(partial(forward, **inner), part)
        first += count


def pass_block(block):
    """Take a whole block out: it returns its input, or what its shortcut gives."""
    if projects(block):
        edit_block(block, bypass=adds_of(block))
    elif isinstance(block, cait.LayerScaleBlockClassAttn):
        block.forward = lambda x, x_cls: x_cls
    else:
        block.forward = lambda x, *rest, **options: x


def projects(block):
    """Whether a block's shortcut changes the shape of the stream."""
    if isinstance(block, tv_maxvit.MaxVitLayer):
        return not isinstance(block.layers.MBconv.proj, nn.Identity)
    return getattr(block, "downsample", None) is not None


def module_surgery(model, edits):
    """A copy of a model with hand-written forwards on some of its blocks.

    Args:
        edits: number of a block -> {"drop": numbers, "bypass": numbers}.
    """
    patched = plain_copy(model)
    blocks = blocks_of(patched)
    for index, edit in edits.items():
        edit_block(blocks[index], **edit)
    return patched


@contextmanager
def no_fast_path():
    """The fused kernel of multi-head attention is off, as it is inside an operated model."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def run(model, images):
    """A plain forward."""
    with no_fast_path():
        return model(images)


def output_of(model, module, images):
    """What a module returns in a plain forward, taken by a plain hook; of a tuple, the first."""
    taken = []

    def hook(_, args, out):
        taken.append((out[0] if isinstance(out, tuple) else out).clone())

    removal = module.register_forward_hook(hook)
    run(model, images)
    removal.remove()
    return taken[0]
