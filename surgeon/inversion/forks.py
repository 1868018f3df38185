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
from surgeon.inversion.own_jacobians import newton_by_own, price
from surgeon.inversion.patches import Patches, reseeded
from surgeon.inversion.residual import newton_from, products_within, undo_residual
from surgeon.inversion.strategy import SINGLE_FLOOR, Problem, Record, precisions
from surgeon.inversion.walk import Walk
from surgeon.solvers import Solution
from surgeon.solvers.common import norm, safe

if TYPE_CHECKING:
    from surgeon.inversion.exact import ExactInversion

#: Of the budget: what has been spent when no other pre-image is looked for any more.
_CHOICE = 0.5
#: Of the budget: what one look for others may take at most. Dearer ones leave too little to the
#: search in the image, which does better then.
_LOOK = 0.1
#: Candidates that each token is looked for from, and Jacobian products of one look.
_TURNS, _PRODUCTS = 6, 1200
#: Tokens whose values in an image near are so many times as far from those found as the median
#: token's are doubted, if that is so far at all, relative.
_DOUBTED, _APART = 4.0, 1e-2
#: Products with each doubted token when they are found from an image near.
_LANDING = 300
#: Of the budget: what finding them may take, each time.
_OWN = 0.25
#: Below this residual exact steps go on from where GMRES came to, else from the image's own.
_NEAR_ENOUGH = 1e-4
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
        self.last = inversion.room + self.ledger.spent

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
            rows = polished(
                problem, choice.best, walk.hard, self.inversion.goal.tolerance, self.last
            )
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
            numbers = _doubted(was, start)
            if not len(numbers):
                return False
            found = self._nearest(problem, numbers, start[numbers])
        if not found.success:
            return False
        problem = Problem(self.link, self._counted(kinds[-1]), walk.aim.to(kinds[-1]))
        rows = problem.rows(walk.source.to(kinds[-1]))
        rows[numbers] = found.x.to(rows)
        with problem.counted.ready():
            rows = polished(problem, rows, numbers.tolist(), tolerance, self.last)
        below = self._below(problem.whole(rows))
        left = float(self._missing(below).norm()) / self.scale
        if left > 10 * _TRIAL:
            if left < walk.residual:  # not all are right, yet more than in the image
                walk.image = walk.best = below
                walk.source, walk.residual = problem.whole(rows), left
                walk.memory, walk.damping, walk.latest = None, None, float("inf")
            return False
        walk.value, walk.index, walk.fork = problem.whole(rows), walk.aim_index - 1, -1
        walk.stage, walk.partial = "chain", False
        record = Record(
            self.link.name, "newton", left, None, self.ledger.spent - before, "converged"
        )
        walk.records.append(record.as_row())
        return True

    def _nearest(self, problem: Problem, numbers: Tensor, start: Tensor) -> Solution:
        """Rows by Newton's method; those that GMRES leaves, with exact steps."""
        end = min(self.ledger.spent + _OWN * self.inversion.budget, self.last)
        products = products_within(problem, len(numbers), end, _LANDING)
        found = newton_from(problem, numbers, start, SINGLE_FLOOR, products)
        left = torch.nonzero(~found.converged)[:, 0]
        if not len(left) or price(problem, len(left)) > end - self.ledger.spent:
            return found
        near = (found.residual[left] < _NEAR_ENOUGH)[:, None]
        again = torch.where(near, found.x[left], start[left])
        own = newton_by_own(problem, numbers[left], again, SINGLE_FLOOR, end)
        found.x[left], found.residual[left] = own.x, own.residual
        found.converged[left] = own.converged
        return found

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
        return self._missing(self._below(value))

    def _missing(self, image: Tensor) -> Tensor:
        return self.walk.aim - self.inversion.given(self.walk, image)

    def _below(self, value: Tensor) -> Tensor:
        """The image that a value at the link's source is undone to."""
        goal = replace(self.inversion.goal, tolerance=max(self.inversion.goal.tolerance, _TRIAL))
        for link in reversed(self.inversion.links[: self.walk.aim_index]):
            if link.kind == "residual":
                value = undo_residual(link, value, self.ledger, goal, 0.0, self.inversion.room).x
            elif link.kind == "affine":
                value = self.inversion.undo_affine(link, value, goal)[0]
        return value

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


def _doubted(found: Tensor, image: Tensor) -> Tensor:
    """Numbers of the rows that are further from those of an image near than that is as a whole.

    Of the others the image says what was found; with them another pre-image is likely.
    """
    apart = norm(image - found) / safe(norm(found))
    return torch.nonzero(apart > max(_APART, _DOUBTED * float(apart.median())))[:, 0]
