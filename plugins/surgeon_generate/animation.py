"""Animations of images on their way: all of a run in one grid."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from surgeon.imaging.transformations import resized

_MOST = 160
_MILLISECONDS, _HOLD = 80, 1500


def frame_of(image: Tensor) -> Tensor:
    """One image (1, channels, height, width) as uint8, at most 160 pixels high and wide."""
    side = max(image.shape[2:])
    if side > _MOST:
        size = (round(image.shape[2] * _MOST / side), round(image.shape[3] * _MOST / side))
        image = resized(image, size)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def animated(frames: Mapping[int, Sequence[Tensor]], kind: str) -> bytes:
    """A GIF or WebP.

    Args:
        frames: step -> the image of each task then, uint8 (1, channels, height, width).
        kind: "gif" or "webp".
    """
    pictures = [Image.fromarray(_grid(frames[step])) for step in sorted(frames)]
    times = [_MILLISECONDS] * (len(pictures) - 1) + [_HOLD]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, kind.upper(), save_all=True, append_images=pictures[1:], duration=times, loop=0
    )
    return buffer.getvalue()


def _grid(images: Sequence[Tensor]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width = images[0].shape[2:]
    grid = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * height, (i % columns) * width
        array = np.asarray(image[0].expand(3, -1, -1).permute(1, 2, 0))
        grid[top : top + height, left : left + width] = array
    return grid
