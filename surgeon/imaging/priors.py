"""What photos are like: measures of images that objectives hold down. Each gives (batch,)."""

from __future__ import annotations

from torch import Tensor


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, across and down, over pixels and channels.

    Args:
        images: (batch, channels, height, width).
    """
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().flatten(1).mean(1)
    across = (images[..., 1:] - images[..., :-1]).abs().flatten(1).mean(1)
    return (down + across) / 2


def contrast(images: Tensor) -> Tensor:
    """Root mean square distance of the pixels from middle grey."""
    return ((images - 0.5) ** 2).flatten(1).mean(1).sqrt()


def outside(images: Tensor) -> Tensor:
    """Mean distance of the pixels from [0, 1]."""
    return (images - images.clamp(0, 1)).abs().flatten(1).mean(1)
