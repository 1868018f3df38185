"""Tokens near the pixels that may have several pre-images: another is taken if the first is wrong.

A link undone token by token says nothing of which pre-image a token had. What lies below does: the
known tokens, and what the stem can give at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgeon.inversion.chain import Counted
from surgeon.inversion.choosing import Choice, polished
from surgeon.inversion.ledger import JVP
from surgeon.inversion.patches import Patches, reseeded
from surgeon.inversion.residual import newton_from, products_within, undo_residual
from surgeon.inversion.strategy import SINGLE_FLOOR, Problem, Record, precisions
from surgeon.inversion.walk import Walk
from surgeon.solvers.common import norm

if TYPE_CHECKING:
    from surgeon.inversion.exact import ExactInversion

#: Of the budget: what has been spent when no other pre-image is looked for any more.
_CHOICE = 0.5
#: Of the budget: what one look for others may take at most. Dearer ones leave too little to the
#: search in the image, which does better then.
_LOOK = 0.1
#: Candidates that each token is looked for from, and Jacobian products of one look.
_TURNS, _PRODUCTS = 6, 1200
#: Tokens whose values in an image near are so far from those found, relative, are hard as well.
_DOUBTED = 0.05
#: Products with each hard token when they are found from an image near.
_LANDING = 300
#: Residual of the links below while pre-images are tried.
_TRIAL = 1e-7


class Fork:
    """A link whose hard tokens may have several pre-images.

    Args:
        walk: come down to the pixels by way of the link, whose target it aims at.
    """

    def __init__(self, inversion: ExactInversion, walk: Walk) -> None:
        self.inversion, self.walk = inversion, walk
        self.link = inversion.links[walk.aim_index]
        self.ledger, self.scale = inversion.ledger, float(walk.aim.norm())
        self.end = _CHOICE * inversion.budget

    def choose(self) -> None:
        """Put the walk back to the link's source, with the pre-images that agree best below."""
        walk, before = self.walk, self.ledger.spent
        assert walk.source is not None
        dtype = precisions(walk.aim.device)[-1]
        problem = Problem(self.link, self._counted(dtype), walk.aim.to(dtype))
        choice = Choice(
            problem.rows(walk.source.to(dtype)), lambda rows: self._left(problem.whole(rows))
        )
        for turn in range(_TURNS):
            if choice.left <= 10 * _TRIAL * self.scale or self.ledger.spent > self.end:
                break
            for row, value in self._others(turn):
                choice.add(row, value)
            choice.choose()
        with problem.counted.ready():
            rows = polished(problem, choice.best, walk.hard, self.inversion.goal.tolerance)
        walk.value, walk.index, walk.fork = problem.whole(rows), walk.fork - 1, -1
        record = Record(
            self.link.name, "choice", choice.left / self.scale, None, self.ledger.spent - before,
            f"{len(choice.others)} other pre-images",
        )  # fmt: skip
        walk.records.append(record.as_row())

    @property
    def affordable(self) -> bool:
        """Whether a look for others is cheap enough, and there is enough left."""
        tokens = self.walk.aim.shape[0] * self.walk.aim.shape[1]
        share = self._counted(torch.float32).share * len(self.walk.hard) / tokens
        look = JVP * share * _PRODUCTS
        return look <= _LOOK * self.inversion.budget and self.ledger.spent + look <= self.end

    def anew(self, image: Tensor) -> Tensor:
        """An image whose patches of hard tokens are the start's: what was found there is wrong."""
        patches, bad = self._patches(image.dtype)
        if bad is None or patches is None:
            return image
        cut, first = patches.cut(image), patches.cut(self.inversion.start.to(image))
        return patches.image(torch.where(bad[:, None], first, cut), image)

    def land(self, image: Tensor) -> bool:
        """Put the walk back to the link's source, with the hard tokens found from an image near.

        Returns:
            Whether they were found, and agree with all that is known below.
        """
        walk, before = self.walk, self.ledger.spent
        assert walk.source is not None
        kinds, tolerance = precisions(walk.aim.device), self.inversion.goal.tolerance
        start = self._tokens(image.to(kinds[0]))
        problem = Problem(self.link, self._counted(kinds[0]), walk.aim.to(kinds[0]))
        with problem.counted.ready():
            was = problem.rows(walk.source.to(kinds[0]))
            doubted = norm(start - was) > _DOUBTED * norm(was)  # the fixed point errs as well
            doubted[walk.hard] = True
            numbers = torch.nonzero(doubted)[:, 0]
            products = products_within(problem, len(numbers), self.inversion.budget, _LANDING)
            found = newton_from(problem, numbers, start[numbers], SINGLE_FLOOR, products)
        if not found.success:
            return False
        problem = Problem(self.link, self._counted(kinds[-1]), walk.aim.to(kinds[-1]))
        rows = problem.rows(walk.source.to(kinds[-1]))
        rows[numbers] = found.x.to(rows)
        with problem.counted.ready():
            rows = polished(problem, rows, numbers.tolist(), tolerance)
        left = float(self._left(problem.whole(rows)).norm()) / self.scale
        if left > 10 * _TRIAL:
            return False
        walk.value, walk.index, walk.fork = problem.whole(rows), walk.aim_index - 1, -1
        walk.stage, walk.partial = "chain", False
        record = Record(
            self.link.name, "newton", left, None, self.ledger.spent - before, "converged"
        )
        walk.records.append(record.as_row())
        return True

    def _tokens(self, image: Tensor) -> Tensor:
        """An image's value at the link's source, as rows."""
        source, aim = self.link.segment.source, self.walk.aim.to(image.dtype)
        assert source is not None
        below = Counted(self.inversion.subject.segment(None, source), self.ledger, image.dtype)
        with below.ready():
            return Problem(self.link, self._counted(image.dtype), aim).rows(below(image))

    def _counted(self, dtype: torch.dtype) -> Counted:
        return Counted(self.link.segment, self.ledger, dtype)

    def _left(self, value: Tensor) -> Tensor:
        """What is left of the aim with a value at the link's source, undone to the pixels."""
        goal = replace(self.inversion.goal, tolerance=max(self.inversion.goal.tolerance, _TRIAL))
        for link in reversed(self.inversion.links[: self.walk.aim_index]):
            if link.kind == "residual":
                value = undo_residual(link, value, self.ledger, goal, 0.0).x
            elif link.kind == "affine":
                value = self.inversion.undo_affine(link, value, goal)[0]
        return self.walk.aim - self.inversion.given(self.walk, value)

    def _patches(self, dtype: torch.dtype) -> tuple[Patches | None, Tensor | None]:
        """The patches, and (batch, patches) bool, those of the hard tokens.

        None where tokens are no patches.
        """
        subject, aim = self.inversion.subject, self.walk.aim
        above = Counted(subject.segment(None, self.link.segment.target), self.ledger, dtype)
        patches = Patches.of(above, aim, small=False)
        mask = self.link.spare if self.link.pinned is None else self.link.pinned
        known = 0 if mask is None else int(mask.sum())
        if patches is None or aim.shape[1] - known != patches.tokens:
            return None, None
        bad = torch.zeros(len(aim), patches.tokens, dtype=torch.bool)
        bad.view(-1)[self.walk.hard] = True
        return patches, bad.to(aim.device)

    def _others(self, turn: int) -> Iterator[tuple[int, Tensor]]:
        """Pre-images of the hard tokens, from patches that would suit the image; in float32."""
        walk = self.walk
        dtype = precisions(walk.aim.device)[0]
        image, aim = walk.image.to(dtype), walk.aim.to(dtype)
        patches, bad = self._patches(dtype)
        if patches is None:
            return
        numbers = torch.tensor(walk.hard, device=aim.device)
        with patches.counted.ready():
            tried = reseeded(patches.counted, image, aim, turn, bad)
            if tried is None:
                return
            problem = Problem(self.link, self._counted(dtype), aim)
            start = self._tokens(tried)[numbers]
            products = products_within(problem, len(numbers), self.end, _PRODUCTS)
            found = newton_from(problem, numbers, start, SINGLE_FLOOR, products)
        for row, value, good in zip(walk.hard, found.x, found.converged, strict=True):
            if bool(good):
                yield row, value
