"""Images kept on the way of an inversion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def marks(wanted: int | Sequence[int], steps: int) -> list[int]:
    """The gradient evaluations after which an image is kept.

    Args:
        wanted: these, or how many, spread evenly in their logarithm from 1 to `steps`.

    >>> marks(4, 1000)
    [1, 10, 100, 1000]
    """
    if isinstance(wanted, int):
        spread = np.geomspace(1, max(steps, 1), wanted) if wanted else ()
        wanted = [round(float(mark)) for mark in spread]
    return sorted(set(wanted))


def due(at: Sequence[int], before: float, spent: float) -> bool:
    """Whether a mark was passed on the way from `before` to `spent`."""
    return any(before < mark <= spent for mark in at)


def as_kept(image: Tensor) -> Tensor:
    """An image as it is kept: uint8, of the same shape, clipped to [0, 1] before."""
    return (image.detach().clamp(0, 1).nan_to_num(0.0) * 255).round().to(torch.uint8).cpu()
