"""GMRES and conjugate gradients, batched."""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.solvers.common import Cost, Map, Solution, dot, norm, rows, safe, spread


def gmres(
    product: Map,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    tolerance: float | Tensor = 1e-8,
    restart: int = 60,
    iterations: int = 300,
    precondition: Map | None = None,
) -> Solution:
    """Solve A x = b by products with A (Saad and Schultz 1986), right-preconditioned.

    Args:
        product: v -> A v, for a batch (batch, ...) of vectors.
        b: (batch, ...), right-hand sides.
        x0: where to start; zeros if left out.
        tolerance: on |b - A x| / |b|; one number, or one for each problem.
        restart: Krylov vectors kept before starting anew.
        iterations: products at most.
        precondition: v -> M^-1 v, an approximate inverse.

    Returns:
        The solution; `residual` is recomputed, not the recurrence's.
    """
    x = torch.zeros_like(b) if x0 is None else x0
    cost, history = Cost(), list[float]()
    goal = torch.as_tensor(tolerance, dtype=b.dtype, device=b.device) * norm(b)
    r = b if x0 is None else b - product(x)
    cost.products += x0 is not None
    stopped = "iterations spent"
    while cost.products < iterations:
        before = norm(r)
        if bool((before <= goal).all()):
            break
        size = min(restart, iterations - cost.products)
        step, spent = _cycle(product, r, goal, size, precondition, history, norm(b))
        x = x + step
        r = b - product(x)
        cost.products += spent + 1
        if bool((norm(r) > goal).any()) and bool((norm(r) >= 0.999 * before)[norm(r) > goal].all()):
            stopped = "stagnated"
            break
    left = norm(r)
    converged = left <= goal * (1 + 1e-6)
    stopped = "converged" if bool(converged.all()) else stopped
    return Solution(x, left / safe(norm(b)), converged, stopped, cost.products, cost, history)


def _cycle(
    product: Map,
    r: Tensor,
    goal: Tensor,
    size: int,
    precondition: Map | None,
    history: list[float],
    scale: Tensor,
) -> tuple[Tensor, int]:
    """One Arnoldi cycle: the correction, and products spent."""
    batch, beta = len(r), norm(r)
    basis = [r / spread(safe(beta), r)]
    h = r.new_zeros(batch, size + 1, size)
    g = r.new_zeros(batch, size + 1)
    g[:, 0] = beta
    cosines, sines = r.new_zeros(batch, size), r.new_zeros(batch, size)
    used = 0
    for j in range(size):
        v = basis[j] if precondition is None else precondition(basis[j])
        w, column = _orthogonalise(product(v), basis)
        h[:, : j + 2, j] = column
        for i in range(j):
            _rotate(h, i, j, cosines[:, i], sines[:, i])
        length = safe(torch.hypot(h[:, j, j], h[:, j + 1, j]))
        cosines[:, j], sines[:, j] = h[:, j, j] / length, h[:, j + 1, j] / length
        _rotate(h, j, j, cosines[:, j], sines[:, j])
        g[:, j + 1] = -sines[:, j] * g[:, j]
        g[:, j] = cosines[:, j] * g[:, j]
        used = j + 1
        history.append(float((g[:, j + 1].abs() / safe(scale)).max()))
        if bool((g[:, j + 1].abs() <= goal).all()):
            break
        basis.append(w)
    y = _back_substitute(h[:, :used, :used], g[:, :used])
    step = torch.stack([rows(v) for v in basis[:used]], 2) @ y[:, :, None]
    step = step.reshape(r.shape)
    return (step if precondition is None else precondition(step)), used


def _orthogonalise(w: Tensor, basis: list[Tensor]) -> tuple[Tensor, Tensor]:
    """w made orthonormal to the basis (twice, for rounding), and its Hessenberg column."""
    q = torch.stack([rows(v) for v in basis], 2)
    flat = rows(w)[:, :, None]
    first = q.mT @ flat
    flat = flat - q @ first
    second = q.mT @ flat
    flat = flat - q @ second
    length = torch.linalg.vector_norm(flat, dim=1)
    column = torch.cat([(first + second)[:, :, 0], length], 1)
    return (flat[:, :, 0] / safe(length)).reshape(w.shape), column


def _rotate(h: Tensor, i: int, j: int, cosine: Tensor, sine: Tensor) -> None:
    upper, lower = h[:, i, j].clone(), h[:, i + 1, j].clone()
    h[:, i, j] = cosine * upper + sine * lower
    h[:, i + 1, j] = cosine * lower - sine * upper


def _back_substitute(upper: Tensor, g: Tensor) -> Tensor:
    """Solve the triangular systems; a zero pivot (a problem done early) contributes nothing."""
    y = torch.zeros_like(g)
    for i in reversed(range(g.shape[1])):
        rest = (upper[:, i, i + 1 :] * y[:, i + 1 :]).sum(1)
        pivot = upper[:, i, i]
        tiny = pivot.abs() <= torch.finfo(g.dtype).eps * upper.abs().amax((1, 2))
        y[:, i] = torch.where(tiny, 0.0, (g[:, i] - rest) / torch.where(tiny, 1.0, pivot))
    return y


def conjugate_gradients(
    product: Map,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    tolerance: float | Tensor = 1e-8,
    iterations: int = 300,
    precondition: Map | None = None,
) -> Solution:
    """Solve A x = b for symmetric positive definite A (Hestenes and Stiefel 1952).

    Args:
        product: v -> A v, for a batch (batch, ...) of vectors.
        b: (batch, ...), right-hand sides.
        tolerance: on |b - A x| / |b|; one number, or one for each problem.
        precondition: v -> M^-1 v, symmetric positive definite.

    Returns:
        The solution; "stagnated" if a direction of no curvature was met.
    """
    x = torch.zeros_like(b) if x0 is None else x0
    r = b if x0 is None else b - product(x)
    cost, history = Cost(products=int(x0 is not None)), list[float]()
    goal = torch.as_tensor(tolerance, dtype=b.dtype, device=b.device) * norm(b)
    z = r if precondition is None else precondition(r)
    direction, rho = z, dot(r, z)
    stopped = "iterations spent"
    for _ in range(iterations):
        active = norm(r) > goal
        if not bool(active.any()):
            break
        image = product(direction)
        cost.products += 1
        curvature = dot(direction, image)
        active &= curvature > 0
        if not bool(active.any()):
            stopped = "stagnated"
            break
        alpha = torch.where(active, rho / torch.where(active, curvature, 1.0), 0.0)
        x, r = x + spread(alpha, x) * direction, r - spread(alpha, r) * image
        z = r if precondition is None else precondition(r)
        before, rho = rho, dot(r, z)
        beta = torch.where(active, rho / safe(before), 0.0)
        direction = z + spread(beta, z) * direction
        history.append(float((norm(r) / safe(norm(b))).max()))
    left = norm(r)
    converged = left <= goal
    stopped = "converged" if bool(converged.all()) else stopped
    return Solution(x, left / safe(norm(b)), converged, stopped, cost.products, cost, history)
