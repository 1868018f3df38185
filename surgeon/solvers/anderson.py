"""Fixed points, accelerated."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from surgeon.solvers.common import Cost, Map, Solution, norm, rows, safe


def fixed_point(
    function: Map,
    x0: Tensor,
    *,
    tolerance: float = 1e-8,
    iterations: int = 60,
    memory: int = 8,
    patience: int = 8,
    some: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Solution:
    """Find x = g(x) by Anderson acceleration (Anderson 1965; Walker and Ni 2011, type II).

    Each problem goes on until it has converged, has diverged, or is stuck: those that are hopeless
    don't keep the others from converging.

    Args:
        function: g, for a batch (batch, ...).
        x0: where to start.
        tolerance: on |g(x) - x| / |x0|.
        iterations: values of g at most.
        memory: differences kept; 0 is the plain iteration.
        patience: iterations without a new best before a problem counts as stuck.
        some: g for some of the problems, given x of those and their numbers, so that those that
            are done need not be computed. Left out, the whole batch is.

    Returns:
        The best point of each problem.
    """
    scale = safe(norm(x0))
    best, least = x0.clone(), torch.full_like(scale, torch.inf)
    live, since = torch.arange(len(x0), device=x0.device), torch.zeros_like(scale)
    first, lost = scale, torch.zeros_like(scale, dtype=torch.bool)
    x, points, residuals = x0, list[Tensor](), list[Tensor]()
    history, cost = list[float](), Cost()
    while cost.values < iterations and len(live):
        f = _value(function, some, x, live, best) - x
        cost.values += 1
        left = norm(f) / scale[live]
        first = left if cost.values == 1 else first
        first = left if cost.values == 1 else first
        since[live] = torch.where(left < 0.9 * least[live], 0.0, since[live] + 1)
        better = left < least[live]
        best[live[better]], least[live] = x[better], torch.minimum(left, least[live])
        history.append(float(least.max()))
        lost[live] = ~torch.isfinite(left) | (left > 1e6 * first[live])
        on = (least[live] > tolerance) & ~lost[live] & (since[live] < patience)
        live, kept = live[on], memory + 1
        points = [p[on] for p in [*points, x][-kept:]]
        residuals = [r[on] for r in [*residuals, f][-kept:]]
        if len(live):
            mixed = memory and len(points) > 1
            x = _mixed(points, residuals) if mixed else points[-1] + residuals[-1]
    converged = least <= tolerance
    stopped = _verdict(converged, lost, len(live) > 0)
    return Solution(best, least, converged, stopped, cost.values, cost, history)


def _value(
    function: Map,
    some: Callable[[Tensor, Tensor], Tensor] | None,
    x: Tensor,
    live: Tensor,
    best: Tensor,
) -> Tensor:
    if some is not None:
        return some(x, live)
    if len(live) == len(best):
        return function(x)
    whole = best.clone()
    whole[live] = x
    return function(whole)[live]


def _verdict(converged: Tensor, lost: Tensor, unfinished: bool) -> str:
    if bool(converged.all()):
        return "converged"
    if unfinished:
        return "iterations spent"
    return "diverged" if bool(lost[~converged].all()) else "stagnated"


def _mixed(points: list[Tensor], residuals: list[Tensor]) -> Tensor:
    """The next point: the combination of the last ones whose residual is least, plus it."""
    x, f = points[-1], residuals[-1]
    most = rows(x).shape[1]  # more differences than unknowns would depend on each other
    dx = torch.stack([rows(b - a) for a, b in pairwise(points)][-most:], 2)
    df = torch.stack([rows(b - a) for a, b in pairwise(residuals)][-most:], 2)
    # By QR of the differences: the normal equations would square their condition.
    q, r = torch.linalg.qr(df)
    diagonal = r.diagonal(dim1=1, dim2=2).abs()
    floor = torch.finfo(f.dtype).eps * 1e2 * diagonal.amax(1, keepdim=True)
    keep = diagonal > floor
    r = r + torch.diag_embed(torch.where(keep, 0.0, 1.0).to(f.dtype))
    right = torch.where(keep, (q.mT @ rows(f)[:, :, None])[:, :, 0], 0.0)
    weights = torch.linalg.solve_triangular(r, right[:, :, None], upper=True)
    step: Tensor = rows(f)[:, :, None] - (dx + df) @ weights
    return x + step.reshape(x.shape)
