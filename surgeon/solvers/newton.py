"""Newton's method with Krylov steps and backtracking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.solvers.common import Cost, Map, Solution, norm, safe, spread
from surgeon.solvers.krylov import gmres

#: x -> (value, product with the Jacobian there).
Linearisation = Callable[[Tensor], tuple[Tensor, Map]]


@dataclass(frozen=True)
class Forcing:
    """How exactly each linear system is solved (Eisenstat and Walker 1996, choice 2).

    Attributes:
        first: tolerance of the first system.
        most: the largest tolerance.
        gamma, power: tolerance = gamma * (|F| / |F before|) ** power.
    """

    first: float = 1e-1
    most: float = 1e-1
    gamma: float = 0.5
    power: float = 2.0

    def tolerance(self, now: Tensor, before: Tensor | None, goal: Tensor) -> Tensor:
        if before is None:
            return torch.full_like(now, self.first)
        eta = self.gamma * (now / safe(before)) ** self.power
        # No more exact than the outer tolerance can use.
        return torch.maximum(
            eta.clamp_max(self.most), (0.5 * goal / safe(now)).clamp_max(self.most)
        )


def newton_krylov(
    function: Map,
    linearise: Linearisation,
    x0: Tensor,
    target: Tensor,
    *,
    tolerance: float = 1e-10,
    iterations: int = 20,
    inner: int = 60,
    products: int = 600,
    forcing: Forcing | None = None,
    precondition: Callable[[Tensor], Map] | None = None,
    least_step: float = 1e-3,
) -> Solution:
    """Solve F(x) = target by inexact Newton steps (Dembo, Eisenstat and Steihaug 1982).

    Args:
        function: F, for a batch (batch, ...); x and F(x) have one shape.
        linearise: x -> (F(x), v -> J(x) v).
        x0: where to start.
        target: (batch, ...).
        tolerance: on |target - F(x)| / |target|.
        iterations: Newton steps at most.
        inner: Krylov vectors of one linear system.
        products: Jacobian products in all.
        precondition: x -> (v -> M^-1 v) for the system at x.
        least_step: a shorter step than this share of Newton's counts as stagnation.

    Returns:
        The best point of each problem. Converged problems stay where they are.
    """
    forcing = forcing or Forcing()
    scale, x, cost = safe(norm(target)), x0, Cost()
    goal = tolerance * scale
    history, before = list[float](), None
    value, product = linearise(x)
    cost.values += 1
    r = target - value
    stuck = torch.zeros_like(scale, dtype=torch.bool)
    taken = 0
    while taken < iterations:
        taken += 1
        now = norm(r)
        history.append(float((now / scale).max()))
        active = (now > goal) & ~stuck
        if not bool(active.any()) or cost.products >= products:
            break
        solved = gmres(
            product, r * spread(active, r), tolerance=forcing.tolerance(now, before, goal),
            restart=inner, iterations=min(inner, products - cost.products),
            precondition=None if precondition is None else precondition(x),
        )  # fmt: skip
        cost += solved.cost
        before = now
        share, tried = _backtrack(function, x, solved.x, target, now, active, least_step)
        cost.values += tried
        stuck |= active & (share == 0)
        x = x + spread(share, x) * solved.x
        value, product = linearise(x)
        cost.values += 1
        r = target - value
    left = norm(r)
    history.append(float((left / scale).max()))
    converged = left <= goal
    stopped = _verdict(left, converged, stuck)
    return Solution(x, left / scale, converged, stopped, taken, cost, history)


def _verdict(left: Tensor, converged: Tensor, stuck: Tensor) -> str:
    """Why it stopped."""
    if bool(converged.all()):
        return "converged"
    if bool((stuck | converged).all()):
        return "stagnated"
    return "iterations spent" if bool(torch.isfinite(left).all()) else "diverged"


def _backtrack(
    function: Map,
    x: Tensor,
    step: Tensor,
    target: Tensor,
    now: Tensor,
    active: Tensor,
    least: float,
) -> tuple[Tensor, int]:
    """Share of the step each problem takes (Armijo on |F|), 0 where none helps; values spent."""
    share = active.to(x.dtype)
    waiting, tried = active.clone(), 0
    while bool(waiting.any()):
        left = norm(target - function(x + spread(share, x) * step))
        tried += 1
        good = torch.isfinite(left) & (left <= (1 - 1e-4 * share) * now)
        waiting &= ~good
        share = torch.where(waiting, share * 0.5, share)
        gone = waiting & (share < least)
        share = torch.where(gone, 0.0, share)
        waiting &= ~gone
    return share, tried
