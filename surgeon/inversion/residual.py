"""How a link that adds a branch to its input, y = x + f(x), is undone: more by what is seen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.inversion.chain import Counted, Link
from surgeon.inversion.ledger import FORWARD, JVP, Ledger
from surgeon.inversion.strategy import SINGLE_FLOOR, Goal, Problem, Record, precisions
from surgeon.solvers import Solution, fixed_point, newton_krylov
from surgeon.solvers.common import norm, safe

#: A link that is at most this share of the way is tried on, however many tokens are left.
_CHEAP = 0.1
#: What float32 leaves no more of than this, float64 goes on with.
_NEARLY = 1e-3
#: Several starts are worth it for this share of the tokens at most.
_FEW = 0.5


@dataclass
class Undone:
    """A residual link undone.

    Attributes:
        x: the value at its source; where it did not converge, the nearest found.
        record: what was done.
        hard: numbers of the rows that the fixed point did not find, where tokens are rows.
    """

    x: Tensor
    record: Record
    hard: list[int]


def undo_residual(
    link: Link, y: Tensor, ledger: Ledger, goal: Goal, allowed: float = math.inf,
    whole: float = math.inf,
) -> Undone:  # fmt: skip
    """x with F(x) = y where F keeps the shape: by fixed point, then Newton, then several starts.

    Args:
        y: (batch, ...), the value at the link's target.
        allowed: gradient evaluations that Newton's method may spend at most, beside the goal's.
        whole: what all of it may spend at most.
    """
    before = ledger.spent
    search = _Search(goal, before + allowed, before + whole)
    x = y
    for dtype in precisions(y.device):
        counted = Counted(link.segment, ledger, dtype)
        with counted.ready():
            problem = Problem(link, counted, y.to(dtype))
            rows = search.run(problem, problem.rows(x.to(dtype)))
            x = problem.whole(rows)
    left = search.residual > (goal.tolerance if dtype == torch.float64 else SINGLE_FLOOR)
    record = Record(
        link.name, search.method, float(search.residual.max()), search.gain,
        ledger.spent - before, search.stopped if bool(left.any()) else "converged",
        int(left.sum()), problem.resisting(search.residual, left) if problem.each else "",
    )  # fmt: skip
    hard = torch.nonzero(search.hard)[:, 0].tolist() if problem.each else []
    return Undone(x, record, hard)


class _Search:
    """Rows of one link, from precision to precision.

    Attributes:
        hard: (rows,) bool, which the fixed point did not find.
        residual: (rows,), relative, of the last precision.
    """

    def __init__(self, goal: Goal, end: float, last: float) -> None:
        self.goal, self.end, self.last = goal, end, last
        self.method, self.stopped = "fixed point", "converged"
        self.gain: float | None = None
        self.hard = torch.zeros(0, dtype=torch.bool)
        self.residual = torch.zeros(0)

    def run(self, problem: Problem, start: Tensor) -> Tensor:
        """One precision: the best of each row."""
        y, x = problem.target, start.clone()
        single = y.dtype == torch.float32
        tolerance = SINGLE_FLOOR if single else self.goal.tolerance
        if not len(self.hard):
            self.hard = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        # What float32 can't find at all, float64 won't either.
        hopeless = problem.each & self.hard & (self.residual > _NEARLY) if len(
            self.residual) else torch.zeros_like(self.hard)  # fmt: skip
        self.residual = norm(y - problem(x)) / safe(norm(y))
        self._fixed_point(problem, x, tolerance)
        left = (self.residual > tolerance) & ~hopeless
        if bool(left.any()) and (problem.each or y.dtype == precisions(y.device)[-1]):
            self.method = "newton" if self.method == "fixed point" else self.method
            self._newton(problem, x, left, tolerance)
            left = self.residual > tolerance
            if single and problem.each and 0 < int(left.sum()) <= _FEW * len(left):
                self.method = "starts"
                self._several(problem, x, tolerance)
        return x

    def _fixed_point(self, problem: Problem, x: Tensor, tolerance: float) -> None:
        """Of the rows that it found so far, or all; x and residual change in place."""
        easy = torch.nonzero(~self.hard & (self.residual > tolerance))[:, 0]
        price = FORWARD * problem.counted.share * len(easy) / len(x)
        left = (self.last - problem.counted.ledger.spent) / max(price, 1e-9)
        if not len(easy) or left < 1:
            self.stopped = "budget spent" if len(easy) else self.stopped
            self.hard[easy] = True
            return
        some = problem.some if problem.each else lambda z, _: z + problem.target - problem(z)
        found = fixed_point(
            lambda z: some(z, easy), x[easy], tolerance=tolerance,
            iterations=int(min(self.goal.values, left)),
            some=lambda z, live: some(z, easy[live]),
        )  # fmt: skip
        if self.gain is None and len(found.history) > 1:
            self.gain = found.history[1] / found.history[0]
        scale = norm(x[easy]) / safe(norm(problem.target[easy]))
        nearer = found.residual * scale < self.residual[easy]
        x[easy[nearer]] = found.x[nearer]
        self.residual[easy[nearer]] = (found.residual * scale)[nearer]
        self.hard[easy] = ~found.converged
        self.stopped = found.stopped

    def _newton(self, problem: Problem, x: Tensor, left: Tensor, tolerance: float) -> None:
        """Newton in rounds: rows done are left out of the next, the rest get more vectors."""
        ledger, share, goal = problem.counted.ledger, problem.counted.share, self.goal
        end = min(self.end, ledger.spent + goal.spend * max(share, 0.15))
        numbers, inner = torch.nonzero(left)[:, 0], goal.inner
        for _ in range(goal.rounds):
            part = share * len(numbers) / len(x)
            products = min(4 * inner, int((end - ledger.spent) / max(JVP * part, 1e-9)))
            if products < 4:
                self.stopped = "budget spent"
                return
            count, before = len(numbers), float(self.residual[numbers].max())
            found = newton_krylov(
                problem, problem.linearise, x[numbers], problem.target[numbers],
                tolerance=tolerance, iterations=4, inner=inner, products=products,
            )  # fmt: skip
            x[numbers], self.residual[numbers] = found.x, found.residual
            self.stopped, numbers = found.stopped, numbers[~found.converged]
            inner = inner * 3 // 2
            if not len(numbers) or self.stopped == "diverged":
                return
            slow = float(self.residual[numbers].max()) > 0.5 * before
            many = problem.each and 4 * len(numbers) > len(x) and share > _CHEAP
            if many or (len(numbers) == count and slow):
                # Too many for their price, or no fewer: more of the same won't help.
                self.stopped = "stagnated"
                return

    def _several(self, problem: Problem, x: Tensor, tolerance: float) -> None:
        """Newton from several starts, of the rows that are left."""
        done = self.residual <= tolerance
        for start in starts(x, problem.target, done):
            numbers = torch.nonzero(self.residual > tolerance)[:, 0]
            products = products_within(problem, len(numbers), self.end)
            if not len(numbers) or products < 4:
                return
            found = newton_from(problem, numbers, start[numbers], tolerance, products)
            nearer = found.residual < self.residual[numbers]
            x[numbers[nearer]] = found.x[nearer]
            self.residual[numbers[nearer]] = found.residual[nearer]
            self.stopped = found.stopped


def starts(x: Tensor, y: Tensor, done: Tensor) -> Iterator[Tensor]:
    """Where else the rows of x may be found: as the mean of those that are, with some of their own.

    A token of low variance has its pre-image nearer the mean than `y` is.

    Args:
        x: (rows, width), pre-images of y where `done`.

    Yields:
        (rows, width), a start for each row.
    """
    if not bool(done.any()):
        return
    mean, shift = x[done].mean(0), y - y[done].mean(0)
    for share in (0.75, 0.0, 0.25, -0.25):
        yield mean + share * shift
    middle = y.mean(-1, keepdim=True)
    yield middle + 0.3 * (y - middle)
    yield mean + 0.5 * shift


def products_within(problem: Problem, count: int, end: float, most: int = 500) -> int:
    """Jacobian products with so many rows until the ledger is at its end."""
    counted = problem.counted
    each = JVP * counted.share * count / max(len(problem.target), 1)
    return int(max(0, min(most, (end - counted.ledger.spent) / max(each, 1e-9))))


def newton_from(
    problem: Problem, numbers: Tensor, start: Tensor, tolerance: float, products: int
) -> Solution:
    """Newton's method for some rows, from far."""
    return newton_krylov(
        problem, problem.linearise, start, problem.target[numbers], tolerance=tolerance,
        iterations=25, inner=80, products=products,
    )  # fmt: skip
