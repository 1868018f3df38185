"""Twins: how an image that is pulled towards another's output nears the output, and the image.

The post's argument: where the embedding distance goes to 0 and the input distance does not, other
inputs have the same output. The curves alone can't tell that from a search that has not converged;
beside a verdict they show which of the two it looks like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgeon.imaging.metrics import l2
from surgeon.inversion.matching import Matching, start_image, yardstick_image

if TYPE_CHECKING:
    from surgeon.anatomist.site import Site
    from surgeon.inversion.row_space import RowSpace
    from surgeon.subject import Subject

#: Adam's rate at the first and at the last step, and its own constants (Kingma and Ba 2015).
_RATES = (0.05, 0.005)
_BETAS, _EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Twin:
    """A plain inversion on its way.

    Attributes:
        image, mean, square: (1, channels, height, width): where it is, and Adam's moments.
        embedding, pixels: distances after each step, the start's first.
    """

    image: Tensor
    mean: Tensor
    square: Tensor
    embedding: list[float]
    pixels: list[float]

    @property
    def steps(self) -> int:
        """Taken so far."""
        return len(self.embedding)


def first_twin(photo: Tensor, seed: int = 0) -> Twin:
    """The start that every inversion has."""
    start = start_image(photo.shape, seed)
    return Twin(start, torch.zeros_like(start), torch.zeros_like(start), [], [])


def pulled(subject: Subject, site: Site, photo: Tensor, twin: Twin, steps: int, total: int) -> Twin:
    """Further steps of Adam on |O(a) - O(a_g)|^2, of `total` in all.

    Args:
        photo: (1, channels, height, width) in [0, 1].
    """
    target = photo.to(device=subject.device, dtype=subject.dtype)
    matching = Matching(subject, (site,), target)
    image, mean, square = (t.to(target) for t in (twin.image, twin.mean, twin.square))
    embedding, pixels = list(twin.embedding), list(twin.pixels)
    for _ in range(min(steps, total - twin.steps)):
        leaf = image.detach().requires_grad_()
        loss, distance = matching.loss(leaf, "l2", 1.0)
        (gradient,) = torch.autograd.grad(loss, leaf)
        subject.ledger.forward(matching.flops)
        subject.ledger.backward(matching.flops)
        embedding.append(float(distance) ** 0.5)
        pixels.append(l2(target, image))
        share = len(embedding) / total
        rate = _RATES[0] * (1 - share) + _RATES[1] * share
        mean = _BETAS[0] * mean + (1 - _BETAS[0]) * gradient
        square = _BETAS[1] * square + (1 - _BETAS[1]) * gradient * gradient
        first = mean / (1 - _BETAS[0] ** len(embedding))
        second = square / (1 - _BETAS[1] ** len(embedding))
        image = image - rate * first / (second.sqrt() + _EPS)
    return Twin(image.detach(), mean, square, embedding, pixels)


def yardstick(subject: Subject, site: Site, photo: Tensor, seed: int = 0) -> float:
    """|O(a) - O(a')|, a' = a + N(0, 1/18)."""
    target = photo.to(device=subject.device, dtype=subject.dtype)
    matching = Matching(subject, (site,), target)
    with torch.no_grad():
        return l2(matching.wanted[0], matching.outputs(yardstick_image(target, seed))[0])


def patch_errors(space: RowSpace, photo: Tensor, image: Tensor) -> Tensor:
    """(patches,) how far each patch is off, in what the stem passes on; pixels of [0, 1]."""
    from torch.nn import functional as F

    off = F.unfold(space.project(photo - image.cpu()), space.patch, stride=space.patch)[0]
    lengths: Tensor = torch.linalg.vector_norm(off, dim=0)
    return lengths


def area_under_curve(scores: Tensor, wrong: Tensor) -> float | None:
    """The chance that a wrong one has a higher score than a right one; ties count half.

    Args:
        scores: (n,); NaN where there is none, left out.
        wrong: (n,), bool.

    >>> area_under_curve(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, False, True]))
    1.0
    """
    known = ~scores.isnan()
    high, low = scores[known & wrong], scores[known & ~wrong]
    if not len(high) or not len(low):
        return None
    above = (high[:, None] > low).double() + 0.5 * (high[:, None] == low).double()
    return float(above.mean())
