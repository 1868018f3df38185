"""Other pre-images of what a segment makes of a value: Newton's method, and certificates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from surgeon.diagnosis import thresholds
from surgeon.diagnosis.bounds import Bounds
from surgeon.diagnosis.certificates import Evidence
from surgeon.diagnosis.kantorovich import Ball, certify, disjoint
from surgeon.inversion.jacobians import token_jacobians
from surgeon.inversion.segments import Segment
from surgeon.solvers import newton_krylov
from surgeon.solvers.common import norm

#: Newton steps at most; products with the Jacobian of one and of all.
_STEPS, _INNER, _PRODUCTS = 20, 30, 200


@dataclass(frozen=True)
class Preimage:
    """Another value with the same output.

    Attributes:
        x: like the value itself, (1, ...).
        apart: |x - value| / |value|.
        residual: |F(x) - F(value)| / |F(value)|.
        balls: around the value and around this one, disjoint, each certified to hold an exact
            pre-image of one output; None where that was not shown.
    """

    x: Tensor
    apart: float
    residual: float
    balls: tuple[Ball, Ball] | None = None

    @property
    def near(self) -> bool:
        """Whether it is another, with the same output to tolerance."""
        return self.residual <= thresholds.PREIMAGE and self.apart >= thresholds.DISTINCT

    def evidence(self) -> Evidence:
        """As a verdict's evidence."""
        numbers: dict[str, float | int | str | None] = {
            "preimage_apart": self.apart, "preimage_residual": self.residual,
            "certified": int(self.balls is not None),
        }  # fmt: skip
        text = f"another pre-image {self.apart:.2g} of the value apart"
        if self.balls is None:
            return Evidence("pair", f"{text}, not certified", numbers)
        here, there = self.balls
        numbers |= {"radius": here.radius, "radius_other": there.radius,
                    "contraction": max(here.contraction, there.contraction),
                    "sign_other": there.sign}  # fmt: skip
        text += f"; balls of radius {here.radius:.0e} and {there.radius:.0e} each hold an exact one"
        return Evidence("two pre-images", text, numbers)


def compared(
    segment: Segment, first: Tensor, second: Tensor, bounds: Bounds | None = None
) -> Preimage:
    """Measure two values with supposedly one output, and certify both if that can be done.

    Also how a saved pair is checked again.

    Args:
        segment: its weights in float64.
        first, second: (1, ...), float64; certified where they are one token, (1, 1, width).
        bounds: of the segment, where they are worked out already.
    """
    with torch.no_grad():
        target, value = segment(first), segment(second)
    apart = float(norm(second - first) / norm(first))
    residual = float(norm(value - target) / norm(target))
    found = Preimage(second, apart, residual)
    if not found.near or first.ndim != 3 or first.shape[:2] != (1, 1):
        return found
    bounds, balls = bounds or Bounds(segment), []
    for x in (first, second):
        token, jacobian = x[0, 0], token_jacobians(segment, x)[0]
        with torch.no_grad():
            here = segment(x)[0, 0]
        if jacobian.shape[0] != jacobian.shape[1]:
            return found
        balls.append(certify(here, jacobian, target[0, 0], partial(bounds.at, token)))
    here_ball, there = balls
    if here_ball is None or there is None:
        return found
    if not disjoint(here_ball, there, float(norm(second - first))):
        return found
    return Preimage(second, apart, residual, (here_ball, there))


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


def certified(segment: Segment, x: Tensor, others: list[Preimage]) -> list[Preimage]:
    """Pre-images with certificates where they can be had, those first, the nearest first."""
    bounds = Bounds(segment)
    judged = [compared(segment, x, other.x, bounds) for other in others]
    return sorted(judged, key=lambda p: (p.balls is None, p.apart))


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
