"""Random views of an image, so that what is found does not hang on a pixel.

Small pieces that go one after another: jitter, scale, rotate and crop move the image and are drawn
together, with one resampling; colour shift, noise and blur change its values. Each image of a batch
gets random numbers of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from surgeon.errors import ProbeError
from surgeon.imaging.ascent import between
from surgeon.imaging.calls import read_calls


@dataclass(frozen=True)
class Draw:
    """What a piece draws from.

    Attributes:
        generator: on the CPU.
        batch, height, width: of what is viewed.
        step, steps: where a schedule is.
    """

    generator: torch.Generator
    batch: int
    height: int
    width: int
    step: int = 0
    steps: int = 1

    def uniform(self, low: float, high: float) -> Tensor:
        """(batch,) from low to high."""
        return low + (high - low) * torch.rand(self.batch, generator=self.generator)


class Movement:
    """A piece that moves the image: per image a 3 x 3 matrix from the view's places to its own.

    Places run from -1 to 1 across and down.
    """

    def matrix(self, draw: Draw) -> Tensor:
        """(batch, 3, 3)."""
        raise NotImplementedError

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Of the view."""
        return height, width


class Change:
    """A piece that changes values in place of moving them."""

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        raise NotImplementedError


Piece = Movement | Change


@dataclass(frozen=True)
class Jitter(Movement):
    """A shift of up to so many pixels in each direction."""

    pixels: float

    def matrix(self, draw: Draw) -> Tensor:
        x = draw.uniform(-self.pixels, self.pixels) * 2 / draw.width
        y = draw.uniform(-self.pixels, self.pixels) * 2 / draw.height
        return _matrix(draw.batch, shift=(x, y))


@dataclass(frozen=True)
class Scale(Movement):
    """Larger or smaller about the middle, from `low` to `high` times."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError("scale(low, high) wants 0 < low <= high")

    def matrix(self, draw: Draw) -> Tensor:
        factor = draw.uniform(self.low, self.high)
        return _matrix(draw.batch, (1 / factor, 1 / factor))


@dataclass(frozen=True)
class Rotate(Movement):
    """About the middle, up to so many degrees either way."""

    degrees: float

    def matrix(self, draw: Draw) -> Tensor:
        angle = draw.uniform(-self.degrees, self.degrees) * math.pi / 180
        found = _matrix(draw.batch, (angle.cos(), angle.cos()))
        found[:, 0, 1] = -angle.sin() * draw.height / draw.width
        found[:, 1, 0] = angle.sin() * draw.width / draw.height
        return found


@dataclass(frozen=True)
class Crop(Movement):
    """A part of a larger canvas, `pixels` high and wide, anywhere on it."""

    pixels: int

    def matrix(self, draw: Draw) -> Tensor:
        across, down = self.pixels / draw.width, self.pixels / draw.height
        x = draw.uniform(-1, 1) * max(1 - across, 0)
        y = draw.uniform(-1, 1) * max(1 - down, 0)
        ones = torch.ones(draw.batch)
        return _matrix(draw.batch, (ones * across, ones * down), (x, y))

    def size(self, height: int, width: int) -> tuple[int, int]:
        return self.pixels, self.pixels


@dataclass(frozen=True)
class Mirror(Movement):
    """Left and right exchanged, half of the time."""

    def matrix(self, draw: Draw) -> Tensor:
        sign = (draw.uniform(0, 1) < 0.5).float() * 2 - 1
        return _matrix(draw.batch, (sign, torch.ones(draw.batch)))


@dataclass(frozen=True)
class Blur(Change):
    """A Gaussian blur whose width falls linearly over the steps.

    Attributes:
        first, last: sigma in pixels.
        kernel: width of the kernel in pixels, odd; 0: six sigma.
    """

    first: float
    last: float
    kernel: int = 0

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        sigma = between((self.first, self.last), draw.step, draw.steps)
        width = self.kernel or 2 * math.ceil(3 * max(self.first, self.last)) + 1
        return blurred(images, sigma, width) if sigma > 0 else images


@dataclass(frozen=True)
class ColourShift(Change):
    """Each channel times 1 +- spread and plus +- spread (Ghiasi et al. 2022)."""

    spread: float

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        shape = (len(images), images.shape[1], 1, 1)
        gain, level = (torch.randn(shape, generator=draw.generator) for _ in range(2))
        return images * (1 + self.spread * gain.to(images)) + self.spread * level.to(images)


@dataclass(frozen=True)
class Noise(Change):
    """Gaussian noise of a standard deviation."""

    spread: float

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        noise = torch.randn(images.shape, generator=draw.generator)
        return images + self.spread * noise.to(images)


NAMES = {
    "jitter": Jitter,
    "scale": Scale,
    "rotate": Rotate,
    "crop": Crop,
    "mirror": Mirror,
    "blur": Blur,
    "colour_shift": ColourShift,
    "noise": Noise,
}


def parse_transformation(text: str) -> Piece:
    """Read a piece, such as `scale(0.9, 1.1)`.

    Raises:
        ProbeError: no such piece, or wrong arguments.
    """
    found = read_calls(text, NAMES)
    if not isinstance(found, (Movement, Change)):
        raise ProbeError(f"transformation `{text}`", "it is none", ", ".join(NAMES))
    return found


def view(
    pieces: Sequence[Piece],
    images: Tensor,
    size: tuple[int, int],
    generator: torch.Generator,
    step: int = 0,
    steps: int = 1,
) -> Tensor:
    """Images through the pieces, at a size; what lies outside is the image mirrored.

    Movements that follow one another are resampled once.

    Args:
        images: (batch, channels, height, width).
        size: (height, width) of the result, the model's.
        step, steps: for schedules.

    Returns:
        (batch, channels, *size).
    """
    matrix: Tensor | None = None
    height, width = images.shape[2:]
    for piece in pieces:
        draw = Draw(generator, len(images), height, width, step, steps)
        if isinstance(piece, Movement):
            own = piece.matrix(draw)
            matrix = own if matrix is None else matrix @ own
            height, width = piece.size(height, width)
        else:
            images = piece(_resampled(images, matrix, (height, width)), draw)
            matrix = None
    images = _resampled(images, matrix, size if matrix is not None else (height, width))
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return resized(images, size)


def blurred(images: Tensor, sigma: float, kernel: int) -> Tensor:
    """A Gaussian blur with a kernel of so many pixels, edges mirrored.

    Args:
        kernel: odd; cut down to what the image allows.
    """
    most = 2 * min(images.shape[2:]) - 1
    out: Tensor = gaussian_blur(images, [min(kernel, most)] * 2, [sigma] * 2)
    return out


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, with antialiasing where it shrinks."""
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def _matrix(
    batch: int,
    factors: tuple[Tensor, Tensor] | None = None,
    shift: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    found = torch.eye(3).repeat(batch, 1, 1)
    if factors is not None:
        found[:, 0, 0], found[:, 1, 1] = factors
    if shift is not None:
        found[:, 0, 2], found[:, 1, 2] = shift
    return found


def _resampled(images: Tensor, matrix: Tensor | None, size: tuple[int, int]) -> Tensor:
    if matrix is None:
        return images
    shape = [len(images), images.shape[1], *size]
    grid = F.affine_grid(matrix[:, :2].to(images), shape, align_corners=False)
    return F.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
