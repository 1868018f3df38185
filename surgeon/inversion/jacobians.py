"""Dense Jacobians of segments, by forward mode, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.inversion.segments import Segment, plain_attention

#: Numbers of a batch of tangents at most, about 64 MB in float64 for each value kept.
_CHUNK = 2**23


def token_jacobians(segment: Segment, x: Tensor) -> Tensor:
    """The Jacobian of every token of a token-wise segment, in one batch of columns.

    Args:
        segment: token-wise, its weights in x's precision.
        x: (1, tokens, width), all of its tokens or some.

    Returns:
        (tokens, width out, width in).
    """
    width = x.shape[-1]
    basis = torch.eye(width, dtype=x.dtype, device=x.device)

    def along(v: Tensor) -> Tensor:
        derivative: Tensor = torch.func.jvp(segment, (x,), (v.expand(x.shape),))[1]
        return derivative[0]

    with torch.no_grad(), plain_attention():
        columns: Tensor = torch.func.vmap(along, chunk_size=_chunk(x))(basis)
    return columns.permute(1, 2, 0)


def whole_jacobian(segment: Segment, x: Tensor) -> Tensor:
    """The Jacobian of a segment at one input.

    Args:
        segment: its weights in x's precision.
        x: (1, ...), the value at its source, or the image.

    Returns:
        (elements out, elements in).
    """
    basis = torch.eye(x.numel(), dtype=x.dtype, device=x.device)

    def along(v: Tensor) -> Tensor:
        derivative: Tensor = torch.func.jvp(segment, (x,), (v.reshape(x.shape),))[1]
        return derivative.flatten()

    with torch.no_grad(), plain_attention():
        columns: Tensor = torch.func.vmap(along, chunk_size=_chunk(x))(basis)
    return columns.T


def _chunk(x: Tensor) -> int:
    return int(max(1, min(128, _CHUNK // (4 * x.numel()))))
