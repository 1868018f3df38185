"""Other pre-images of what a segment makes of a value: Newton's method from many starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.diagnosis import thresholds
from surgeon.inversion.segments import Segment
from surgeon.solvers import newton_krylov
from surgeon.solvers.common import norm

#: Newton steps at most; products with the Jacobian of one and of all.
_STEPS, _INNER, _PRODUCTS = 20, 30, 200


@dataclass(frozen=True)
class Preimage:
    """Another value with the same output, to tolerance; not certified.

    Attributes:
        x: like the value itself, (1, ...).
        apart: |x - value| / |value|.
        residual: |F(x) - F(value)| / |F(value)|.
    """

    x: Tensor
    apart: float
    residual: float


def other_preimages(
    segment: Segment, x: Tensor, jacobian: Tensor, *, starts: int = 32, seed: int = 0
) -> list[Preimage]:
    """Pre-images of segment(x) other than x, nearest first; each of them once.

    Half the starts lie along the direction the Jacobian is blindest to, which crosses the fold that
    a sign of the determinant tells of; the rest lie anywhere, near and far.

    Args:
        segment: its weights in x's precision.
        x: (1, ...), float64.
        jacobian: (n, n), the segment's at x.
        starts: how many; they are solved as one batch.
    """
    factors = torch.linalg.lu_factor(jacobian)

    def undo(v: Tensor) -> Tensor:
        """By the Jacobian at x: it is near that at most starts, but for a few directions."""
        solved: Tensor = torch.linalg.lu_solve(*factors, v.flatten(1).T)
        return solved.T.reshape(v.shape)

    with torch.no_grad():
        target, begin = segment(x), _starts(x, jacobian, starts, seed)
        size = min(_INNER, x.numel())
        found = newton_krylov(
            segment, lambda z: (segment(z), lambda v: segment.jvp(z, v)[1]), begin,
            target.expand(begin.shape), tolerance=thresholds.PREIMAGE, iterations=_STEPS,
            inner=size, products=_PRODUCTS, precondition=lambda _: undo,
        )  # fmt: skip
    apart = norm(found.x - x) / norm(x)
    kept: list[Preimage] = []
    for i in apart.argsort(stable=True).tolist():
        other = found.x[i : i + 1]
        known = [x, *(k.x for k in kept)]
        near = min(float(norm(other - k) / norm(x)) for k in known)
        if bool(found.converged[i]) and near >= thresholds.DISTINCT:
            kept.append(Preimage(other, float(apart[i]), float(found.residual[i])))
    return kept


def _starts(x: Tensor, jacobian: Tensor, starts: int, seed: int) -> Tensor:
    blind = torch.linalg.svd(jacobian)[2][-1].reshape(x.shape)
    half = max(1, starts // 4)
    near = torch.logspace(-3, 0.5, half, dtype=torch.float64).to(x)
    generator = torch.Generator().manual_seed(seed)
    rest = max(1, starts - 2 * half)
    anywhere = torch.randn(rest, *x.shape[1:], generator=generator, dtype=torch.float64).to(x)
    anywhere = anywhere / norm(anywhere).reshape(-1, *[1] * (x.ndim - 1))
    far = torch.logspace(-2, 1, rest, dtype=torch.float64).to(x)
    shape = (-1, *[1] * (x.ndim - 1))
    steps = [
        near.reshape(shape) * blind,
        -near.reshape(shape) * blind,
        far.reshape(shape) * anywhere,
    ]
    return x + norm(x).reshape(shape) * torch.cat(steps)
