"""The sizes a dream goes through, and the tiles its gradients are made in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.errors import ProbeError
from surgeon.imaging.sizes import refusal
from surgeon.subject import Subject
from surgeon_dream.settings import DreamSettings

#: The author's octaves: shorter side in pixels at a model size of 299, and rates.
_POST = ((299, (0.5, 0.4)), (380, (0.4, 0.3)), (460, (0.3, 0.2)))
_POST_STEPS = 100
_TILE = 512
_DEFAULT = {"octaves": 4, "scale": 1.4, "steps": 20, "rate": 0.01}


@dataclass(frozen=True)
class Octave:
    """One size.

    Attributes:
        height, width: of the picture in pixels.
        rate: (first, last).
    """

    height: int
    width: int
    steps: int
    rate: tuple[float, float]


@dataclass(frozen=True)
class Way:
    """How a photo is dreamt on.

    Attributes:
        octaves: from the smallest.
        tile: (height, width) at most; for crops, exactly.
        crops: the model takes its own size only.
    """

    octaves: tuple[Octave, ...]
    tile: tuple[int, int]
    crops: bool


def way_of(settings: DreamSettings, subject: Subject, photo_size: tuple[int, int]) -> Way:
    """Fill in what the settings leave open.

    Args:
        photo_size: (height, width) of the photo.

    Raises:
        ProbeError: a tile size that the model does not take.
    """
    _, height, width = subject.preprocessing.input_size
    side = min(height, width)
    crops = settings.canvas == "crops" or not _takes(subject, settings, side)
    tile = (height, width) if crops else (settings.tile or _TILE,) * 2
    shape = (photo_size[0] / min(photo_size), photo_size[1] / min(photo_size))
    octaves = []
    for shorter, steps, rate in _sizes(settings, side, crops):
        least = tile if crops else (1, 1)
        high, wide = (max(round(shorter * shape[i]), least[i]) for i in range(2))
        octaves.append(Octave(high, wide, steps, rate))
    return Way(tuple(octaves), tile, crops)


def _sizes(
    settings: DreamSettings, side: int, crops: bool
) -> list[tuple[float, int, tuple[float, float]]]:
    """Shorter side, steps and rates of each octave."""
    if settings.preset == "post":
        scale = (settings.size or 460 * side / 299) / 460
        steps = settings.steps or _POST_STEPS
        return [(max(s * scale, side), steps, rate) for s, rate in _POST]
    count = settings.octaves or int(_DEFAULT["octaves"])
    scale = settings.octave_scale or _DEFAULT["scale"]
    last = settings.size or (2 * side if crops else max(side, 448))
    steps, rate = settings.steps or int(_DEFAULT["steps"]), settings.rate or _DEFAULT["rate"]
    sizes = [last / scale ** (count - 1 - i) for i in range(count)]
    return [(size, steps, (rate, rate)) for size in sizes]


def _takes(subject: Subject, settings: DreamSettings, side: int) -> bool:
    """Whether the model takes images of another size than its own."""
    if settings.canvas == "crops":
        return False
    other = 2 * side
    why = refusal(subject, other, other)
    if why is not None and settings.canvas == "whole":
        raise ProbeError(
            f'dream with canvas = "whole" on {type(subject.model).__name__}',
            f"it takes no {other} x {other} pixels: {why}",
            'canvas = "crops", or a model built with a larger img_size',
        )
    return why is None


def tiles_of(height: int, width: int, tile: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Tiles that cover a picture, all of one size, overlapping where they must.

    >>> [(r.start, c.start) for r, c in tiles_of(10, 4, (4, 4))]
    [(0, 0), (3, 0), (6, 0)]
    """
    rows, columns = (_starts(n, t) for n, t in ((height, tile[0]), (width, tile[1])))
    high, wide = min(tile[0], height), min(tile[1], width)
    return [(slice(r, r + high), slice(c, c + wide)) for r in rows for c in columns]


def _starts(length: int, tile: int) -> list[int]:
    count = max(-(-length // tile), 1)
    if count == 1:
        return [0]
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def shift_of(generator: torch.Generator, height: int, width: int) -> tuple[int, int]:
    """How far the picture is rolled before it is cut into tiles."""
    rows = torch.randint(height, (), generator=generator)
    columns = torch.randint(width, (), generator=generator)
    return int(rows), int(columns)


def covered(height: int, width: int, tiles: list[tuple[slice, slice]]) -> Tensor:
    """How many tiles lie on each pixel: (1, 1, height, width)."""
    count = torch.zeros(1, 1, height, width)
    for rows, columns in tiles:
        count[:, :, rows, columns] += 1
    return count
