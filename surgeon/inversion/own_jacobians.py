"""Newton's method for few tokens, each step solved by the token's own Jacobian.

Where a token's branch has a spectral radius over 1, the eigenvalues of I + J lie all around 0, and
GMRES needs about as many vectors as a token has numbers. A token's own Jacobian costs as many
products, and then the step is exact: near folds, that decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.inversion.ledger import FORWARD, JVP
from surgeon.inversion.strategy import Problem
from surgeon.solvers import Solution, newton_krylov
from surgeon.solvers.common import Cost, Map, norm, safe

#: Newton steps at most, and the share of its residual that a step must not leave.
_STEPS, _SLOW = 10, 0.97


def price(problem: Problem, count: int) -> float:
    """Gradient evaluations of one step with so many rows, at most."""
    part = problem.counted.share * count / max(len(problem.target), 1)
    return part * (JVP * (problem.target.shape[1] + 3) + 14 * FORWARD)


def newton_by_own(
    problem: Problem, numbers: Tensor, start: Tensor, tolerance: float, end: float
) -> Solution:
    """Newton's method for some rows by their own Jacobians; those done or stuck drop out.

    Args:
        problem: its rows go each its own way.
        numbers: of the rows.
        start: (rows, width), of those.
        end: what the ledger may come to.
    """
    x, target, cost = start.clone(), problem.target[numbers], Cost()
    residual = norm(target - problem(x)) / safe(norm(target))
    live, taken, history = torch.nonzero(residual > tolerance)[:, 0], 0, list[float]()
    while len(live) and taken < _STEPS:
        if problem.counted.ledger.spent + price(problem, len(live)) > end:
            break
        taken += 1
        found = newton_krylov(
            problem, problem.linearise, x[live], target[live], tolerance=tolerance,
            iterations=1, inner=2, precondition=lambda rows: _inverses(problem, rows),
        )  # fmt: skip
        cost += found.cost
        moved = found.residual < _SLOW * residual[live]
        x[live], residual[live] = found.x, found.residual
        live = live[moved & (found.residual > tolerance)]
        history.append(float(residual.max()))
    converged = residual <= tolerance
    stopped = "converged" if bool(converged.all()) else "stagnated"
    stopped = "iterations spent" if len(live) else stopped
    return Solution(x, residual, converged, stopped, taken, cost, history)


def _inverses(problem: Problem, rows: Tensor) -> Map:
    # One by one: MKL hangs in a batch of large matrices on several threads.
    factors = [torch.linalg.lu_factor_ex(j)[:2] for j in problem.counted.jacobians(rows[None])]

    def apply(v: Tensor) -> Tensor:
        solved = [
            torch.linalg.lu_solve(*f, row[:, None]) for f, row in zip(factors, v, strict=True)
        ]
        return torch.stack(solved)[..., 0]

    return apply
