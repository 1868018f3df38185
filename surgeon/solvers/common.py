"""What solvers share: batched vectors, costs, solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: A map of batches: (batch, ...) to (batch, ...).
Map = Callable[[Tensor], Tensor]


@dataclass
class Cost:
    """What was spent, in calls on the whole batch.

    Attributes:
        values: of the function.
        products: of the matrix or Jacobian with a vector.
        transposed: of its transpose with a vector.
    """

    values: int = 0
    products: int = 0
    transposed: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.values + other.values,
            self.products + other.products,
            self.transposed + other.transposed,
        )

    @property
    def total(self) -> int:
        """All calls together."""
        return self.values + self.products + self.transposed


@dataclass
class Solution:
    """Where a solver ended.

    Attributes:
        x: (batch, ...), the best found of each problem.
        residual: (batch,), the norm of what is left, relative to the right-hand side.
        converged: (batch,), whether it is within tolerance.
        stopped: why: "converged", "stagnated", "iterations spent", "diverged".
        iterations: outer iterations.
        history: largest relative residual of the batch after each iteration.
        damping: (batch,), of Levenberg-Marquardt at its end, to go on with; else None.
    """

    x: Tensor
    residual: Tensor
    converged: Tensor
    stopped: str
    iterations: int
    cost: Cost = field(default_factory=Cost)
    history: list[float] = field(default_factory=list)
    damping: Tensor | None = None

    @property
    def success(self) -> bool:
        """Whether every problem converged."""
        return bool(self.converged.all())


def rows(x: Tensor) -> Tensor:
    """A batch of vectors: (batch, n)."""
    return x.flatten(1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """(batch,), the inner product of each row."""
    return (rows(a) * rows(b)).sum(1)


def norm(a: Tensor) -> Tensor:
    """(batch,), the Euclidean norm of each row."""
    length: Tensor = torch.linalg.vector_norm(rows(a), dim=1)
    return length


def spread(scalars: Tensor, like: Tensor) -> Tensor:
    """(batch,) numbers shaped to multiply a batch."""
    return scalars.reshape(-1, *[1] * (like.ndim - 1))


def safe(x: Tensor) -> Tensor:
    """Numbers to divide by: zeros replaced by the smallest positive number."""
    return x.clamp_min(torch.finfo(x.dtype).tiny)
