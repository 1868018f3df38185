"""Collisions by search: a walk away from an image among those with the same output."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgeon.diagnosis import thresholds
from surgeon.imaging.metrics import exact, psnr
from surgeon.inversion.chain import Counted
from surgeon.inversion.ledger import Ledger
from surgeon.inversion.strategy import precisions
from surgeon.solvers import lsmr
from surgeon.solvers.common import Map, norm

if TYPE_CHECKING:
    from surgeon.anatomist.site import Site
    from surgeon.subject import Subject

#: Pixels start this far inside [0, 1], where they can move.
_INSIDE = 1e-3
#: Root mean square of a step's angles at first, and where a walk ends as it gets nowhere.
_STRIDE, _LEAST = 0.3, 0.01
#: Iterations of LSMR, on the way and at its end.
_ROUGH, _WELL = 30, 60
#: A step is taken back where it changes more than this of the output, and is followed by one that
#: corrects the output alone where it changes more than that; the way ends this far below the
#: threshold, since what corrects the output leads back a little.
_STRAYED, _OFF, _FURTHER = 0.2, 0.05, 2.0

Linearise = Callable[[Tensor], tuple[Tensor, Map, Map]]


@dataclass(frozen=True)
class Search:
    """A search on its way.

    Attributes:
        angles: pixels are (1 + sin(angle)) / 2, and so in [0, 1]; float64.
        stride: root mean square of the next step's angles; 0 once it only corrects the output.
        residual: |O(a) - O(b)| / |O(a)|.
        psnr: between a and b, in dB.
        spent: gradient evaluations of the way to the site.
        stopped: why it ended; empty while it goes on.
    """

    angles: Tensor
    stride: float
    residual: float
    psnr: float
    spent: float
    stopped: str

    @property
    def going(self) -> float:
        """The stride of the next step: 0 where it corrects the output alone."""
        return self.stride if self.residual <= _OFF else 0.0

    @property
    def image(self) -> Tensor:
        """b, in [0, 1]."""
        return _pixels(self.angles)


def _pixels(angles: Tensor) -> Tensor:
    return (1 + angles.sin()) / 2


def _angles(pixels: Tensor) -> Tensor:
    return (2 * exact(pixels).clamp(_INSIDE, 1 - _INSIDE) - 1).asin()


def first_search(photo: Tensor) -> Search:
    """At the photo itself."""
    return Search(_angles(photo), _STRIDE, 0.0, math.inf, 0.0, "")


def searched(
    subject: Subject, site: Site, photo: Tensor, search: Search, budget: float
) -> Search:  # fmt: skip
    """One further step, in float64.

    A step leads towards the farthest corner of the cube, less what the output feels of it, and
    takes back what earlier steps have changed of the output; both by one linear least-squares
    problem. Far enough away, steps correct the output alone.

    Args:
        photo: (1, channels, height, width) in [0, 1].
        budget: gradient evaluations of the way to the site, in all.
    """
    kind = precisions(subject.device)[-1]
    ledger = Ledger(subject.flops_to(site))
    counted = Counted(subject.segment(None, site), ledger, kind)

    def linearise(angles: Tensor) -> tuple[Tensor, Map, Map]:
        slope = angles.cos() / 2
        out, pull = counted.vjp(_pixels(angles))
        x = _pixels(angles)
        return out, lambda v: counted.jvp(x, slope * v), lambda u: slope * pull(u)

    with counted.ready():
        aim, angles = counted(photo.to(subject.device, kind)), search.angles.to(subject.device)
        corner = _angles(torch.where(photo < 0.5, 1.0, 0.0)).to(angles)
        moved = angles + _step(linearise, angles, aim, corner, search.going)
        residual = float(norm(aim - counted(_pixels(moved))) / norm(aim))
    subject.ledger.spent += ledger.spent * ledger.unit / max(subject.ledger.unit, 1)
    spent, decibels = search.spent + ledger.spent, psnr(photo, _pixels(moved))
    after = Search(moved.cpu(), search.stride, residual, decibels, spent, "")
    return _next(search, after, budget)


def _step(
    linearise: Linearise, angles: Tensor, aim: Tensor, corner: Tensor, stride: float
) -> Tensor:
    out, forward, back = linearise(angles)
    away = corner - angles
    away = away * stride / away.square().mean().sqrt()
    left = aim - out - (forward(away) if stride else 0.0)
    return away + lsmr(forward, back, left, tolerance=1e-13,
                       iterations=_ROUGH if stride else _WELL).x  # fmt: skip


def _next(before: Search, after: Search, budget: float) -> Search:
    """Whether a step is kept, and what comes after."""
    stride, stopped, kept = before.stride, "", after
    better = after.residual < 0.9 * before.residual
    if before.going:
        lost = not after.residual <= _STRAYED or after.psnr > before.psnr - 0.02
        kept = before if lost else after
        stride = stride / 2 if lost else min(stride * 1.2, _STRIDE)
        stopped = "no way leads far away" if stride < _LEAST else ""
        stride = 0.0 if kept.psnr <= thresholds.APART_PSNR - _FURTHER else stride
    elif not better:
        kept, stopped = before, "stagnated"
    if not stride and kept.residual <= thresholds.COLLISION / 10:
        stopped = "converged" if kept.psnr <= thresholds.APART_PSNR else "back at the photo"
    if not stopped and after.spent >= budget:
        stopped = "budget spent"
    return Search(kept.angles, stride, kept.residual, kept.psnr, after.spent, stopped)
