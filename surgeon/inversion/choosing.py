"""Which of several pre-images a token had: the one that agrees with all that is known below."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.inversion.residual import newton_from, products_within
from surgeon.inversion.strategy import Problem

#: Pre-images of one token are different from this distance on, relative.
_DIFFERENT = 1e-2
#: Times a combination is worked out anew from what the last one left.
_ROUNDS = 4


@dataclass(frozen=True)
class Alternative:
    """Another pre-image of one row.

    Attributes:
        row: its number.
        value: (width,).
        effect: what putting the row to it changes in what is left of all that is known.
    """

    row: int
    value: Tensor
    effect: Tensor


class Choice:
    """Pre-images of rows, and the choice of those that leave least of what is known below.

    Args:
        x: (rows, width), the pre-images at hand.
        trial: rows -> what is left with them; its norm is to be 0.
    """

    def __init__(self, x: Tensor, trial: Callable[[Tensor], Tensor]) -> None:
        self.x, self.trial = x, trial
        self.first = trial(x)
        self.best, self.left = x, float(self.first.norm())
        self.others: list[Alternative] = []

    def add(self, row: int, value: Tensor) -> bool:
        """Take note of another pre-image of a row; False if it is none but one of those known."""
        seen = [self.x[row], *(o.value for o in self.others if o.row == row)]
        value = value.to(self.x)
        if min(float((value - one).norm() / one.norm()) for one in seen) <= _DIFFERENT:
            return False
        effect = self.trial(self._with([(row, value)])) - self.first
        self.others.append(Alternative(row, value, effect))
        return True

    def choose(self) -> None:
        """Find the best choice among those known; `best` and `left` are of it."""
        left, taken = self.first, list[int]()
        for _ in range(_ROUNDS):
            # A change that is made is undone by its opposite.
            effects = [-o.effect if i in taken else o.effect for i, o in enumerate(self.others)]
            flipped = combination(left, effects, [o.row for o in self.others])
            if not flipped:
                return
            taken = sorted(set(taken) ^ set(flipped))
            rows = self._with([(self.others[i].row, self.others[i].value) for i in taken])
            left = self.trial(rows)
            if float(left.norm()) >= self.left:
                return
            self.best, self.left = rows, float(left.norm())

    def _with(self, changes: list[tuple[int, Tensor]]) -> Tensor:
        x = self.x.clone()
        for row, value in changes:
            x[row] = value
        return x


def combination(residual: Tensor, effects: list[Tensor], rows: list[int]) -> list[int]:
    """Which changes together undo a residual, at most one of each row.

    By least squares for how much of each change is wanted; what is wanted by more than half is
    made whole.

    Args:
        residual: what is left without any change.
        effects: how each change alone changes it.
        rows: what each change is of.

    Returns:
        Numbers of changes.
    """
    if not effects:
        return []
    columns = torch.stack([e.flatten() for e in effects], 1)
    wanted = torch.linalg.lstsq(columns, -residual.flatten()[:, None], driver="gelsd").solution
    best: dict[int, int] = {}
    for number in torch.nonzero(wanted[:, 0] > 0.5)[:, 0].tolist():
        row = rows[number]
        if row not in best or wanted[number] > wanted[best[row]]:
            best[row] = number
    return sorted(best.values())


def polished(
    problem: Problem, x: Tensor, hard: list[int], tolerance: float, end: float = math.inf
) -> Tensor:
    """Rows found in float32, to float64's last digits, if the ledger's `end` lets it."""
    numbers = torch.tensor(hard, device=x.device)
    products = products_within(problem, len(hard), end)
    x = x.clone()
    x[numbers] = newton_from(problem, numbers, x[numbers], tolerance, products).x
    return x
