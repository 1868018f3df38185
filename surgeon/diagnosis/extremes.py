"""Extreme singular values and spectral radii, by iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.solvers import gmres
from surgeon.solvers.common import Map, norm

#: Inner tolerance of a product with the inverse; singular values are wanted to 1 %.
_INNER = 1e-6
#: Krylov vectors of one inner solve.
_VECTORS = 60


@dataclass(frozen=True)
class Extreme:
    """A singular value at one end.

    Attributes:
        value: the approximation; from inside, so that a largest one is no larger than the true one.
        error: a singular value is within this of it, relative.
        products: with the matrix or its transpose, spent.
        seen: the smallest stretch of any vector that was met on the way to a largest one: the
            smallest singular value is at most that.
    """

    value: float
    error: float
    products: int
    seen: float = math.nan


def largest(
    product: Map, transposed: Map, like: Tensor, *, tolerance: float = 1e-3, steps: int = 60
) -> Extreme:
    """The largest singular value of a matrix by Golub and Kahan's bidiagonalisation (1965).

    Every vector is made orthogonal to all before it, twice.

    Args:
        product: v -> A v, of (1, ...) vectors.
        transposed: u -> A^T u.
        like: what v looks like; (1, ...), float64.
        tolerance: on the relative error at which it ends.
        steps: at most; each is a product with A and one with its transpose.
    """
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    v = v / norm(v)
    u = product(v)
    alphas, betas = [float(norm(u))], list[float]()
    u = u / max(alphas[0], 1e-300)
    rights, lefts = [v], [u]
    value, error, seen, taken = alphas[0], math.inf, alphas[0], 0
    while taken < steps:
        taken += 1
        v = _orthogonal(transposed(u) - alphas[-1] * v, rights)
        beta = float(norm(v))
        small = torch.diag(torch.tensor(alphas, dtype=torch.float64))
        small += torch.diag(torch.tensor(betas, dtype=torch.float64), 1)
        left, values, _ = torch.linalg.svd(small)
        value, seen = float(values[0]), float(values[-1])
        error = beta * abs(float(left[-1, 0])) / max(value, 1e-300)
        if error <= tolerance or beta <= 1e-14 * value:
            break
        v = v / beta
        rights.append(v)
        u = _orthogonal(product(v) - beta * u, lefts)
        alpha = float(norm(u))
        if alpha <= 1e-14 * value:
            break
        u = u / alpha
        lefts.append(u)
        alphas.append(alpha)
        betas.append(beta)
    return Extreme(value, error, 2 * taken, seen)


def smallest(
    product: Map, transposed: Map, like: Tensor, *, tolerance: float = 2e-3, budget: int = 600,
    undo: Map | None = None, undo_transposed: Map | None = None, inner: float = _INNER,
) -> Extreme | None:  # fmt: skip
    """The smallest singular value of a square matrix, as the inverse of its inverse's largest.

    Products with the inverse are solved by GMRES, which is quick where the matrix is the identity
    and something contracting.

    Args:
        budget: products at most.
        undo, undo_transposed: approximate inverses, that make it quick elsewhere too.
        inner: relative residual at which a product with the inverse ends.

    Returns:
        None where an inner system was not solved, or the budget ended first.
    """
    spent = 0

    def solver(multiply: Map, roughly: Map | None) -> Map:
        def solve(b: Tensor) -> Tensor:
            nonlocal spent
            allowed = min(4 * _VECTORS, budget - spent)
            found = gmres(
                multiply, b, tolerance=inner, restart=_VECTORS, iterations=max(allowed, 1),
                precondition=roughly,
            )  # fmt: skip
            spent += found.cost.products
            if not found.success:
                raise _UnsolvedError
            return found.x

        return solve

    try:
        # The error is of the inverse's value and so, to first order, of this one.
        found = largest(
            solver(product, undo), solver(transposed, undo_transposed), like,
            tolerance=tolerance, steps=budget,
        )  # fmt: skip
    except _UnsolvedError:
        return None
    if found.error > 10 * tolerance:
        return None
    return Extreme(1 / found.value, found.error + inner, spent)


def least_eigenvalue(
    product: Map, like: Tensor, *, tolerance: float = 1e-2, steps: int = 60
) -> tuple[float, float]:
    """The least eigenvalue of a symmetric matrix by Lanczos' method, every vector made orthogonal
    to all before it.

    Args:
        product: v -> A v, of (1, ...) vectors.
        like: what v looks like; (1, ...), float64.
        tolerance: on the error at which it ends.
        steps: at most; a product each.

    Returns:
        The approximation, never below the least eigenvalue, and how near an eigenvalue is.
    """
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    basis = [v / norm(v)]
    diagonal, beside = list[float](), list[float]()
    while True:
        image = product(basis[-1])
        diagonal.append(float((image * basis[-1]).sum()))
        left = _orthogonal(image, basis)
        length = float(norm(left))
        small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        off = torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
        values, vectors = torch.linalg.eigh(small + off + off.T)
        error = length * abs(float(vectors[-1, 0]))
        if error <= tolerance or len(basis) >= steps or length <= 1e-14:
            return float(values[0]), error
        basis.append(left / length)
        beside.append(length)


class _UnsolvedError(Exception):
    """An inner linear system did not converge."""


def _orthogonal(x: Tensor, basis: list[Tensor]) -> Tensor:
    rows = torch.cat([b.reshape(1, -1) for b in basis])
    flat = x.reshape(-1)
    for _ in range(2):
        flat = flat - rows.T @ (rows @ flat)
    return flat.reshape(x.shape)


def spectral_radius(matrices: Tensor, squarings: int = 8) -> Tensor:
    """Largest absolute eigenvalue by Gelfand's formula, |A^k| ** (1/k) with k = 2 ** squarings.

    Args:
        matrices: (batch, n, n).

    Returns:
        (batch,), from above; of normal matrices within n ** (1 / 2k): 1.3 % for 768.
    """
    power, log = matrices.double(), matrices.new_zeros(len(matrices), dtype=torch.float64)
    for turn in range(squarings + 1):
        if turn:
            power = power @ power
        size = torch.linalg.matrix_norm(power)
        log = log + size.clamp_min(1e-300).log() / 2**turn
        power = power / size.clamp_min(1e-300)[:, None, None]
    return torch.where(log > -600, log.exp(), 0.0)


def operator_norm(matrices: Tensor, squarings: int = 8) -> Tensor:
    """Largest singular value of each matrix, from above by at most n ** (1 / 4k): .7 % for 768.

    Args:
        matrices: (batch, rows, columns).
    """
    grams = matrices.double().mT @ matrices.double()
    return spectral_radius(grams, squarings).sqrt()
