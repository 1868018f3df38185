"""The last resort of an exact inversion: pixels are searched for, a slice of work at a time."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from surgeon.inversion.chain import Counted
from surgeon.inversion.coordinates import Coordinates, Whitening
from surgeon.inversion.patches import Patches
from surgeon.solvers import Solution, levenberg_marquardt
from surgeon.solvers.common import Map
from surgeon.solvers.marquardt import Damping

#: Outer iterations of one slice.
_SLICE = 4


def marquardt(
    counted: Counted, image: Tensor, aim: Tensor, tolerance: float, damping: Tensor | None,
    left: float,
) -> Solution:  # fmt: skip
    """A slice of Levenberg-Marquardt on the pixels.

    The steps are rough on purpose, by at most 25 conjugate-gradient iterations (8 with a
    preconditioner): where a Jacobian is near singular that is a trust region.

    Args:
        counted: the map from the image, its weights ready.
        image: (batch, channels, height, width), where to start.
        aim: what the map should give.
        damping: to go on with, of the slice before.
        left: gradient evaluations that may be spent.
    """
    patches = Patches.of(counted, aim)
    inner, each = _inner(patches), price(counted, patches)
    return levenberg_marquardt(
        counted, lambda x: _linearised(counted, x), image, aim, tolerance=tolerance,
        iterations=max(1, min(_SLICE, int(left / max(each, 1e-9)))), inner=inner,
        damping=Damping() if damping is None else Damping(first=damping),
        precondition=patches.precondition if patches else None,
    )  # fmt: skip


def price(counted: Counted, patches: Patches | None) -> float:
    """Gradient evaluations of one iteration of `marquardt`, at most about."""
    columns = patches.count if patches else 0
    return counted.share * (4 / 3 * (_inner(patches) + 1) + 2 + 2 / 3 * columns)


def _inner(patches: Patches | None) -> int:
    return 8 if patches else 25


def _linearised(counted: Counted, x: Tensor) -> tuple[Tensor, Map, Map]:
    value, pull = counted.vjp(x)
    return value, lambda v: counted.jvp(x, v), pull


def lbfgs(
    counted: Counted, image: Tensor, aim: Tensor, memory: dict[str, Any] | None, left: float,
    coordinates: Coordinates | Whitening | None = None,
) -> tuple[Tensor, Tensor, float, dict[str, Any]]:  # fmt: skip
    """A slice of L-BFGS on the pixels (torch's, strong Wolfe), for |F(a) - y|^2 / |y|^2.

    Args:
        coordinates: that the search goes on in; pixels if none.

    Returns:
        Where it is, the best image of the slice, its relative residual, and what to go on with.
    """
    there = coordinates.there if coordinates else _same
    back = coordinates.back if coordinates else _same
    pulled = coordinates.pulled if coordinates else _same
    z = there(image).detach().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [z], lr=1.0, max_iter=20, max_eval=40, history_size=100, tolerance_grad=0.0,
        tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip
    if memory is not None:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": memory["state"]})
    best, least, scale = image, float("inf"), float(aim.norm())
    end = counted.ledger.spent + left - counted.share

    def closure() -> Tensor:
        nonlocal best, least
        if counted.ledger.spent > end and least < float("inf"):
            raise _SpentError
        x = back(z.detach())
        value, pull = counted.vjp(x)
        difference = (value - aim) / scale
        loss = (difference * difference).sum()
        z.grad = pulled(pull(2 * difference / scale))
        if float(loss) < least:
            best, least = x, float(loss)
        return loss

    with torch.enable_grad(), suppress(_SpentError):
        optimizer.step(closure)
    return back(z.detach()), best, least**0.5, optimizer.state_dict()


class _SpentError(Exception):
    """No gradient evaluation is left."""


def _same(x: Tensor) -> Tensor:
    return x
