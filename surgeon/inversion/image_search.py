"""The last resort of an exact inversion: pixels are searched for, a slice of work at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from surgeon.inversion.chain import Counted
from surgeon.inversion.row_space import row_space
from surgeon.solvers import Solution, levenberg_marquardt
from surgeon.solvers.common import Map
from surgeon.solvers.marquardt import Damping

if TYPE_CHECKING:
    from surgeon.subject import Subject

#: Outer iterations of one slice.
_SLICE = 4
#: Patches of up to so many numbers are worth a Jacobian of their own.
_SMALL_PATCH = 64


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
    patches = _Patches.of(counted, aim)
    inner = 8 if patches else 25
    each = counted.share * (4 / 3 * (inner + 1) + 2 + (2 / 3 * patches.count if patches else 0))
    return levenberg_marquardt(
        counted, lambda x: _linearised(counted, x), image, aim, tolerance=tolerance,
        iterations=max(1, min(_SLICE, int(left / max(each, 1e-9)))), inner=inner,
        damping=Damping() if damping is None else Damping(first=damping),
        precondition=patches.precondition if patches else None,
    )  # fmt: skip


def reseeded(counted: Counted, image: Tensor, aim: Tensor) -> Tensor | None:
    """The image with the patches that fit worst put to the mean of their neighbours.

    A patch can be stuck at a fold of its own. Neighbours are the best guess of a photo's patch.

    Returns:
        None where the image isn't cut into patches that are tokens at the aim, or all fit alike.
    """
    patches = _Patches.of(counted, aim, small=False)
    if patches is None:
        return None
    left = (aim - counted(image))[:, -patches.tokens :].norm(dim=-1)
    grid = [n // k for n, k in zip(image.shape[-2:], patches.size, strict=True)]
    bad = (left > 4 * left.median(1, keepdim=True).values).reshape(len(image), 1, *grid)
    if not bool(bad.any()) or bool(bad.all()):
        return None
    good = F.interpolate((~bad).to(image), size=image.shape[-2:])
    kernel = [2 * k + 1 for k in patches.size]
    half = list(patches.size)
    seen = F.avg_pool2d(good, kernel, 1, half)
    mean = F.avg_pool2d(image * good, kernel, 1, half) / seen.clamp_min(1e-6)
    mean = torch.where(seen > 0, mean, image.mean())
    return torch.where(good > 0, image, mean)


def _linearised(counted: Counted, x: Tensor) -> tuple[Tensor, Map, Map]:
    value, pull = counted.vjp(x)
    return value, lambda v: counted.jvp(x, v), pull


def lbfgs(
    counted: Counted, image: Tensor, aim: Tensor, memory: dict[str, Any] | None, left: float
) -> tuple[Tensor, float, dict[str, Any]]:
    """A slice of L-BFGS on the pixels (torch's, strong Wolfe), for |F(a) - y|^2 / |y|^2.

    Returns:
        The best image of the slice, its relative residual, and what to go on with.
    """
    x = image.detach().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [x], lr=1.0, max_iter=10, max_eval=max(1, min(20, int(left / max(counted.share, 1e-9)))),
        history_size=20, tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip
    if memory is not None:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": memory["state"]})
    best, least, scale = image, float("inf"), float(aim.norm())

    def closure() -> Tensor:
        nonlocal best, least
        value, pull = counted.vjp(x.detach())
        difference = (value - aim) / scale
        loss = (difference * difference).sum()
        x.grad = pull(2 * difference / scale)
        if float(loss) < least:
            best, least = x.detach().clone(), float(loss)
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return best, least**0.5, optimizer.state_dict()


class _Patches:
    """Each patch's own Jacobian, as a preconditioner of the normal equations.

    All patches are probed at once, a product for each number of a patch: what a patch does to the
    tokens of others is taken for its own, which is a small error where attention is spread wide.
    """

    def __init__(self, counted: Counted, size: tuple[int, int], tokens: int, count: int) -> None:
        self.counted, self.size, self.tokens, self.count = counted, size, tokens, count

    @classmethod
    def of(cls, counted: Counted, aim: Tensor, *, small: bool = True) -> _Patches | None:
        """None where the image isn't cut into (small) patches that are still tokens at the aim."""
        subject: Subject = counted.segment.subject
        space = row_space(subject)
        channels, height, width = subject.anatomy.input_size
        if space is None or aim.ndim != 3:
            return None
        tokens = (height // space.patch[0]) * (width // space.patch[1])
        found = cls(counted, space.patch, tokens, channels * space.patch[0] * space.patch[1])
        fits = tokens <= aim.shape[1] and (not small or found.count <= _SMALL_PATCH)
        return found if fits else None

    def precondition(self, x: Tensor, damping: Tensor) -> Map:
        """v -> (J^T J + damping)^-1 v, J each patch's own Jacobian at x."""
        columns = []
        for number in range(self.count):
            probe = x.new_zeros(len(x), self.count, self.tokens)
            probe[:, number] = 1
            columns.append(self.counted.jvp(x, self._image(probe, x))[:, -self.tokens :])
        jacobian = torch.stack(columns, -1)
        normal = jacobian.mT @ jacobian
        normal = normal + damping[:, None, None, None] * torch.eye(self.count).to(normal)
        factor = torch.linalg.cholesky(normal)

        def apply(v: Tensor) -> Tensor:
            patches = F.unfold(v, self.size, stride=self.size).mT[..., None]
            return self._image(torch.cholesky_solve(patches, factor)[..., 0].mT, v)

        return apply

    def _image(self, patches: Tensor, like: Tensor) -> Tensor:
        return F.fold(patches, like.shape[-2:], self.size, stride=self.size)
