"""Collisions by search: an image far from the first that is pulled to the same output."""

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
from surgeon.solvers import Solution, levenberg_marquardt, lsmr
from surgeon.solvers.common import Map, norm
from surgeon.solvers.marquardt import Damping

if TYPE_CHECKING:
    from surgeon.anatomist.site import Site
    from surgeon.subject import Subject

#: Angles start this far inside, where pixels move with them.
_INSIDE = 0.05
#: Iterations of one slice, and conjugate gradients of one.
_SLICE, _INNER = 2, 25
#: From this residual on each step is solved well, by LSMR in at most so many iterations.
_NEAR, _EXACT = 1e-3, 60


@dataclass(frozen=True)
class Search:
    """A search on its way.

    Attributes:
        angles: pixels are (1 + sin(angle)) / 2, and so in [0, 1]; float64.
        damping: of Levenberg and Marquardt's method, (1,).
        residual: |O(a) - O(b)| / |O(a)|.
        psnr: between a and b, in dB.
        spent: gradient evaluations of the way to the site.
        stopped: why it ended; empty while it goes on.
    """

    angles: Tensor
    damping: Tensor
    residual: float
    psnr: float
    spent: float
    stopped: str

    @property
    def image(self) -> Tensor:
        """b, in [0, 1]."""
        return _pixels(self.angles)


def _pixels(angles: Tensor) -> Tensor:
    return (1 + angles.sin()) / 2


def first_search(photo: Tensor) -> Search:
    """From the photo's negative, pushed apart where it is grey: far from the photo everywhere."""
    first = exact(photo)
    far = torch.where(first < 0.5, 0.5 + 0.5 * (1 - first), 0.5 * (1 - first))
    angles = (2 * far.clamp(_INSIDE, 1 - _INSIDE) - 1).asin()
    return Search(angles, torch.full((1,), 1e-2).double(), math.inf, psnr(photo, far), 0.0, "")


def searched(
    subject: Subject, site: Site, photo: Tensor, search: Search, budget: float
) -> Search:  # fmt: skip
    """Two further iterations of Levenberg and Marquardt's method, in float64; near the end one of
    Gauss and Newton's, whose step is the shortest there is.

    Nothing holds the image away from the photo but where it starts: an end near the photo is no
    collision, and is said to have failed.

    Args:
        photo: (1, channels, height, width) in [0, 1].
        budget: gradient evaluations of the way to the site, in all.
    """
    kind = precisions(subject.device)[-1]
    ledger = Ledger(subject.flops_to(site))
    counted = Counted(subject.segment(None, site), ledger, kind)

    def value(angles: Tensor) -> Tensor:
        return counted(_pixels(angles))

    def linearise(angles: Tensor) -> tuple[Tensor, Map, Map]:
        x, slope = _pixels(angles), angles.cos() / 2
        out, pull = counted.vjp(x)
        return out, lambda v: counted.jvp(x, slope * v), lambda u: slope * pull(u)

    with counted.ready():
        aim = counted(photo.to(subject.device, kind))
        angles = search.angles.to(aim)
        near = _gauss_newton(value, linearise, angles, aim) if search.residual < _NEAR else None
        if near is not None:
            found = near
        else:
            found = levenberg_marquardt(
                value, linearise, angles, aim, tolerance=thresholds.COLLISION / 10,
                iterations=_SLICE, inner=_INNER, damping=Damping(first=search.damping.to(aim)),
            )  # fmt: skip
    subject.ledger.spent += ledger.spent * ledger.unit / max(subject.ledger.unit, 1)
    spent, residual = search.spent + ledger.spent, float(found.residual[0])
    decibels = psnr(photo, _pixels(found.x))
    stopped = ""
    if residual <= thresholds.COLLISION / 10:
        stopped = "converged" if decibels <= thresholds.APART_PSNR else "back at the photo"
    elif found.stopped == "stagnated" or residual >= search.residual:
        stopped = "stagnated"
    elif spent >= budget:
        stopped = "budget spent"
    damping = search.damping if found.damping is None else found.damping.cpu()
    return Search(found.x.cpu(), damping, residual, decibels, spent, stopped)


def _gauss_newton(
    value: Map, linearise: Callable[[Tensor], tuple[Tensor, Map, Map]], angles: Tensor, aim: Tensor
) -> Solution | None:
    """One undamped step, or a part of it; None where that leads no nearer."""
    out, forward, back = linearise(angles)
    before = norm(aim - out)
    step = lsmr(forward, back, aim - out, tolerance=1e-12, iterations=_EXACT).x
    for share in (1.0, 0.5, 0.25, 0.1, 0.03):
        left = norm(aim - value(angles + share * step))
        if bool(left < (1 - share / 4) * before):
            residual = left / norm(aim)
            return Solution(angles + share * step, residual, residual <= 0, "iterations spent", 1)
    return None
