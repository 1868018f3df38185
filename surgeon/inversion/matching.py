"""What every inversion matches and is scored by: outputs at sites, and the yardstick a'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from surgeon.imaging.metrics import finite, l2, psnr, relative, ssim
from surgeon.inversion.row_space import RowSpace
from surgeon.randomness import stream

if TYPE_CHECKING:
    from surgeon.anatomist.site import Site
    from surgeon.subject import Subject

#: The start in pixels of [0, 1], randn / START_DIVISOR + START_MEAN: the post's, and everyone's.
START_DIVISOR, START_MEAN = 20, 0.7

#: Standard deviation of the yardstick's noise, in pixels of [0, 1]: a' = a + N(0, 1/18).
YARDSTICK = 1 / 18

Loss = Literal["l1", "l2"]


def start_image(shape: Sequence[int], seed: int) -> Tensor:
    """The start of a seed: randn / 20 + 0.7, not clamped."""
    noise = torch.randn(tuple(shape), generator=stream("inversion/start", seed))
    return noise / START_DIVISOR + START_MEAN


def yardstick_image(target: Tensor, seed: int) -> Tensor:
    """a' = a + N(0, 1/18): an image about as near as an eye can tell."""
    noise = torch.randn(target.shape, generator=stream("inversion/yardstick", seed))
    return target + noise.to(target) * YARDSTICK


@dataclass
class Matching:
    """The outputs of a subject at one or more sites, for a target image.

    Attributes:
        subject: operated.
        sites: matched together.
        target: (1, channels, height, width) in [0, 1].
    """

    subject: Subject
    sites: tuple[Site, ...]
    target: Tensor

    def outputs(self, image: Tensor) -> list[Tensor]:
        """The values at the sites; nothing after the last one is computed."""
        if self.sites == (self.subject.output,):
            return [self.subject(image)]
        last = max(self.sites, key=lambda site: site.order)
        captured = self.subject.run(image, capture=self.sites, stop=last)
        return [captured[site] for site in self.sites]

    @cached_property
    def wanted(self) -> list[Tensor]:
        """The target's values, without gradients."""
        with torch.no_grad():
            return [value.detach() for value in self.outputs(self.target)]

    @cached_property
    def flops(self) -> int:
        """Of one forward of one image up to the last site."""
        last = max(self.sites, key=lambda site: site.order)
        return self.subject.program(capture=self.sites, stop=last).flops

    def loss(self, image: Tensor, kind: Loss, scale: float) -> tuple[Tensor, Tensor]:
        """The loss at an image and the summed squared distance, both with gradients.

        "l1" is scale * sum |O(a) - O(a_g)|, the post's; "l2" is scale * sum of squares, relative to
        the target's own.
        """
        loss, square = torch.zeros((), device=image.device), torch.zeros((), device=image.device)
        for value, wanted in zip(self.outputs(image), self.wanted, strict=True):
            difference = value - wanted
            squared = (difference * difference).sum()
            if kind == "l1":
                loss = loss + scale * difference.abs().sum()
            else:
                loss = loss + scale * squared / (wanted * wanted).sum()
            square = square + squared.detach()
        return loss, square


def score(
    matching: Matching,
    image: Tensor,
    start: Tensor,
    *,
    seed: int = 0,
    entry: Site | None = None,
    row_space: RowSpace | None = None,
) -> dict[str, Any]:
    """Figures of a reconstruction.

    Args:
        image: the reconstruction, (1, channels, height, width), unclipped.
        start: what the inversion started from.
        seed: of the yardstick's noise.
        entry: the input of block 0, if it comes before the sites.
        row_space: of the stem.

    Returns:
        Distances in unclipped pixels of [0, 1]; None where a figure has no meaning here.
    """
    target, subject = matching.target, matching.subject
    with torch.no_grad():
        values = matching.outputs(image)
        reference = matching.outputs(yardstick_image(target, seed))
        pairs = list(zip(matching.wanted, values, reference, strict=True))
        distance = sum(l2(w, v) ** 2 for w, v, _ in pairs) ** 0.5
        yardstick = sum(l2(w, r) ** 2 for w, _, r in pairs) ** 0.5
        norm = sum(l2(w, torch.zeros_like(w)) ** 2 for w, _, _ in pairs) ** 0.5
        tokens = None
        if entry is not None and all(entry.order <= site.order for site in matching.sites):
            a, b = (subject.run(x, capture=(entry,), stop=entry)[entry] for x in (target, image))
            tokens = relative(a, b)
    figures = {
        "embedding_distance": distance,
        "embedding_relative": distance / max(norm, 1e-300),
        "input_distance": l2(target, image),
        "psnr": finite(psnr(target, image)),
        "ssim": ssim(target, image),
        "yardstick_ratio": distance / yardstick if yardstick else None,
        "token_error": tokens,
        "row_space_error": row_space.error(target, image, start) if row_space else None,
    }
    return {k: finite(v) if isinstance(v, float) else v for k, v in figures.items()}
