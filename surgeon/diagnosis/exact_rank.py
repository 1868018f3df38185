"""The rank of a matrix of floating-point numbers as the exact rational matrix that it is."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from surgeon.imaging.metrics import exact

#: 2**31 - 1: products of residues fit 64 bits.
PRIME = 2_147_483_647
#: Columns up to which a deficient rank is worked out in rational numbers.
MOST_RATIONAL = 48


def rank_at_least(matrix: Tensor) -> int:
    """A lower bound on the exact rank: the rank modulo a prime. Nearly always the rank itself.

    Every floating-point number is an integer times a power of two; modulo an odd prime both make
    sense, and no minor that vanishes can be other than zero there.

    Args:
        matrix: (rows, columns), finite, float32 or float64.
    """
    left = _residues(matrix)
    if left.shape[0] < left.shape[1]:
        left = left.T.contiguous()
    found = 0
    for column in range(left.shape[1]):
        pivots = torch.nonzero(left[found:, column])
        if not len(pivots):
            continue
        pivot = found + int(pivots[0])
        if pivot != found:
            left[[found, pivot]] = left[[pivot, found]]
        scale = pow(int(left[found, column]), PRIME - 2, PRIME)
        row = left[found, column:] * scale % PRIME
        factors = left[found + 1 :, column, None]
        left[found + 1 :, column:] = (left[found + 1 :, column:] - factors * row % PRIME) % PRIME
        found += 1
        if found == left.shape[0]:
            break
    return found


def _residues(matrix: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(exact(matrix))
    whole = (mantissa * 2.0**53).to(torch.int64)
    exponent = torch.where(whole == 0, 0, exponent.to(torch.int64))
    least = int(exponent.min()) if exponent.numel() else 0
    powers = [pow(2, k, PRIME) for k in range(int(exponent.max()) - least + 1)]
    return whole % PRIME * torch.tensor(powers)[exponent - least] % PRIME


def rational_rank(matrix: Tensor) -> int | None:
    """The exact rank by elimination in rational numbers; None beyond `MOST_RATIONAL` columns.

    Args:
        matrix: (rows, columns), finite.
    """
    if min(matrix.shape) > MOST_RATIONAL:
        return None
    table = exact(matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T)
    rows = [[Fraction(v) for v in row] for row in table.tolist()]
    found = 0
    for column in range(table.shape[1]):
        pivot = next((i for i in range(found, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        head = rows[found]
        for i in range(found + 1, len(rows)):
            if rows[i][column]:
                factor = rows[i][column] / head[column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], head, strict=True)]
        found += 1
    return found
