"""Pixels searched for, where links can't be undone: a slice of work at a time, and when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgeon.inversion.chain import Counted
from surgeon.inversion.forks import Fork
from surgeon.inversion.image_search import lbfgs, marquardt, price
from surgeon.inversion.ledger import FORWARD
from surgeon.inversion.patches import RESEEDING, Patches, reseeded
from surgeon.inversion.strategy import SINGLE_FLOOR, Record, precisions
from surgeon.inversion.walk import Walk

if TYPE_CHECKING:
    from surgeon.inversion.exact import ExactInversion

#: An image whose output is this near is a pre-image; rounding of a deep chain stays below it.
REACHED = 1e-8
#: A slice of the search that leaves this share of the residual is stuck, if still that far off.
_STUCK, _FAR, _RESTARTS = 0.8, 1e-3, 12
#: One that leaves this share ends it, nearer than that; so many in a row end a far aim.
_ENDED, _STALE = 0.97, 2
#: Hard tokens are taken up again from the image below this residual, and at each quarter of it.
_NEARBY, _NEARER = 1e-3, 0.25
#: An aim is near below this residual; Levenberg-Marquardt may take over there.
_FINE = 1e-2
#: Of the budget: when an aim that isn't near is given up.
_AIM = 0.6


class ImageSearch:
    """A slice of the search for an image that gives the value a walk aims at."""

    def __init__(self, inversion: ExactInversion, walk: Walk) -> None:
        self.inversion, self.walk = inversion, walk
        self.ledger = inversion.ledger
        kinds = precisions(walk.image.device)
        self.finest = kinds[-1]
        dtype = self.finest if walk.fine else kinds[0]
        self.site = inversion.target(walk)
        segment = inversion.subject.segment(None, self.site)
        self.counted = Counted(segment, self.ledger, dtype)
        self.aim = walk.aim.to(dtype)

    def step(self) -> None:
        """By L-BFGS, at last by Levenberg-Marquardt; then it ends, aims anew, or goes on."""
        before, left = self.ledger.spent, self.inversion.budget - FORWARD - self.ledger.spent
        if left < self.counted.share:
            self.inversion.end(self.walk, "budget spent")
            return
        with self.counted.ready():
            rough = not self._fine_steps()
            best, residual = self._lbfgs(left) if rough else self._marquardt(left)
            ended = self._verdict(best, residual)
        self.walk.note("lbfgs" if rough else "image", REACHED, self.ledger.spent - before)
        if not self._landed(best):
            self._go_on(ended)

    def _landed(self, best: Tensor) -> bool:
        """Whether the links can be gone down again, from tokens found near the image."""
        walk = self.walk
        if not walk.hard or walk.residual >= _NEARBY * _NEARER**walk.landings:
            return False
        walk.landings += 1
        return Fork(self.inversion, walk).land(best)

    def _verdict(self, best: Tensor, residual: float) -> str:
        """Take note of a slice. Why the search ends, empty while it goes on.

        Patches that are stuck are put anew.
        """
        walk, single = self.walk, self.counted.dtype == torch.float32
        gain = 1 - residual / walk.latest  # 1 in the first slice
        walk.stale = walk.stale + 1 if residual > _ENDED * walk.residual else 0
        if residual < walk.residual or walk.best is None:
            walk.best, walk.residual = best, residual
        walk.latest = residual
        if walk.residual <= (3 * SINGLE_FLOOR if single else REACHED):
            return "converged"
        if walk.residual <= _FAR:
            return "stagnated" if gain < 1 - _ENDED else ""
        left = self.inversion.budget - FORWARD - self.ledger.spent
        affordable = left >= (1 + RESEEDING * FORWARD) * self.counted.share
        if gain < 1 - _STUCK and walk.restarts < _RESTARTS and affordable:
            self._reseed(walk.best)
        return ""

    def _reseed(self, best: Tensor) -> None:
        walk = self.walk
        other = reseeded(self.counted, best.to(self.counted.dtype), self.aim, walk.restarts)
        walk.restarts += 1
        if other is not None:
            walk.image, walk.damping, walk.memory = other, None, None
            walk.latest = float("inf")

    def _go_on(self, ended: str) -> None:
        walk, inversion = self.walk, self.inversion
        if ended and self.counted.dtype != self.finest:
            walk.fine, walk.memory, walk.latest, ended = True, None, float("inf"), ""
        long = walk.stale >= _STALE or self.ledger.spent > _AIM * inversion.budget
        hopeless = walk.residual > _FINE and long
        if self.ledger.spent + self.counted.share >= inversion.budget - FORWARD:
            ended = ended or "budget spent"
        elif walk.aim_index < len(inversion.links) - 1 and (hopeless or ended == "stagnated"):
            self._settle()
            return
        if ended:
            inversion.end(walk, ended)

    def _settle(self) -> None:
        """Aim at the site itself: no image found gives the value that the links led to."""
        walk, inversion = self.walk, self.inversion
        walk.aim, walk.aim_index = walk.given, len(inversion.links) - 1
        inversion.keep(walk, walk.image if walk.best is None else walk.best)
        assert walk.kept is not None
        walk.image = walk.kept
        walk.best, walk.residual, walk.latest = None, float("inf"), float("inf")
        walk.hard = []
        walk.damping, walk.memory, walk.fine = None, None, False
        walk.restarts, walk.stale = 0, 0
        why = "no image found that gives the value further down"
        name = inversion.site.name
        walk.records.append(Record(name, "image", 1.0, None, 0.0, why).as_row())

    def _lbfgs(self, left: float) -> tuple[Tensor, float]:
        walk, coordinates = self.walk, self.inversion.coordinates
        # What is left of an image that links led to has no spectrum of photos.
        chosen = coordinates.whitening if walk.near else coordinates
        image = walk.image.to(self.aim.dtype)
        walk.image, best, residual, walk.memory = lbfgs(
            self.counted, image, self.aim, walk.memory, left, chosen
        )
        return best, residual

    def _marquardt(self, left: float) -> tuple[Tensor, float]:
        walk, image = self.walk, self.walk.image.to(self.aim.dtype)
        tolerance = 10 * self.inversion.goal.tolerance
        found = marquardt(self.counted, image, self.aim, tolerance, walk.damping, left)
        walk.image, walk.damping = found.x, found.damping
        return found.x, float(found.residual.max())

    def _fine_steps(self) -> bool:
        """Whether Levenberg-Marquardt goes on, where single precision ended: near the pixels."""
        walk = self.walk
        near = self.inversion.below_a_block(self.site)
        if not (walk.fine and walk.residual < _FINE and near):
            return False
        patches = Patches.of(self.counted, self.aim)
        left = self.inversion.budget - self.ledger.spent
        return patches is not None and price(self.counted, patches) <= left
