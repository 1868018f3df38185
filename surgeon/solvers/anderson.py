"""Fixed points, accelerated."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from surgeon.solvers.common import Cost, Map, Solution, norm, rows, safe, spread


def fixed_point(
    function: Map,
    x0: Tensor,
    *,
    tolerance: float = 1e-8,
    iterations: int = 60,
    memory: int = 8,
    patience: int = 8,
) -> Solution:
    """Find x = g(x) by Anderson acceleration (Anderson 1965; Walker and Ni 2011, type II).

    Args:
        function: g, for a batch (batch, ...).
        x0: where to start.
        tolerance: on |g(x) - x| / |x0|.
        iterations: values of g at most.
        memory: differences kept; 0 is the plain iteration.
        patience: iterations without a new best before it counts as stagnated or diverged.

    Returns:
        The best point of each problem. Problems that have converged stay where they are.
    """
    x, scale = x0, safe(norm(x0))
    best, least = x0, torch.full_like(scale, torch.inf)
    points, residuals = list[Tensor](), list[Tensor]()
    history, stopped, since = list[float](), "iterations spent", 0
    cost = Cost()
    for _ in range(iterations):
        f = function(x) - x
        cost.values += 1
        left = norm(f) / scale
        better = left < least
        best = torch.where(spread(better, x), x, best)
        since = 0 if float(left.max()) < 0.9 * float(least.max()) else since + 1
        least = torch.where(better, left, least)
        history.append(float(least.max()))
        if bool((least <= tolerance).all()):
            stopped = "converged"
            break
        if not bool(torch.isfinite(left).all()) or float(left.max()) > 1e6 * history[0]:
            stopped = "diverged"
            break
        if since >= patience:
            stopped = "stagnated"
            break
        points, residuals = [*points, x][-memory - 1 :], [*residuals, f][-memory - 1 :]
        x = _mixed(points, residuals) if memory and len(points) > 1 else x + f
        x = torch.where(spread(least <= tolerance, x), best, x)
    return Solution(best, least, least <= tolerance, stopped, cost.values, cost, history)


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
