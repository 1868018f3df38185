"""What an image is made of while gradients change it: pixels, a spectrum, or phases alone.

Each has `start`, the parameters of one image, and `image`, which gives the pixels of a batch of
them; gradients flow through it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from surgeon.imaging.transformations import resized

Parameters = dict[str, Tensor]
#: (channels, height, width) in pixels.
Size = tuple[int, int, int]

#: Square root of the covariance of colours in ImageNet (Olah, Mordvintsev and Schubert 2017);
#: independent numbers times this, scaled to a largest column norm of 1, are coloured like photos.
_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


class Parameterisation(Protocol):
    """How parameters make an image."""

    def start(self, generator: torch.Generator) -> Parameters:
        """Parameters of one image, each (1, ...), float32."""

    def image(self, parameters: Parameters) -> Tensor:
        """(batch, channels, height, width) in [0, 1]; of `Pixel` without bounds."""


@dataclass(frozen=True)
class Pixel:
    """The pixels themselves, not clamped; the post's start is randn / 20 + 0.7.

    Attributes:
        spread, level: of the start.
        uniform: noise in [0, 1) instead of normal noise.
    """

    size: Size
    spread: float = 1 / 20
    level: float = 0.7
    uniform: bool = False

    def start(self, generator: torch.Generator) -> Parameters:
        make = torch.rand if self.uniform else torch.randn
        noise = make((1, *self.size), generator=generator)
        return {"pixels": noise * self.spread + self.level}

    def image(self, parameters: Parameters) -> Tensor:
        return parameters["pixels"]

    def fitted(self, parameters: Parameters) -> Parameters:
        """Bilinear, with antialiasing where it shrinks."""
        return {"pixels": resized(parameters["pixels"], self.size[1:])}


@dataclass(frozen=True)
class Fourier:
    """A spectrum whose amplitudes are scaled by 1 / frequency, with decorrelated colours.

    Olah, Mordvintsev and Schubert, "Feature visualization" (2017). A gradient step changes slow and
    fast waves alike, and the colours of photos come easily.

    Attributes:
        spread: standard deviation of the start's numbers.
        decay: exponent of the scaling.
    """

    size: Size
    spread: float = 0.01
    decay: float = 1.0

    def start(self, generator: torch.Generator) -> Parameters:
        channels, height, width = self.size
        shape = (1, channels, height, width // 2 + 1, 2)
        return {"spectrum": torch.randn(shape, generator=generator) * self.spread}

    def image(self, parameters: Parameters) -> Tensor:
        spectrum = torch.view_as_complex(parameters["spectrum"].contiguous())
        scaled = spectrum * scaling(self.size[1], self.size[2], self.decay).to(spectrum.device)
        waves = torch.fft.irfft2(scaled, s=self.size[1:], norm="ortho")
        return torch.sigmoid(coloured(waves / 4))

    def fitted(self, parameters: Parameters) -> Parameters:
        """The waves both canvases have, with their numbers of cycles; all others are 0.

        The pixels keep their values: there are so many times as many, and each wave is so many
        times as long.
        """
        old, (channels, height, width) = parameters["spectrum"], self.size
        new = old.new_zeros(len(old), channels, height, width // 2 + 1, 2)
        # Not the shortest waves: on one of the canvases they stand for two.
        rows = (min(old.shape[2], height) + 1) // 2
        columns = (min(2 * (old.shape[3] - 1), width) + 1) // 2
        gain = old.new_tensor(old.shape[2] / height).pow(self.decay - 1)
        new[:, :, :rows, :columns] = old[:, :, :rows, :columns] * gain
        new[:, :, 1 - rows :, :columns] = old[:, :, 1 - rows :, :columns] * gain
        return {"spectrum": new}


@dataclass(frozen=True, eq=False)
class Maco:
    """Phases alone: the amplitudes stay those of photos.

    Fel et al., "Unlocking feature visualization with magnitude constrained optimization" (2023).

    Attributes:
        magnitude: (channels, height, width // 2 + 1), see `magnitude_of`.
    """

    size: Size
    magnitude: Tensor

    def start(self, generator: torch.Generator) -> Parameters:
        # Every phase alike: phases about 0 would add up to a bright spot in the corner.
        phase = torch.rand((1, *self.magnitude.shape), generator=generator)
        return {"phase": (2 * phase - 1) * math.pi}

    def image(self, parameters: Parameters) -> Tensor:
        phase = parameters["phase"]
        spectrum = torch.polar(self.magnitude.to(phase).expand_as(phase), phase)
        waves = torch.fft.irfft2(spectrum, s=self.size[1:])
        return torch.sigmoid(coloured(_standard(waves)))


def coloured(x: Tensor) -> Tensor:
    """Independent channels to correlated ones; grey and other images stay as they are."""
    if x.shape[1] != 3:
        return x
    return torch.einsum("oc,bchw->bohw", _colour_matrix().to(x), x)


def decoloured(x: Tensor) -> Tensor:
    """The inverse of `coloured`."""
    if x.shape[1] != 3:
        return x
    return torch.einsum("oc,bchw->bohw", torch.linalg.inv(_colour_matrix()).to(x), x)


def magnitude_of(photos: Sequence[Tensor], size: Size) -> Tensor:
    """The mean amplitude spectrum of photos, the same in every direction.

    Few photos have few edges, whose directions would show in every image: so amplitudes are
    averaged over directions too.

    Args:
        photos: each (1, channels, height, width) in [0, 1], of any size; grey and colour are
            converted to what `size` asks for.

    Returns:
        (channels, height, width // 2 + 1), for `Maco`.
    """
    channels, height, width = size
    radius = _frequencies(height, width)
    ring = (radius * max(height, width)).round().long().flatten()
    total = torch.zeros(channels, int(ring.max()) + 1)
    for photo in photos:
        x = F.interpolate(_with_channels(photo, channels), (height, width), mode="area")
        amplitude = torch.fft.rfft2(decoloured(x - x.mean((2, 3), keepdim=True))).abs()[0]
        sums = torch.zeros_like(total).index_add_(1, ring, amplitude.flatten(1))
        total += sums / torch.bincount(ring).clamp(min=1)
    return (total / len(photos))[:, ring].reshape(channels, height, width // 2 + 1)


def _with_channels(photo: Tensor, channels: int) -> Tensor:
    if photo.shape[1] == channels:
        return photo
    return photo.mean(1, keepdim=True).expand(-1, channels, -1, -1)


def _standard(x: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over each image."""
    axes = tuple(range(1, x.ndim))
    return (x - x.mean(axes, keepdim=True)) / (x.std(axes, keepdim=True) + 1e-4)


@lru_cache(maxsize=1)
def _colour_matrix() -> Tensor:
    matrix = torch.tensor(_COLOURS)
    scaled: Tensor = matrix / matrix.norm(dim=0).max()
    return scaled


@lru_cache(maxsize=16)
def scaling(height: int, width: int, decay: float) -> Tensor:
    """1 / frequency^decay of each entry of a spectrum: (height, width // 2 + 1), float32."""
    lowest = 1 / max(height, width)
    return _frequencies(height, width).clamp(min=lowest).pow(-decay)


def _frequencies(height: int, width: int) -> Tensor:
    """Cycles per pixel of each entry of a spectrum: (height, width // 2 + 1)."""
    rows = torch.fft.fftfreq(height)[:, None]
    columns = torch.fft.rfftfreq(width)[None]
    return torch.hypot(rows, columns)
