"""A large Jacobian as a small dense one and a rest that contracts: its sign, and its inverse.

Block Arnoldi (Saad, "Numerical Methods for Large Eigenvalue Problems", 6.2) gives orthonormal
columns V and the next block Q with J V = V H + Q S, S in the last block's columns only. In the
basis V, V's complement,

    J = M + E,   M = [ H    V^T J ]      E = (I - V V^T) (J - I) (I - V V^T)
                     [ Q S    I   ]

det M is that of the small H - (V^T J Q) S, and M^-1 costs one product with J. If the spectral
radius of E M^-1 is below 1, no matrix M + t E between M and J is singular, and det J has the sign
of det M. It is if some power of E M^-1 has a norm below 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.solvers.common import Map

#: Vectors of a block, and of those that test E M^-1.
_BLOCK, _PROBES = 24, 2
#: The power whose norm is tested, and rounds: each multiplies by it and by its transpose.
_POWER, _ROUNDS = 4, 4
#: The space is large enough once the next block is coupled to it by no more than this.
_COUPLED = 0.5
#: Numbers in V at most: .8 GB.
_MOST = 10**8


@dataclass(frozen=True)
class Deflation:
    """A Jacobian split so.

    Attributes:
        product, transposed: with J and its transpose, of a batch (batch, n).
        basis: V^T, (k, n); following: Q^T, (p, n).
        small: H - (V^T J Q) S, (k, k).
        coupling: S, (p, k).
        ahead: V^T J Q, (k, p).
        spent: products with J.
    """

    product: Map
    transposed: Map
    basis: Tensor
    following: Tensor
    small: Tensor
    coupling: Tensor
    ahead: Tensor
    spent: int

    @property
    def sign(self) -> int:
        """Of det M."""
        return int(torch.linalg.slogdet(self.small)[0])

    def undo(self, x: Tensor) -> Tensor:
        """M^-1 x; (batch, n)."""
        inside = x @ self.basis.T
        outside = x - inside @ self.basis
        right = inside - self.product(outside) @ self.basis.T
        a = torch.linalg.solve(self.small, right.T).T
        undone: Tensor = a @ self.basis + outside - (a @ self.coupling.T) @ self.following
        return undone

    def undo_transposed(self, x: Tensor) -> Tensor:
        """M^-T x; (batch, n)."""
        inside = x @ self.basis.T
        outside = x - inside @ self.basis
        right = inside - (outside @ self.following.T) @ self.coupling
        a = torch.linalg.solve(self.small.T, right.T).T
        back = self.transposed(a @ self.basis)
        back = back - (back @ self.basis.T) @ self.basis
        undone: Tensor = a @ self.basis + outside - back
        return undone

    def rest(self, x: Tensor) -> Tensor:
        """E M^-1 x; (batch, n)."""
        return self._outside(self.product, self.undo(x))

    def rest_transposed(self, x: Tensor) -> Tensor:
        """(E M^-1)^T x; (batch, n)."""
        return self.undo_transposed(self._outside(self.transposed, x))

    def _outside(self, product: Map, x: Tensor) -> Tensor:
        x = x - (x @ self.basis.T) @ self.basis
        moved = product(x) - x
        return moved - (moved @ self.basis.T) @ self.basis


def deflate(
    product: Map, transposed: Map, columns: int, *, budget: int, like: Tensor
) -> Deflation | None:
    """Split a Jacobian that is the identity and a branch.

    Args:
        product: v -> J v, of a batch (batch, columns).
        transposed: u -> J^T u.
        budget: products that the space may cost.
        like: float64, for the device.

    Returns:
        None where the budget ended, or the memory, before the space was large enough.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(_BLOCK, columns, generator=generator, dtype=torch.float64).to(like)
    basis, block = start[:0], torch.linalg.qr(start.T).Q.T
    hessenberg = like.new_zeros(0, 0)
    coupling = like.new_zeros(_BLOCK, 0)
    spent = 0
    while True:
        image = product(block)
        spent += _BLOCK
        if len(basis) and float(torch.linalg.matrix_norm(coupling, 2)) <= _COUPLED:
            ahead = image @ basis.T
            small = hessenberg - ahead.T @ coupling
            return Deflation(
                product, transposed, basis, block, small, coupling, ahead.T, spent
            )  # fmt: skip
        held = len(basis) + 2 * _BLOCK
        if spent + _BLOCK > budget or held * columns > _MOST or held >= columns:
            return None
        previous = len(basis)
        basis = torch.cat([basis, block])
        along = image @ basis.T
        left = image - along @ basis
        again = left @ basis.T
        left = left - again @ basis
        grown = like.new_zeros(len(basis), len(basis))
        grown[:previous, :previous] = hessenberg
        grown[previous:, :previous] = coupling
        grown[:, previous:] = (along + again).T
        hessenberg = grown
        q, r = torch.linalg.qr(left.T)
        block = q.T
        coupling = torch.cat([like.new_zeros(_BLOCK, previous), r], 1)


def likely_radius(split: Deflation, columns: int, like: Tensor) -> tuple[float, float]:
    """A bound on the spectral radius of E M^-1 that holds but for a small chance, and that chance.

    Dixon 1983, theorem 1: of B = A^T A and a random direction w, |A|^2 <= t (w^T B^k w)^(1/k) but
    for a chance of 0.8 sqrt(n) / t^(k/2). A is a power of E M^-1 here, t is 16, and the largest of
    several directions is taken.
    """
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(_PROBES, columns, generator=generator, dtype=torch.float64).to(like)
    w = w / w.norm(dim=1, keepdim=True)
    logs = torch.zeros(_PROBES, dtype=torch.float64)
    for _ in range(_ROUNDS):
        for apply in [split.rest] * _POWER + [split.rest_transposed] * _POWER:
            w = apply(w)
            length = w.norm(dim=1, keepdim=True).clamp_min(1e-300)
            logs = logs + length[:, 0].log().cpu()
            w = w / length
    # |B^r w|^2 = w^T B^(2r) w, so that k is twice the rounds.
    norm = 4 * math.exp(float(logs.max()) / (2 * _ROUNDS))
    chance = min(1.0, 0.8 * math.sqrt(columns) / 16**_ROUNDS) ** _PROBES
    return norm ** (1 / _POWER), chance
