"""How one link of the chain is undone: cheap things first, more by what is seen."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from surgeon.inversion.chain import Counted, Link, known
from surgeon.inversion.ledger import Ledger
from surgeon.solvers import lsmr
from surgeon.solvers.common import Map

#: Relative residual that float32 can be trusted to reach.
SINGLE_FLOOR = 3e-6


@dataclass(frozen=True)
class Goal:
    """What counts as undone, and what may be spent on one link.

    Attributes:
        tolerance: on |y - F(x)| / |y|, of each problem.
        values: of F at most for the fixed point, in each precision.
        rounds: of Newton's method; each has four steps, and takes up what the last one left.
        inner: Krylov vectors in the first round; half as many again in each one after.
        spend: gradient evaluations of the link alone at most, of one precision; a link that is less
            than .15 of the way may spend as if it were that.
    """

    tolerance: float = 1e-10
    values: int = 100
    rounds: int = 6
    inner: int = 40
    spend: float = 60.0


@dataclass(frozen=True)
class Record:
    """What was done to undo one link.

    Attributes:
        link: the site whose value was undone.
        method: what did it: "least squares", "fixed point", "newton", "starts" (Newton's method
            from several), "choice" (among pre-images), "image", "lbfgs".
        residual: |y - F(x)| / |y|, the largest of its problems.
        gain: the factor by which one plain iteration changed the residual: about the spectral
            radius of the branch's Jacobian. None where that was not tried.
        cost: gradient evaluations.
        stopped: why it ended: "converged", or how it failed.
        left: problems that did not converge; each token is one where it goes its own way.
        resisting: which tokens or patches those are, with what may be why; at most six.
    """

    link: str
    method: str
    residual: float
    gain: float | None
    cost: float
    stopped: str
    left: int = 0
    resisting: str = ""

    @property
    def success(self) -> bool:
        """Whether it is undone to tolerance."""
        return self.stopped == "converged"

    def as_row(self) -> dict[str, Any]:
        """For tables and logs."""
        return asdict(self)


class Problem:
    """F(x) = y on one residual link, as a solver sees it: rows of unknowns.

    Known and spare tokens are left out. Where each token goes its own way it is a row, else each
    image is.

    Args:
        y: the value at the link's target, in the precision of `counted`.
    """

    def __init__(self, link: Link, counted: Counted, y: Tensor) -> None:
        self.counted, self.template = counted, y
        self.free: Tensor | None = None
        if link.pinned is not None and link.segment.source is not None:
            subject, source = link.segment.subject, link.segment.source
            pins = known(subject, source, y.dtype)
            counted.ledger.forward(subject.flops_to(source), 2)  # two images are compared
            self.template = pins.apply(y)
        mask = link.spare if link.pinned is None else link.pinned
        if mask is not None:
            self.free = ~mask.to(y.device)
        self.each = link.segment.tokenwise and y.ndim == 3
        self.target = self.rows(y)

    def rows(self, value: Tensor) -> Tensor:
        """A value at source or target as rows."""
        kept = value if self.free is None else value[:, self.free]
        return kept.flatten(0, 1) if self.each else kept

    def whole(self, rows: Tensor, template: Tensor | None = None) -> Tensor:
        """Rows as a value at the source."""
        value = self.template if template is None else template
        if self.free is None:
            return rows.reshape(value.shape)
        value = value.clone()
        value[:, self.free] = rows.reshape(len(value), -1, *value.shape[2:])
        return value

    def __call__(self, rows: Tensor) -> Tensor:
        if self.each:  # any number of tokens, so that those done can be left out
            return self.counted(rows[None])[0]
        return self.rows(self.counted(self.whole(rows)))

    def resisting(self, residual: Tensor, left: Tensor) -> str:
        """Which tokens did not converge: their variance, which LayerNorm divides by, and residual.

        The variance is of the value to undo, relative to the median token's.

        Args:
            residual: (rows,), relative.
            left: (rows,) bool, those that did not converge.
        """
        variance = self.target.var(-1)
        variance = variance / variance.median()
        kept = torch.arange(self.template.shape[1], device=self.template.device)
        numbers = (kept if self.free is None else kept[self.free]).repeat(len(self.template))
        worst = [i for i in residual.argsort(descending=True).tolist() if bool(left[i])]
        return "; ".join(
            f"token {int(numbers[i])}: variance {float(variance[i]):.2g} of the median, "
            f"residual {float(residual[i]):.1e}"
            for i in worst[:6]
        )

    def some(self, rows: Tensor, numbers: Tensor) -> Tensor:
        """x + y - F(x) for some of the rows: one plain iteration."""
        return rows + self.target[numbers] - self(rows)

    def linearise(self, rows: Tensor) -> Any:
        """The value at rows, and products with the Jacobian there."""
        if self.each:
            return self(rows), lambda v: self.counted.jvp(rows[None], v[None])[0]
        x, zero = self.whole(rows), torch.zeros_like(self.template)
        return self(rows), lambda v: self.rows(self.counted.jvp(x, self.whole(v, zero)))


def undo_affine(
    link: Link,
    y: Tensor,
    start: Tensor,
    ledger: Ledger,
    goal: Goal,
    even: Map | None = None,
    whole: float = math.inf,
) -> tuple[Tensor, Record]:
    """The point nearest to the start that an affine map takes to y, by least squares.

    What the map is blind to stays as it is in the start.

    Args:
        even: a symmetric map of the source's values that makes the affine map's singular values
            more alike, and leaves the directions it is blind to as they are: a preconditioner.
        whole: gradient evaluations that it may spend at most.
    """
    before, dtype = ledger.spent, precisions(y.device)[-1]
    counted, even = Counted(link.segment, ledger, dtype), even or _as_it_is
    with counted.ready():
        x, y = start.to(dtype), y.to(dtype)
        value, pull = counted.vjp(x)
        zero = counted(torch.zeros_like(x))
        found = lsmr(
            lambda v: counted(even(v)) - zero, lambda u: even(pull(u)), y - value,
            tolerance=goal.tolerance / 10,
            iterations=int(min(300, max(1, whole / max(counted.share, 1e-9) - 3))),
        )  # fmt: skip
        x = x + even(found.x)
        left = float((y - counted(x)).norm() / y.norm())
    reached = left <= 10 * goal.tolerance or (dtype == torch.float32 and left <= SINGLE_FLOOR)
    stopped = "converged" if reached else "out of its range"
    return x, Record(link.name, "least squares", left, None, ledger.spent - before, stopped)


def _as_it_is(v: Tensor) -> Tensor:
    return v


def precisions(device: torch.device) -> tuple[torch.dtype, ...]:
    """What to compute in: float32 to its floor, then float64 where the device has it."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return (torch.float32,)
    return (torch.float32, torch.float64)
