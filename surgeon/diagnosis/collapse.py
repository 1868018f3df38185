"""Rank collapse: whether a sequence of tokens has become one token, many times over.

Attention alone, without residuals, makes all tokens alike, doubly exponentially with depth (Dong,
Cordonnier, Loukas 2021, "Attention is not all you need"); norms and residuals work against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.imaging.metrics import exact


def tokens_apart(x: Tensor) -> float:
    """How far the tokens are from their mean: |X - 1 m| / |X|, Frobenius, m the mean token.

    0 where all tokens are alike, at most 1.

    Args:
        x: (1, tokens, width).

    >>> tokens_apart(torch.ones(1, 3, 2)), tokens_apart(torch.tensor([[[1.0], [-1.0]]]))
    (0.0, 1.0)
    """
    tokens = exact(x[0])
    size = float(torch.linalg.matrix_norm(tokens))
    return float(torch.linalg.matrix_norm(tokens - tokens.mean(0))) / size if size > 0 else 0.0


def stable_rank(x: Tensor) -> float:
    """|X|^2 / s^2, Frobenius over the largest singular value s: 1 where all tokens are multiples
    of one, at most the smaller of their number and their width.

    Args:
        x: (1, tokens, width).

    >>> round(stable_rank(torch.eye(4)[None]), 6)
    4.0
    """
    values = torch.linalg.svdvals(exact(x[0]))
    largest = float(values[0])
    return float((values / largest).square().sum()) if largest > 0 else 0.0
