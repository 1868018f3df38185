"""Donor tensors of another shape, where resampling means something; the rest is refused.

Position embeddings of another grid, relative position tables of another window, and first layers of
another patch size or number of channels, each by timm's own resampler.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isqrt

import torch
from torch import Tensor

from surgeon.anatomist import functions
from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.graph import Op
from surgeon.anatomist.site import shape_text
from surgeon.surgery.edits import TensorSource

Shape = tuple[int, ...]
Change = Callable[[Tensor], Tensor]
#: Rows a table of relative positions may have beyond its window: class token to patch, patch to
#: class token, class token to itself.
_EXTRA_ROWS = (0, 3)


@dataclass(frozen=True)
class Place:
    """One tensor in one model: its name there, and the model's anatomy."""

    name: str
    anatomy: Anatomy


def fit(source: TensorSource, theirs: Place, own: Place) -> TensorSource | None:
    """A donor's tensor in the shape a model has, None where there is no sensible way.

    Args:
        source: the donor's tensor.
        theirs, own: where it is in the donor, and where it goes.

    Returns:
        A source of the model's shape, whose note says what is done to the values.
    """
    shape = own.anatomy.graph.parameters[own.name]
    for way in (_position, _table, _first_layer):
        change = way(source.shape, theirs, own)
        if change is not None:
            text = f"{own.name} from {shape_text(source.shape)} to {shape_text(shape)}"
            return TensorSource(shape, partial(_loaded, source, change), source.origin, text)
    return None


def _loaded(source: TensorSource, change: Change) -> Tensor:
    return change(source.load())


# --- position embeddings


def _position(shape: Shape, theirs: Place, own: Place) -> Change | None:
    wanted = own.anatomy.graph.parameters[own.name]
    if not (_is_position(theirs) and _is_position(own)) or len(shape) != len(wanted):
        return None
    if shape[-1] != wanted[-1] or shape[0] != 1:
        return None
    if len(shape) == 4:
        from timm.layers import resample_abs_pos_embed_nhwc

        return lambda t: resample_abs_pos_embed_nhwc(t, [wanted[1], wanted[2]])
    here, there = _grid(own, wanted[1]), _grid(theirs, shape[1])
    if len(shape) != 3 or here is None or there is None:
        return None
    (new, prefix), (old, old_prefix) = here, there
    if old_prefix not in (0, prefix):
        return None
    return lambda t: _resampled(t, old, new, old_prefix, prefix)


def _resampled(
    t: Tensor, old: tuple[int, int], new: tuple[int, int], old_prefix: int, prefix: int
) -> Tensor:
    """On the new grid; prefix tokens that the donor gives no position get none: zeros."""
    from timm.layers import resample_abs_pos_embed

    out: Tensor = resample_abs_pos_embed(t, list(new), list(old), num_prefix_tokens=old_prefix)
    missing = prefix - old_prefix
    return torch.cat([t.new_zeros(1, missing, t.shape[2]), out], dim=1) if missing else out


def _is_position(place: Place) -> bool:
    return any(p.path == place.name for p in place.anatomy.reading.positions)


def _grid(place: Place, rows: int) -> tuple[tuple[int, int], int] | None:
    """((rows, columns), prefix tokens) of a position embedding with so many rows.

    A weights file may be of another image size than the model it is said to be of: the prefix is
    the model's, what is left must be the model's grid or a square.
    """
    reading, graph = place.anatomy.reading, place.anatomy.graph
    if reading.stem_value is None or len(graph.values[reading.stem_value].shape) != 3:
        return None
    tokens = graph.values[reading.stem_value].shape[1]
    _, height, width = place.anatomy.input_size
    across = isqrt(tokens * width // height)
    prefix = graph.parameters[place.name][1] - tokens
    if prefix < 0 or not across or tokens % across:
        return None
    left = rows - prefix
    if left == tokens:
        return (tokens // across, across), prefix
    side = isqrt(left) if left > 0 else 0
    return ((side, side), prefix) if side and side * side == left else None


# --- relative position tables


def _table(shape: Shape, theirs: Place, own: Place) -> Change | None:
    """(relative positions, heads), or (heads, rows, columns), of another window."""
    wanted = own.anatomy.graph.parameters[own.name]
    if not all("relative_position_bias" in p.name for p in (theirs, own)):
        return None
    if len(shape) == len(wanted) == 2 and shape[1] == wanted[1]:
        new, old = _window(wanted[0]), _window(shape[0])
        if new is None or old is None or new[1] != old[1]:
            return None
        side = new[0]
    elif len(shape) == len(wanted) == 3 and shape[0] == wanted[0] and wanted[1] == wanted[2]:
        side = (wanted[1] + 1) // 2
    else:
        return None

    def change(table: Tensor) -> Tensor:
        from timm.layers import resize_rel_pos_bias_table

        with warnings.catch_warnings():  # of torch's, at how timm indexes
            warnings.simplefilter("ignore", UserWarning)
            out: Tensor = resize_rel_pos_bias_table(table, (side, side), wanted)
        return out

    return change


def _window(rows: int) -> tuple[int, int] | None:
    """(side of the square window, extra rows) of a table with (2 side - 1)^2 + extra rows."""
    for extra in _EXTRA_ROWS:
        root = isqrt(max(rows - extra, 0))
        if root % 2 and root * root == rows - extra:
            return (root + 1) // 2, extra
    return None


# --- first layers


def _first_layer(shape: Shape, theirs: Place, own: Place) -> Change | None:
    """A first convolution of 1 or 3 channels, or a patch embedding of another patch size."""
    wanted = own.anatomy.graph.parameters[own.name]
    here, there = _first_op(own), _first_op(theirs)
    if here is None or there is None or len(shape) != 4 or len(wanted) != 4:
        return None
    if shape[0] != wanted[0] or {shape[1], wanted[1]} - {1, 3}:
        return None
    if shape[2:] != wanted[2:] and not (_patches(own, here) and _patches(theirs, there)):
        return None

    def change(kernel: Tensor) -> Tensor:
        from timm.layers import resample_patch_embed
        from timm.models import adapt_input_conv

        kernel = adapt_input_conv(wanted[1], kernel, base_chans=shape[1])
        out: Tensor = resample_patch_embed(kernel, list(wanted[2:]))
        return out

    return change


def _first_op(place: Place) -> Op | None:
    """The first layer of all, if the tensor is its kernel."""
    graph = place.anatomy.graph
    for op in graph.ops:
        if op.name in functions.CONVOLUTION and graph.live_inputs(op):
            names = {graph.values[v].name for v in op.inputs}
            return op if place.name in names else None
    return None


def _patches(place: Place, op: Op) -> bool:
    """Whether the patches don't overlap: kernel and stride are one."""
    graph = place.anatomy.graph
    kernel = graph.parameters[place.name][2:]
    given, made = graph.values[op.inputs[0]].shape[2:], graph.values[op.outputs[0]].shape[2:]
    return all(n // k == m for n, k, m in zip(given, kernel, made, strict=True))
