"""Images as patches: preconditioning, and patches put anew where they are stuck."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from surgeon.inversion.chain import Counted
from surgeon.inversion.row_space import stem_weight
from surgeon.solvers.common import Map

if TYPE_CHECKING:
    from surgeon.subject import Subject

#: Patches of up to so many numbers are worth a Jacobian of their own.
_SMALL_PATCH = 64
#: A patch is stuck where its token's residual is so many times the median's.
_STUCK = 4.0
#: Greys tried in place of a stuck patch, between the image's least and largest number.
_GREYS = 8
#: Patches that fit, tried in place of a stuck one.
_COPIES = 8
#: Forwards that `reseeded` makes at most.
RESEEDING = 2 + _GREYS + _COPIES


def reseeded(
    counted: Counted, image: Tensor, aim: Tensor, turn: int = 0, bad: Tensor | None = None
) -> Tensor | None:
    """The image with the patches that fit worst put to others that fit better.

    A patch can be stuck at a fold of its own. Tried in its place are the mean of its neighbours,
    greys, and patches of the image that fit; all stuck patches at once, a forward for each.

    Args:
        turn: which candidate each patch takes, by its own token's residual: 0 the best.
        bad: (batch, patches) bool, which patches are to be put anew; left out: those that fit
            worst.

    Returns:
        None where the image isn't cut into patches that are tokens at the aim, or all fit alike.
    """
    patches = Patches.of(counted, aim, small=False)
    if patches is None:
        return None
    if bad is None:
        left = patches.residuals(image, aim)
        bad = left > _STUCK * left.median(1, keepdim=True).values
    if not bool(bad.any()) or bool(bad.all()):
        return None
    cut = patches.cut(image)
    tried = _candidates(patches, image, cut, bad, turn)
    put = [torch.where(bad[:, None], other, cut) for other in tried]
    errors = torch.stack([patches.residuals(patches.image(p, image), aim) for p in put])
    order = errors.argsort(0)[turn % len(put)]
    chosen = torch.stack(put).gather(0, order[None, :, None].expand(1, *cut.shape))[0]
    return patches.image(chosen, image)


def _candidates(
    patches: Patches, image: Tensor, cut: Tensor, bad: Tensor, turn: int
) -> list[Tensor]:
    """What each patch may be put to, (batch, numbers of a patch, patches) each."""
    found = [F.unfold(_smoothed(patches, image, bad), patches.size, stride=patches.size)]
    seen = cut[(~bad)[:, None].expand_as(cut)]
    greys = torch.linspace(float(seen.min()), float(seen.max()), _GREYS)
    found += [torch.full_like(cut, float(grey)) for grey in greys]
    good = torch.nonzero((~bad).all(0))[:, 0]
    if len(good):
        step = max(1, len(good) // _COPIES)
        numbers = good[turn % step :: step][:_COPIES].tolist()
        found += [cut[:, :, n : n + 1].expand_as(cut) for n in numbers]
    return found


def _smoothed(patches: Patches, image: Tensor, bad: Tensor) -> Tensor:
    """The mean of what fits around every pixel; of a photo's patch the best guess."""
    grid = [n // k for n, k in zip(image.shape[-2:], patches.size, strict=True)]
    good = F.interpolate((~bad).reshape(len(image), 1, *grid).to(image), size=image.shape[-2:])
    kernel, half = [2 * k + 1 for k in patches.size], list(patches.size)
    seen = F.avg_pool2d(good, kernel, 1, half)
    mean = F.avg_pool2d(image * good, kernel, 1, half) / seen.clamp_min(1e-6)
    return torch.where(seen > 0, mean, image.mean())


class Patches:
    """Each patch's own Jacobian, as a preconditioner of the normal equations.

    All patches are probed at once, a product for each number of a patch: what a patch does to the
    tokens of others is taken for its own, which is a small error where attention is spread wide.
    """

    def __init__(self, counted: Counted, size: tuple[int, int], tokens: int, count: int) -> None:
        self.counted, self.size, self.tokens, self.count = counted, size, tokens, count

    @classmethod
    def of(cls, counted: Counted, aim: Tensor, *, small: bool = True) -> Patches | None:
        """None where the image isn't cut into (small) patches that are still tokens at the aim."""
        subject: Subject = counted.segment.subject
        weight = stem_weight(subject)
        channels, height, width = subject.anatomy.input_size
        if weight is None or aim.ndim != 3:
            return None
        size = (int(weight.shape[2]), int(weight.shape[3]))
        tokens = (height // size[0]) * (width // size[1])
        found = cls(counted, size, tokens, channels * size[0] * size[1])
        fits = tokens <= aim.shape[1] and (not small or found.count <= _SMALL_PATCH)
        return found if fits else None

    def precondition(self, x: Tensor, damping: Tensor) -> Map:
        """v -> (J^T J + damping)^-1 v, J each patch's own Jacobian at x."""
        columns = []
        for number in range(self.count):
            probe = x.new_zeros(len(x), self.count, self.tokens)
            probe[:, number] = 1
            columns.append(self.counted.jvp(x, self.image(probe, x))[:, -self.tokens :])
        jacobian = torch.stack(columns, -1)
        normal = jacobian.mT @ jacobian
        normal = normal + damping[:, None, None, None] * torch.eye(self.count).to(normal)
        factor = torch.linalg.cholesky(normal)

        def apply(v: Tensor) -> Tensor:
            patches = F.unfold(v, self.size, stride=self.size).mT[..., None]
            return self.image(torch.cholesky_solve(patches, factor)[..., 0].mT, v)

        return apply

    def residuals(self, image: Tensor, aim: Tensor) -> Tensor:
        """(batch, patches), how far each patch's token is off."""
        left = (aim - self.counted(image))[:, -self.tokens :]
        lengths: Tensor = torch.linalg.vector_norm(left, dim=-1)
        return lengths

    def cut(self, image: Tensor) -> Tensor:
        """(batch, numbers of a patch, patches), what `image` puts together."""
        return F.unfold(image, self.size, stride=self.size)

    def image(self, patches: Tensor, like: Tensor) -> Tensor:
        """Patches, (batch, numbers of a patch, patches), put together."""
        return F.fold(patches, like.shape[-2:], self.size, stride=self.size)
