"""Collisions on purpose: a second image far away that a patch stem can't tell from the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from surgeon.diagnosis import thresholds
from surgeon.diagnosis.certificates import Evidence
from surgeon.imaging.metrics import exact, l2, psnr, relative
from surgeon.inversion.row_space import RowSpace, stem_weight
from surgeon.inversion.strategy import precisions

if TYPE_CHECKING:
    from surgeon.anatomist.site import Site
    from surgeon.subject import Subject

#: The projections aim this far inside [0, 1], so that rounding doesn't leave it.
_INSIDE = 2e-3
_ITERATIONS = 400
#: Of a pair that is put together patch by patch: how far below the threshold its PSNR stays, in dB,
#: and its outputs, as a share of the threshold.
_SPARE, _ROOM = 0.5, 0.95


def stem_matrix(subject: Subject) -> Tensor | None:
    """The patch stem in terms of pixels, as the subject computes it in float64.

    Returns:
        (width, channels, height, width) of a patch, float64; None where the stem is no single
        projection of patches that don't overlap, or there is no float64.
    """
    kind = precisions(subject.device)[-1]
    if kind != torch.float64:
        return None
    with subject.in_dtype(kind):
        return stem_weight(subject)


def second_image(weight: Tensor, image: Tensor, iterations: int = _ITERATIONS) -> Tensor | None:
    """An image in [0, 1] with the same stem output, as far from the first as projections get.

    From the farthest corner of the cube, by turns onto the images with the same stem output and
    into the cube (projections onto convex sets). What is left outside at the end is pulled back
    towards the first image, patch by patch, which stays in both sets.

    Args:
        weight: (width, channels, height, width) of a patch, float64.
        image: (1, channels, height, width) in [0, 1].
        iterations: pairs of projections at most.

    Returns:
        Float64, on the CPU; None where the stem passes on all of a patch.
    """
    space = RowSpace(weight)
    if space.full:
        return None
    first = exact(image)
    here = F.unfold(first, space.patch, stride=space.patch)[0].T  # (patches, numbers)
    there = torch.where(here < 0.5, 1.0, 0.0).to(here)
    for _ in range(iterations):
        there = there + (here - there) @ space.basis.T @ space.basis
        if bool(((there >= 0) & (there <= 1)).all()):
            break
        there = there.clamp(_INSIDE, 1 - _INSIDE)
    step = (there - here) - (there - here) @ space.basis.T @ space.basis
    room = torch.where(step > 0, (1 - here) / step, torch.where(step < 0, -here / step, torch.inf))
    share = room.amin(1, keepdim=True).clamp(0, 1)
    found = (here + share * step).clamp(0, 1)
    return F.fold(found.T[None], first.shape[-2:], space.patch, stride=space.patch)


def within_rounding(
    subject: Subject, sites: Sequence[Site], first: Tensor, second: Tensor, weight: Tensor
) -> Tensor:
    """A second image changed in as many patches as float32 allows, with the kernels torch chooses.

    What rounding leaves between the two outputs comes from the stem's sums, patch by patch. Patches
    are put back to the first image's, those first that round worst for how far apart they are,
    until the outputs agree at every site.

    Args:
        sites: where the outputs are compared.
        first, second: (1, channels, height, width); the second of `second_image`.
        weight: of the stem, as there.

    Returns:
        Float64; the second image itself where that is good enough, or where none that is far
        enough from the first would be.
    """
    size = (int(weight.shape[2]), int(weight.shape[3]))
    a, b = (F.unfold(exact(x), size, stride=size)[0] for x in (first, second))
    distance = (a - b).square().sum(0)
    stem = weight.to(torch.float32)
    off = F.conv2d(first.float(), stem, stride=size) - F.conv2d(second.float(), stem, stride=size)
    noise = exact(off).square().sum(1).flatten().clamp_min(1e-300)
    order = (distance / noise).argsort(descending=True)
    mean = distance[order].cumsum(0) / first.numel()
    least = int((mean < 10 ** (-(thresholds.APART_PSNR - _SPARE) / 10)).sum()) + 1

    def changed(count: int) -> Tensor:
        chosen = torch.zeros(len(order), dtype=torch.bool)
        chosen[order[:count]] = True
        return F.fold(torch.where(chosen, b, a)[None], first.shape[-2:], size, stride=size)

    def agree(image: Tensor) -> bool:
        return all(
            _difference(subject, site, exact(first), image, torch.float32)
            <= thresholds.COLLISION_SINGLE * _ROOM
            for site in sites
        )

    if least > len(order) or agree(exact(second)) or not agree(changed(least)):
        return second
    most = len(order)
    while least < most - 1:
        middle = (least + most) // 2
        least, most = (middle, most) if agree(changed(middle)) else (least, middle)
    return changed(least)


@dataclass(frozen=True)
class Pair:
    """Two images and how far apart they and their outputs at one site are.

    Attributes:
        psnr: between the images, in dB.
        apart: L2 between the images.
        least, most: of the second image's pixels.
        output_single, output_double: |O(a) - O(b)| / |O(a)| in float32 and float64; None where the
            device has no float64. Float32 by plain matrix products: the convolutions of oneDNN
            round a patch of 3,072 numbers by 1e-6 on their own, on the first image alone.
        output_fast: in float32 with the kernels that torch chooses.
    """

    psnr: float
    apart: float
    least: float
    most: float
    output_single: float
    output_double: float | None
    output_fast: float

    @property
    def verified(self) -> bool:
        """Whether it is a collision to tolerance: see `surgeon.diagnosis.thresholds`."""
        return (
            self.psnr <= thresholds.APART_PSNR
            and self.least >= 0
            and self.most <= 1
            and max(self.output_single, self.output_fast) <= thresholds.COLLISION_SINGLE
            and self.output_double is not None
            and self.output_double <= thresholds.COLLISION
        )

    def evidence(self) -> Evidence:
        """As a verdict's evidence."""
        double = "-" if self.output_double is None else f"{self.output_double:.1e}"
        text = (
            f"two images in [{self.least:.3g}, {self.most:.3g}] with a PSNR of {self.psnr:.1f} dB "
            f"and outputs {double} (float64), {self.output_single:.1e} (float32) apart"
        )
        return Evidence("pair", text, {"pair_verified": int(self.verified), **asdict(self)})


