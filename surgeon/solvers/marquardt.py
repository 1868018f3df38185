"""Nonlinear least squares by Levenberg-Marquardt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.solvers.common import Cost, Map, Solution, norm, safe, spread
from surgeon.solvers.krylov import conjugate_gradients

#: x -> (value, product with the Jacobian there, product with its transpose).
Linearisation = Callable[[Tensor], tuple[Tensor, Map, Map]]


@dataclass(frozen=True)
class Damping:
    """How the damping follows success (Marquardt 1963; Nielsen 1999 has the same in other words).

    Attributes:
        first: the first damping; one number, or (batch,) one for each problem.
        less, more: factors after a good and after a refused step.
        least: below which it doesn't go.
    """

    first: float | Tensor = 1e-2
    less: float = 0.25
    more: float = 4.0
    least: float = 1e-14


def levenberg_marquardt(
    function: Map,
    linearise: Linearisation,
    x0: Tensor,
    target: Tensor,
    *,
    tolerance: float = 1e-10,
    iterations: int = 60,
    inner: int = 25,
    products: int = 4000,
    damping: Damping | None = None,
    precondition: Callable[[Tensor, Tensor], Map] | None = None,
) -> Solution:
    """Minimise |target - F(x)| for F of any shape, by truncated conjugate gradients.

    The normal equations of each step are solved roughly, by at most `inner` iterations: with the
    damping that is a trust region (Steihaug 1983), better than exact steps near singularity.

    Args:
        function: F, for a batch (batch, ...).
        linearise: x -> (F(x), v -> J v, u -> J^T u).
        x0: where to start.
        target: (batch, ...), of F's shape.
        tolerance: on |target - F(x)| / |target|.
        products: with the Jacobian in all; as many with its transpose come beside them.
        precondition: (x, damping of each problem) -> (v -> M^-1 v) for the normal equations.

    Returns:
        The best point of each problem.
    """
    rule = damping or Damping()
    scale, x, cost = safe(norm(target)), x0, Cost()
    value, forward, back = linearise(x)
    cost.values += 1
    r = target - value
    lam = torch.as_tensor(rule.first, dtype=scale.dtype, device=scale.device).expand_as(scale)
    history, stopped, taken = list[float](), "iterations spent", 0
    refused = torch.zeros_like(scale)
    while taken < iterations:
        taken += 1
        now = norm(r)
        history.append(float((now / scale).max()))
        active = now > tolerance * scale
        if not bool(active.any()) or cost.products >= products:
            break
        step, spent = _step(forward, back, r, lam, now / scale, inner, x, precondition)
        cost += spent
        share, left, tried = _shortened(function, x, step, target, now, active)
        cost.values += tried
        good = share > 0
        refused = torch.where(good | ~active, 0.0, refused + 1)
        lam = torch.where(share == 1, lam * rule.less, torch.where(good, lam * 2, lam * rule.more))
        lam = lam.clamp(rule.least, 1e12)
        if bool((refused >= 8)[active].all()):
            stopped = "stagnated"
            break
        if bool(good.any()):
            x = x + spread(share, x) * step
            value, forward, back = linearise(x)
            cost.values += 1
            r = target - value
    left = norm(r)
    history.append(float((left / scale).max()))
    converged = left <= tolerance * scale
    stopped = "converged" if bool(converged.all()) else stopped
    return Solution(x, left / scale, converged, stopped, taken, cost, history, lam)


def _step(
    forward: Map,
    back: Map,
    r: Tensor,
    lam: Tensor,
    relative: Tensor,
    inner: int,
    x: Tensor,
    precondition: Callable[[Tensor, Tensor], Map] | None,
) -> tuple[Tensor, Cost]:
    """The damped Gauss-Newton step, roughly."""
    gradient = back(r)

    def normal(v: Tensor) -> Tensor:
        return back(forward(v)) + spread(lam, v) * v

    solved = conjugate_gradients(
        normal, gradient, tolerance=1e-2 * relative.clamp_max(1.0).sqrt(), iterations=inner,
        precondition=None if precondition is None else precondition(x, lam),
    )  # fmt: skip
    n = solved.cost.products
    return solved.x, Cost(products=n, transposed=n + 1)


def _shortened(
    function: Map, x: Tensor, step: Tensor, target: Tensor, now: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, int]:
    """Share of the step that brings each problem nearer, of 1, 1/2, 1/4; 0 where none does."""
    share = active.to(x.dtype)
    left, tried = now, 0
    for _ in range(3):
        left = norm(target - function(x + spread(share, x) * step))
        tried += 1
        bad = active & ~(torch.isfinite(left) & (left < now))
        if not bool(bad.any()):
            break
        share = torch.where(bad, share * 0.5, share)
    else:
        left = norm(target - function(x + spread(share, x) * step))
        tried += 1
        share = torch.where(active & ~(torch.isfinite(left) & (left < now)), 0.0, share)
    return share, left, tried
