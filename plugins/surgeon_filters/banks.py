"""Filter banks of a model: the first convolution or linear map of a site, as images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from surgeon.anatomist.site import Site
from surgeon.errors import ProbeError
from surgeon.imaging.wavelets import principal_patterns
from surgeon.recipe import ModelSpec
from surgeon.sources import load_model
from surgeon.subject import Subject

Layout = Literal["chw", "hwc"]
_GAP, _SHOWN = 2, 28


def weight_of(subject: Subject, site: Site) -> str:
    """The path of the first weight of a site with two axes or four.

    Raises:
        ProbeError: it has none.
    """
    parameters = dict(subject.model.named_parameters())
    for name in subject.anatomy.parameters_of(site):
        if name in parameters and parameters[name].ndim in (2, 4):
            return name
    raise ProbeError(
        f"filters of {site.name}", "it has no convolution and no linear map", '"stem", or a path'
    )


def bank_of(weight: Tensor, channels: int, layout: Layout, name: str) -> Tensor:
    """A weight as filters (filters, channels, height, width).

    Args:
        weight: of a convolution; or of a linear map on patches, (filters, channels * side * side).
        channels: of the model's images, for a linear map.
        layout: order within a linear map's patch.

    Raises:
        ProbeError: a linear map whose inputs are no square patch.
    """
    weight = weight.detach().float().cpu()
    if weight.ndim == 4:
        return weight
    side = math.isqrt(weight.shape[1] // channels)
    if side * side * channels != weight.shape[1]:
        raise ProbeError(
            f"filters of {name}",
            f"{weight.shape[1]} inputs are no square patch of {channels} channels",
            "a convolution or a patch embedding",
        )
    if layout == "hwc":
        return weight.reshape(-1, side, side, channels).permute(0, 3, 1, 2).contiguous()
    return weight.reshape(-1, channels, side, side)


def other_weights(spec: ModelSpec, names: list[str]) -> Mapping[str, Tensor]:
    """Some weights of another model, built for this and let go."""
    parameters = dict(load_model(spec).named_parameters())
    missing = [name for name in names if name not in parameters]
    if missing:
        raise ProbeError(
            f"compare with {spec.label}",
            f"it has no {missing[0]}",
            "a model of the same architecture",
        )
    return {name: parameters[name].detach().clone() for name in names}


def grid_of(bank: Tensor, chosen: list[int], columns: int) -> Tensor:
    """Filters as one image, each (w - min) / (max - min) over all its channels, on white.

    Args:
        bank: (filters, channels, height, width); but for 1 and 3 channels, patterns in their best
            colour are shown.
        chosen: which, in order.

    Returns:
        (1 or 3, height, width) in [0, 1], two pixels between filters of 28 or more.
    """
    filters = bank[chosen]
    if filters.shape[1] not in (1, 3):
        filters = principal_patterns(filters)[0][:, None].float()
    low, high = filters.amin((1, 2, 3), keepdim=True), filters.amax((1, 2, 3), keepdim=True)
    shown = (filters - low) / (high - low).clamp(min=1e-12)
    # Enlarged, so that the gap is narrower than a filter's pixel and not taken for one.
    shown = shown.repeat_interleave(_scale(shown), 2).repeat_interleave(_scale(shown), 3)
    count, channels, height, width = shown.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = torch.ones(channels, rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP)
    for i, filter_ in enumerate(shown):
        top = _GAP + (i // columns) * (height + _GAP)
        left = _GAP + (i % columns) * (width + _GAP)
        sheet[:, top : top + height, left : left + width] = filter_
    return sheet


def _scale(bank: Tensor) -> int:
    return max(1, -(-_SHOWN // max(bank.shape[2:])))
