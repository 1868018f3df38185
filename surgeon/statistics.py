"""Intervals of shares and of differences of shares. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Of a two-sided interval of 95 %.
Z95 = 1.959963984540054


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (1927): right of count.

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if count == 0:
        return 0.0, 1.0
    share, z2 = right / count, Z95 * Z95
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = (
        Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    )
    return max(centre - half, 0.0), min(centre + half, 1.0)


def paired_change(won: int, lost: int, count: int) -> tuple[float, float, float]:
    """The change of a share over the same cases, with its 95 % interval.

    The normal interval of a mean of +1 (won), -1 (lost) and 0: cases that both have right, or both
    wrong, cancel, which makes it narrower than that of two separate shares.

    Args:
        won: right now and wrong before.
        lost: wrong now and right before.

    >>> [round(x, 3) for x in paired_change(1, 5, 100)]
    [-0.04, -0.087, 0.007]
    """
    mean = (won - lost) / count
    variance = (won + lost) / count - mean * mean
    half = Z95 * math.sqrt(max(variance, 0.0) / count)
    return mean, mean - half, mean + half


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where either is constant.

    >>> spearman([1, 2, 3], [5, 7, 11]), spearman([1, 2, 3], [3, 2, 1])
    (1.0, -1.0)
    """
    a, b = _ranks(first), _ranks(second)
    mean = (len(a) - 1) / 2
    top = math.fsum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    below = math.fsum((x - mean) ** 2 for x in a) * math.fsum((y - mean) ** 2 for y in b)
    return top / math.sqrt(below) if below else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    first = {value: ordered.index(value) for value in ordered}
    return [first[v] + (ordered.count(v) - 1) / 2 for v in values]
