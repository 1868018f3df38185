"""The verdict on a sublayer whose Jacobian is too large to be worked out: by products with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgeon.diagnosis.certificates import Certificate, Evidence
from surgeon.diagnosis.deflation import Deflation, deflate, likely_radius
from surgeon.diagnosis.extremes import largest, least_eigenvalue, smallest
from surgeon.diagnosis.judging import Facts, branch_evidence, judge_extremes
from surgeon.inversion.segments import Segment
from surgeon.solvers.common import Map

if TYPE_CHECKING:
    from surgeon.inversion.ledger import Ledger


#: Relative error at which rough extremes end.
_ROUGH = 1e-2


class LargeJacobian:
    """A segment's Jacobian at a point, by products; vectors are (batch, columns).

    Args:
        segment: its weights in float64 while this is used.
        x: (1, ...), float64; some of the tokens where it is token-wise.
        ledger: what is counted by.
    """

    def __init__(self, segment: Segment, x: Tensor, ledger: Ledger) -> None:
        self.segment, self.x, self.ledger = segment, x, ledger
        out = segment.target.shape[1:]
        self._out = (x.shape[1], *out[1:]) if segment.tokenwise and x.ndim == 3 else out
        self.columns, self.rows = x[0].numel(), math.prod(self._out)
        self._flops = round(segment.flops * self.rows / math.prod(segment.target.shape))
        self.like = x.new_zeros(1, self.columns)
        self._pulls: dict[int, Map] = {}
        self.spent = 0

    def product(self, v: Tensor) -> Tensor:
        """J v, each row."""
        self.spent += len(v)
        self.ledger.jvp(self._flops, len(v))
        x = self.x.expand(len(v), *self.x.shape[1:]).clone()
        with torch.no_grad():
            return self.segment.jvp(x, v.reshape(x.shape))[1].flatten(1)

    def transposed(self, u: Tensor) -> Tensor:
        """J^T u, each row."""
        self.spent += len(u)
        self.ledger.backward(self._flops, len(u))
        if len(u) not in self._pulls:
            x = self.x.expand(len(u), *self.x.shape[1:]).clone()
            self.ledger.forward(self._flops, len(u))
            with torch.enable_grad():
                self._pulls[len(u)] = self.segment.vjp(x)[1]
        shape = (len(u), *self._out)
        return self._pulls[len(u)](u.reshape(shape)).detach().flatten(1)


def judge_large(
    jacobian: LargeJacobian, facts: Facts, *, residual: bool, products: int
) -> Certificate:
    """The verdict from the extremes of a Jacobian, and what can be said of its determinant's sign.

    Args:
        residual: whether the map is x + f(x).
        products: with the Jacobian that may be spent on a space that makes its inverse cheap, and
            as many again on the smallest singular value. Without that space, and for a map that is
            no x + f(x), the smallest is not looked for.
    """
    like, square = jacobian.like, jacobian.rows == jacobian.columns
    most = steepest = largest(jacobian.product, jacobian.transposed, like)
    if residual:
        steepest = largest(
            lambda v: jacobian.product(v) - v, lambda u: jacobian.transposed(u) - u, like
        )
    split, least = None, None
    if square and residual:
        split = deflate(
            jacobian.product, jacobian.transposed, jacobian.columns, budget=products, like=like
        )
    if split is not None and not facts.null_space:
        least = smallest(
            jacobian.product, jacobian.transposed, like, budget=products,
            undo=split.undo, undo_transposed=split.undo_transposed,
        )  # fmt: skip
    certificate = judge_extremes(jacobian.columns, most, least, facts)
    certificate = certificate.also(branch_evidence(steepest.value))
    return certificate.also(_likely(split, jacobian)) if split else certificate


def judge_roughly(
    jacobian: LargeJacobian, facts: Facts, *, residual: bool, products: int
) -> Certificate:
    """The verdict from extremes to a few hundredths, at a small part of the cost of `judge_large`.

    Products with the inverse are solved as they are, which is quick where the branch contracts or
    nearly so. Nothing is said of a determinant.

    Args:
        residual: whether the map is x + f(x); for another the smallest is not looked for.
        products: that the smallest singular value may cost.
    """
    product, transposed, like = jacobian.product, jacobian.transposed, jacobian.like
    most = steepest = largest(product, transposed, like, tolerance=_ROUGH)
    least = None
    if residual:
        steepest = largest(
            lambda v: product(v) - v, lambda u: transposed(u) - u, like, tolerance=_ROUGH
        )
    if residual and products and not facts.null_space and jacobian.rows == jacobian.columns:
        least = smallest(
            product, transposed, like, tolerance=_ROUGH, budget=products, inner=_ROUGH / 10
        )
    certificate = judge_extremes(jacobian.columns, most, least, facts)
    return certificate.also(branch_evidence(steepest.value))


@dataclass(frozen=True)
class Floor:
    """What a map x + f(x) can't do worse than at a point.

    Attributes:
        smallest: every singular value of I + J is at least that; below 0 it says nothing.
        condition: at most that; infinite where nothing is said.
        branch: the largest singular value of J.
    """

    smallest: float
    condition: float
    branch: float


def floor_of(jacobian: LargeJacobian) -> Floor:
    """From the symmetric part of the branch: |(I + J) v| >= v.(v + J v) >= 1 + its least
    eigenvalue, for |v| = 1.

    Args:
        jacobian: I + J, square.
    """
    product, transposed, like = jacobian.product, jacobian.transposed, jacobian.like
    low, error = least_eigenvalue(
        lambda v: (product(v) + transposed(v)) / 2 - v, like, tolerance=_ROUGH
    )
    smallest = 1 + low - error
    most = largest(
        lambda v: product(v) - v, lambda u: transposed(u) - u, like, tolerance=_ROUGH
    )  # fmt: skip
    branch = most.value * (1 + most.error)
    return Floor(smallest, (1 + branch) / smallest if smallest > 0 else math.inf, branch)


def beside_norm(jacobian: LargeJacobian, steps: int = 40) -> Evidence:
    """What a layer normalisation alone is blind to, told apart from what the rest loses.

    Each token's mean is an exact null direction; its scale is one up to eps. Beside both, of all
    directions met in a bidiagonalisation the one that is stretched least bounds the smallest
    singular value there from above, and the condition from below.

    Args:
        jacobian: of a segment that reads its input, (1, tokens, width), through a layer
            normalisation alone.
    """
    x = jacobian.x[0]
    centred = x - x.mean(-1, keepdim=True)
    scale = centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, len(x), 1, generator=generator, dtype=torch.float64).to(x)
    weights = weights / weights.norm(dim=1, keepdim=True)
    gains = [
        float(jacobian.product((weights * direction).flatten(1)).norm(dim=1).max())
        for direction in (torch.full_like(x, x.shape[-1] ** -0.5), scale)
    ]

    def beside(v: Tensor) -> Tensor:
        v = v.reshape(-1, *x.shape)
        v = v - v.mean(-1, keepdim=True)
        left: Tensor = v - (v * scale).sum(-1, keepdim=True) * scale
        return left.flatten(1)

    found = largest(
        lambda v: jacobian.product(beside(v)), lambda u: beside(jacobian.transposed(u)),
        beside(torch.ones_like(jacobian.like)), tolerance=0.0, steps=steps,
    )  # fmt: skip
    condition = found.value / max(found.seen, 1e-300)
    text = (
        f"means change the output by {gains[0]:.0e}, scales by {gains[1]:.0e} of what they change "
        f"themselves; beside them it stretches by {found.value:.3g} and by {found.seen:.1e}: a "
        f"condition of at least {condition:.1e}"
    )
    return Evidence("singular values", text, {
        "gain_of_means": gains[0], "gain_of_scales": gains[1],
        "largest_beside_null": found.value, "smallest_beside_null_at_most": found.seen,
        "condition_beside_null_at_least": condition,
    })  # fmt: skip


def _likely(split: Deflation, jacobian: LargeJacobian) -> Evidence:
    """What the split says of the determinant's sign: by a random test, so no proof."""
    radius, chance = likely_radius(split, jacobian.columns, jacobian.like)
    sign = split.sign if radius < 1 else 0
    text = f"det is {'negative' if sign < 0 else 'positive'} but for a chance of {chance:.0e}"
    if not sign:
        text = "the determinant's sign is open: what the space leaves out is not small"
    return Evidence("probable determinant", text, {
        "determinant_sign_probable": sign, "determinant_chance": chance, "left_out": radius,
        "space": len(split.basis),
    })  # fmt: skip
