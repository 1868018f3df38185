"""Exact inversion: the links from a site back to the pixels undone one after another.

A state machine: one step undoes one link, or searches the image a little further where no link can
be undone. Between steps everything is in `Walk`, which a checkpoint can hold.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgeon.inversion.chain import Counted, Link, chain
from surgeon.inversion.coordinates import Coordinates
from surgeon.inversion.forks import Fork
from surgeon.inversion.ledger import Ledger
from surgeon.inversion.residual import Undone, undo_residual
from surgeon.inversion.row_space import row_space
from surgeon.inversion.searching import REACHED, ImageSearch
from surgeon.inversion.strategy import SINGLE_FLOOR, Goal, Record, precisions, undo_affine
from surgeon.inversion.walk import Walk

if TYPE_CHECKING:
    from surgeon.anatomist.site import Site
    from surgeon.subject import Subject

#: Of the budget: what undoing links may come to with Newton's method, and what that may take of a
#: link near the pixels, where more is better spent on a search in the image.
_CHAIN, _NEAR = 0.2, 0.05
#: Kept back for judging images at the site: three forwards.
_JUDGING = 1.0
#: Values that a fixed point may take above a link that can't be undone.
_GLANCE = 20
#: Tokens of a sublayer that may be left, as a share, for the links below to be undone all the same.
_FEW = 0.25


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

    @property
    def room(self) -> float:
        """Gradient evaluations left, but for what judging images takes."""
        return self.budget - _JUDGING - self.ledger.spent

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
        return Walk("chain", last, y, y, last, self.start.clone(), y)

    def step(self, walk: Walk) -> None:
        """Undo one link, or search the image a little further."""
        self.ledger.spent = walk.spent
        if walk.stage == "chain":
            self._undo(walk)
        elif walk.stage == "image":
            ImageSearch(self, walk).step()
        walk.spent = self.ledger.spent

    # --- the chain

    def _undo(self, walk: Walk) -> None:
        link = self.links[walk.index]
        if not (walk.partial or walk.hard) and self._whole(walk.index):
            walk.aim, walk.aim_index = walk.value, walk.index
        if link.kind == "other":
            self._give_up(walk, f"{link.name} has no inverse of its own")
            return
        if self.ledger.spent >= self.budget - _JUDGING:
            self._run_dry(walk)
            return
        record = None
        if link.kind == "affine":
            walk.value, record = self.undo_affine(link, walk.value, self.goal)
        elif link.kind == "residual":
            undone = self._undo_residual(walk, link)
            walk.value, record = undone.x, undone.record
        if record is not None:
            walk.residual = record.residual
            walk.records.append(record.as_row())
            if not record.success and not walk.partial:
                outside = link.kind == "affine"  # of its range: no search finds more
                if outside and walk.aim_index == walk.index:
                    walk.aim, walk.aim_index = walk.given, len(self.links) - 1
                walk.partial = outside or self._few(link, record)
                if not walk.partial:
                    self._give_up(walk, f"{link.name} was not undone: {record.stopped}")
                    return
        walk.index -= 1
        if walk.index < 0:
            self._arrive(walk)

    def _run_dry(self, walk: Walk) -> None:
        """Nothing is left for the next link: the image is the best that a search found before."""
        if walk.best is not None:
            self.end(walk, "budget spent")
            return
        walk.stage, walk.stopped, walk.residual = "done", "budget spent", float("inf")
        walk.image = self.start.clone() if walk.kept is None else walk.kept

    def undo_affine(self, link: Link, value: Tensor, goal: Goal) -> tuple[Tensor, Record]:
        from_image = link.segment.source is None
        space = row_space(self.subject) if from_image else None
        start = self.start if from_image else torch.zeros_like(value)
        even = space.even if space else None
        return undo_affine(link, value, start, self.ledger, goal, even, self.room)

    def _undo_residual(self, walk: Walk, link: Link) -> Undone:
        near = link.segment.tokenwise and self.below_a_block(link.segment.target)
        left = max(_CHAIN * self.budget - self.ledger.spent, 0.0)
        goal, allowed = self.goal, _NEAR * self.budget if near else left
        if any(below.kind == "other" for below in self.links[: walk.index]):
            # The image will be searched in any case: only what is cheap is worth it.
            goal, allowed = replace(goal, values=_GLANCE), 0.0
        undone = undo_residual(link, walk.value, self.ledger, goal, allowed, self.room)
        if near and undone.hard and walk.index == walk.aim_index and not walk.partial:
            walk.fork, walk.source, walk.hard = walk.index, undone.x, undone.hard
        return undone

    def _few(self, link: Link, record: Record) -> bool:
        """Whether so few tokens are left that the links below are worth undoing all the same.

        Only near the pixels: further up, what a wrong token does to the others grows on the way.
        """
        tokens = link.segment.target.shape[1]
        alone = link.segment.tokenwise and record.left <= _FEW * tokens
        return alone and self.below_a_block(link.segment.target)

    def _whole(self, index: int) -> bool:
        """Whether nothing was left out above a link, so that an image must give all of its value.

        Where known tokens mixed with others, what they say of the image is lost from there on;
        where each token goes its own way, they say nothing of it.
        """
        return all(
            link.spare is None and (link.pinned is None or link.segment.tokenwise)
            for link in self.links[index + 1 :]
        )

    def keep(self, walk: Walk, image: Tensor) -> None:
        """Take note of an image if it is the nearest at the site itself."""
        counted = Counted(self.subject.segment(None, self.site), self.ledger, image.dtype)
        with counted.ready():
            left = walk.given.to(image.dtype) - counted(image)
        error = float(left.norm() / walk.given.norm())
        if error < walk.error or walk.kept is None:
            walk.kept, walk.error = image, error

    def _give_up(self, walk: Walk, why: str) -> None:
        self.keep(walk, self.start)
        walk.stage, walk.image, walk.residual = "image", self.start.clone(), float("inf")
        walk.records.append(Record(self.target(walk).name, "image", 1.0, None, 0.0, why).as_row())

    def target(self, walk: Walk) -> Site:
        """Where the value is that a walk aims at."""
        return self.links[walk.aim_index].segment.target

    def _arrive(self, walk: Walk) -> None:
        """Pixels are there: do they give the value that was aimed at, known tokens included?"""
        walk.image = walk.value
        given = self.given(walk, walk.image)
        walk.residual = float((walk.aim - given).norm() / walk.aim.norm())
        floor = REACHED if given.dtype == torch.float64 else 10 * SINGLE_FLOOR
        if walk.residual <= floor:
            walk.stage, walk.stopped = "done", "converged"
        elif walk.fork >= 0 and not walk.partial and Fork(self, walk).affordable:
            Fork(self, walk).choose()
        else:
            found, residual = walk.image, walk.residual
            why = "some tokens left" if walk.partial else "another pre-image of a part only"
            self._give_up(walk, why)
            self.keep(walk, found)
            if residual < 1:  # nearer than nothing
                walk.image = Fork(self, walk).anew(found) if walk.hard else found
                walk.near = True

    def given(self, walk: Walk, image: Tensor) -> Tensor:
        """The value at the target, in the finest precision."""
        segment = self.subject.segment(None, self.target(walk))
        counted = Counted(segment, self.ledger, precisions(image.device)[-1])
        with counted.ready():
            return counted(image.to(counted.dtype))

    def end(self, walk: Walk, why: str) -> None:
        """The search is over: of all its images the nearest at the site."""
        walk.stage, walk.stopped = "done", why
        self.keep(walk, walk.image if walk.best is None else walk.best)
        assert walk.kept is not None
        walk.image = walk.kept

    @cached_property
    def coordinates(self) -> Coordinates:
        """Of a search that begins at the start."""
        return Coordinates.of(self.subject)

    def below_a_block(self, site: Site) -> bool:
        """Whether a site is at most a block away from the pixels."""
        blocks = self.subject.anatomy.blocks
        return bool(blocks) and site.order <= blocks[0].call.end
