"""What a model expects of its input. Data only; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes a model's input.

    Attributes:
        input_size: (channels, height, width) in pixels.
        mean, std: per channel, of pixels in [0, 1]; empty: pixels go in as they are.
        resize: length of the shorter side before the centre crop to the input size, in pixels.
        interpolation: "bilinear", "bicubic", "nearest" or "lanczos".
        origin: whose settings these are.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: int = 0
    interpolation: str = "bicubic"
    origin: str = "given"

    def raw(self) -> Preprocessing:
        """The same without normalisation."""
        return replace(self, mean=(), std=(), origin=f"{self.origin}, normalize = false")

    def __str__(self) -> str:
        channels, height, width = self.input_size
        norm = "not normalised"
        if self.mean:
            mean = ", ".join(f"{m:g}" for m in self.mean)
            std = ", ".join(f"{s:g}" for s in self.std)
            norm = f"mean ({mean}), std ({std})"
        side = self.resize or min(height, width)
        return (
            f"{channels}x{height}x{width}, shorter side to {side} ({self.interpolation}),"
            f" {norm}; from {self.origin}"
        )
