"""Exact inversion: the links from a site back to the pixels undone one after another.

A state machine: one step undoes one link, or searches the image a little further where no link can
be undone. Between steps everything is in `Walk`, which a checkpoint can hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surgeon.inversion.chain import Counted, chain
from surgeon.inversion.image_search import lbfgs, marquardt, reseeded
from surgeon.inversion.ledger import Ledger
from surgeon.inversion.row_space import row_space
from surgeon.inversion.strategy import (
    SINGLE_FLOOR,
    Goal,
    Record,
    precisions,
    undo_affine,
    undo_residual,
)

if TYPE_CHECKING:
    from surgeon.anatomist.site import Site
    from surgeon.subject import Subject

#: An image whose output is this near is a pre-image; rounding of a deep chain stays below it.
REACHED = 1e-8
#: A slice of the search that leaves this share of the residual is stuck, if still that far off.
_STUCK, _FAR, _RESTARTS = 0.8, 1e-3, 6
#: Gradient evaluations of one rough step, about.
_STEP = 36.0


@dataclass
class Walk:
    """Where an exact inversion is.

    Attributes:
        stage: "chain": links are undone; "image": pixels are searched for; "done".
        index: of the link to undo next.
        value: at that link's target.
        aim, aim_index: the value an image must give, and the link whose target it is at.
        image: the best so far.
        residual: relative, of what was done last.
        damping, memory: of the search in the image, to go on with.
        best: the image whose residual was least, of the search in the image.
        latest, restarts: residual of its last slice, and how often patches were put anew.
        fine: whether that search has gone on to float64.
        spent: gradient evaluations.
        records: rows of `Record`.
        stopped: why it ended, empty while it goes on.
    """

    stage: str
    index: int
    value: Tensor
    aim: Tensor
    aim_index: int
    image: Tensor
    residual: float = 1.0
    damping: Tensor | None = None
    memory: dict[str, Any] | None = None
    best: Tensor | None = None
    latest: float = float("inf")
    restarts: int = 0
    fine: bool = False
    spent: float = 0.0
    records: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""


class ExactInversion:
    """Undoes a subject from a site back to the pixels.

    Args:
        subject: operated.
        site: where the value is known.
        start: (batch, channels, height, width), what the image keeps where the subject is blind.
        budget: gradient evaluations at most, in units of the whole way to the site.
    """

    def __init__(
        self, subject: Subject, site: Site, start: Tensor, *, budget: float = 200.0,
        goal: Goal | None = None,
    ) -> None:  # fmt: skip
        self.subject, self.site, self.start = subject, site, start
        self.budget, self.goal = budget, goal or Goal()
        self.links = chain(subject, site)
        self.ledger = Ledger(sum(link.segment.flops for link in self.links))

    @property
    def obstacle(self) -> str:
        """Why the links can't all be undone one by one; empty where they can."""
        for link in reversed(self.links):
            if link.kind == "other":
                return f"{link.segment.target.name} has no inverse of its own"
        return ""

    def output(self, image: Tensor) -> Tensor:
        """The site's value for an image, in the finest precision there is. Not counted."""
        dtype = precisions(image.device)[-1]
        value = image.to(dtype)
        for link in self.links:
            with torch.no_grad(), self.subject.in_dtype(dtype, link.segment.parameters):
                value = link.segment(value)
        return value

    def begin(self, y: Tensor) -> Walk:
        """The first state, for a value at the site."""
        last = len(self.links) - 1
        return Walk("chain", last, y, y, last, self.start.clone())

    def step(self, walk: Walk) -> None:
        """Undo one link, or search the image a little further."""
        self.ledger.spent = walk.spent
        if walk.stage == "chain":
            self._undo(walk)
        elif walk.stage == "image":
            self._search(walk)
        walk.spent = self.ledger.spent

    # --- the chain

    def _undo(self, walk: Walk) -> None:
        link = self.links[walk.index]
        if (link.pinned is None and link.spare is None) or self._above(walk.index):
            walk.aim, walk.aim_index = walk.value, walk.index
        if link.kind == "other":
            self._give_up(walk, f"{link.name} has no inverse of its own")
            return
        record = None
        if link.kind == "affine":
            from_image = link.segment.source is None
            space = row_space(self.subject) if from_image else None
            start = self.start if from_image else torch.zeros_like(walk.value)
            even = space.even if space else None
            walk.value, record = undo_affine(link, walk.value, start, self.ledger, self.goal, even)
        elif link.kind == "residual":
            walk.value, record = undo_residual(link, walk.value, self.ledger, self.goal)
        if record is not None:
            walk.residual = record.residual
            walk.records.append(record.as_row())
            if not record.success:
                self._give_up(walk, f"{link.name} was not undone: {record.stopped}")
                return
        walk.index -= 1
        if walk.index < 0:
            self._arrive(walk)

    def _above(self, index: int) -> bool:
        """Whether a link is the topmost of those below which known tokens are pinned."""
        above = self.links[index + 1] if index + 1 < len(self.links) else None
        return above is None or (above.pinned is None and above.spare is None)

    def _give_up(self, walk: Walk, why: str) -> None:
        walk.stage, walk.image, walk.residual = "image", self.start.clone(), float("inf")
        walk.records.append(Record(self._target(walk).name, "image", 1.0, None, 0.0, why).as_row())

    def _target(self, walk: Walk) -> Site:
        return self.links[walk.aim_index].segment.target

    def _arrive(self, walk: Walk) -> None:
        """Pixels are there: do they give the value that was aimed at, known tokens included?"""
        walk.image = walk.value
        segment = self.subject.segment(None, self._target(walk))
        counted = Counted(segment, self.ledger, precisions(walk.value.device)[-1])
        with counted.ready():
            left = walk.aim - counted(walk.image.to(counted.dtype))
        walk.residual = float(left.norm() / walk.aim.norm())
        floor = REACHED if counted.dtype == torch.float64 else 10 * SINGLE_FLOOR
        if walk.residual <= floor:
            walk.stage, walk.stopped = "done", "converged"
        else:
            self._give_up(walk, "another pre-image of a part, none of the whole")

    # --- the image

    def _search(self, walk: Walk) -> None:
        """Pixels that give the value aimed at: by Levenberg-Marquardt near them, else L-BFGS."""
        kinds = precisions(walk.image.device)
        dtype = kinds[-1] if walk.fine else kinds[0]
        counted = Counted(self.subject.segment(None, self._target(walk)), self.ledger, dtype)
        before, left = self.ledger.spent, self.budget - self.ledger.spent
        image, aim = walk.image.to(dtype), walk.aim.to(dtype)
        rough = not self._near(walk)
        with counted.ready():
            if rough:
                walk.image, residual, walk.memory = lbfgs(counted, image, aim, walk.memory, left)
                ended = "stagnated" if residual >= walk.residual else "iterations spent"
            else:
                residual, ended = self._marquardt(walk, counted, image, aim, left)
        if residual < walk.residual or walk.best is None:
            walk.best, walk.residual = walk.image, min(residual, walk.residual)
        cost = self.ledger.spent - before
        self._note(walk, "lbfgs" if rough else "image", cost)
        if ended in ("converged", "stagnated", "diverged"):
            if dtype == kinds[-1]:
                walk.stage, walk.stopped = "done", ended
            else:
                walk.fine, walk.memory = True, None
        if self.ledger.spent + (1 if rough else _STEP) * counted.share >= self.budget:
            walk.stage, walk.stopped = "done", walk.stopped or "budget spent"
        if walk.stopped:
            walk.image = walk.best

    def _marquardt(
        self, walk: Walk, counted: Counted, image: Tensor, aim: Tensor, left: float
    ) -> tuple[float, str]:
        """A slice of Levenberg-Marquardt; where it is stuck, patches are put anew."""
        tolerance = 10 * self.goal.tolerance if walk.fine else SINGLE_FLOOR
        found = marquardt(counted, image, aim, tolerance, walk.damping, left)
        walk.image, walk.damping = found.x, found.damping
        residual, ended = float(found.residual.max()), found.stopped
        stuck = residual > _STUCK * walk.latest and residual > _FAR
        walk.latest = residual
        if stuck and walk.restarts < _RESTARTS:
            other = reseeded(counted, walk.image, aim)
            walk.restarts += 1
            if other is not None:
                if residual < walk.residual:
                    walk.best, walk.residual = walk.image, residual
                walk.image, walk.damping, walk.latest = other, None, float("inf")
                return float("inf"), "iterations spent"
        return residual, ended

    def _near(self, walk: Walk) -> bool:
        """Whether what is aimed at is at most a block away from the pixels."""
        blocks = self.subject.anatomy.blocks
        return bool(blocks) and self._target(walk).order <= blocks[0].call.end

    def _note(self, walk: Walk, method: str, cost: float) -> None:
        last = walk.records[-1]
        left = int(walk.residual > REACHED)
        walk.records[-1] = {
            **last, "method": method, "residual": walk.residual, "cost": last["cost"] + cost,
            "left": left,
        }  # fmt: skip