@contextmanager
def _plain_products() -> Iterator[None]:
    """Convolutions without oneDNN; its own context manager sets flags of GPUs too, and warns."""
    flags: Any = torch.backends.mkldnn
    before = flags.enabled
    flags.enabled = False
    try:
        yield
    finally:
        flags.enabled = before


def examine(subject: Subject, site: Site, first: Tensor, second: Tensor) -> Pair:
    """Measure a pair of images at a site; how a saved pair is checked again.

    Args:
        first, second: (1, channels, height, width), float64.
    """

    def difference(kind: torch.dtype) -> float:
        return _difference(subject, site, first, second, kind)

    with _plain_products():
        single = difference(torch.float32)
    has_double = torch.float64 in precisions(subject.device)
    return Pair(
        psnr(first, second), l2(first, second), float(second.min()), float(second.max()),
        single, difference(torch.float64) if has_double else None, difference(torch.float32),
    )  # fmt: skip


def _difference(
    subject: Subject, site: Site, first: Tensor, second: Tensor, kind: torch.dtype
) -> float:
    """|O(a) - O(b)| / |O(a)| in a precision."""
    names = subject.segment(None, site).parameters
    with torch.no_grad(), subject.in_dtype(kind, names):
        values = [
            subject.run(x.to(subject.device, kind), capture=(site,), stop=site)[site]
            for x in (first, second)
        ]
    return relative(*values)
