"""Gradient methods of `invert`: the post's descent, Adam, L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from surgeon.anatomist.anatomy import Anatomy
from surgeon.imaging.metrics import finite
from surgeon.inversion.coordinates import Spectrum
from surgeon.inversion.ledger import Ledger
from surgeon.inversion.matching import Loss, Matching
from surgeon.runs.state import pack
from surgeon_invert.settings import InvertSettings
from surgeon_invert.snapshots import as_kept


@dataclass(frozen=True)
class Schedule:
    """A method with every constant filled in.

    Attributes:
        steps: gradient evaluations at most.
        rate, blur: (first, last); blur's sigma in pixels, None for no blur.
        spectrum: whether L-BFGS searches in frequencies scaled as in photos.
    """

    method: str
    steps: int
    loss: Loss
    loss_scale: float
    rate: tuple[float, float]
    blur: tuple[float, float] | None
    blur_kernel: int
    tolerance: float
    spectrum: bool = False


#: The author's constants for tokens and for feature maps: c, rate, steps, blur.
_POST_TOKENS = (0.06, 0.1, 1500, None)
_POST_MAPS = (0.15, 0.1, 500, (2.4, 0.4))
#: Found best on ViT-B/32 and ResNet-50 at 100 to 1,500 steps; benchmarks/inversion_budget.py.
_RATES = {"adam": 0.05, "lbfgs": 1.0, "exact": 1.0}
#: Of descent, for each number of the image: the curvature of the relative loss falls with their
#: count. Steps stay stable up to 3.4e-4 to 0.1 of it (untrained, at the start: first and last block
#: of ViT-B/32 and ResNet-18 at 224 px and of the packaged models).
_DESCENT_RATE = 2.5e-4
_STEPS = 200


def schedule_of(settings: InvertSettings, anatomy: Anatomy, chosen: str | None = None) -> Schedule:
    """Fill in what the settings leave open.

    Args:
        chosen: the method, where the settings leave it to be chosen.
    """
    post = settings.preset == "post"
    method = chosen or ("descent" if post else settings.method)
    tokens = _works_on_tokens(anatomy)
    scale, rate, steps, blur = _POST_TOKENS if tokens else _POST_MAPS
    if not post:
        own = _RATES.get(method, _DESCENT_RATE * math.prod(anatomy.input_size))
        scale, rate, steps, blur = 1.0, own, _STEPS, None
    loss: Loss = settings.loss or ("l1" if post else "l2")
    first = settings.rate or rate
    return Schedule(
        method,
        settings.steps or steps,
        loss,
        settings.loss_scale or scale,
        (first, settings.rate_end or first),
        settings.blur or blur,
        settings.blur_kernel,
        settings.tolerance,
        method == "lbfgs" and _in_spectrum(settings),
    )


def _in_spectrum(settings: InvertSettings) -> bool:
    own = "spectrum" if settings.method == "auto" else "pixels"
    return (settings.coordinates or own) == "spectrum"


def _works_on_tokens(anatomy: Anatomy) -> bool:
    blocks = anatomy.blocks
    shape = anatomy.graph.values[blocks[0].call.outputs[0]].shape if blocks else ()
    return len(shape) == 3


class BudgetSpentError(Exception):
    """No gradient evaluation is left."""


@dataclass
class Progress:
    """Where a descent is.

    Attributes:
        image: where the next evaluation is.
        seen: the image that loss and distance are of: the last one evaluated, or of L-BFGS, whose
            line search makes trials, the best.
        spent: gradient evaluations.
        loss, distance: of `seen`; distance is L2 at the sites.
        stopped: why, empty while it goes on.
    """

    image: Tensor
    seen: Tensor
    spent: float = 0
    loss: float = float("nan")
    distance: float = float("nan")
    stopped: str = ""


class Descent:
    """One inversion by gradients, a step at a time.

    Args:
        progress: where to go on from.
        memory: what the optimiser kept, None at the start.
        marks: gradient evaluations after which the image is put into `caught`.
    """

    def __init__(
        self,
        matching: Matching,
        schedule: Schedule,
        progress: Progress,
        memory: dict[str, Any] | None = None,
        marks: Sequence[int] = (),
    ) -> None:
        self.matching, self.schedule, self.progress = matching, schedule, progress
        progress.image = progress.image.detach()
        self.spectrum = Spectrum(*progress.image.shape[-2:]) if schedule.spectrum else None
        self.unknown = self._unknown().requires_grad_(True)  # the image itself, but in a spectrum
        self.norm = sum(float((w * w).sum()) for w in matching.wanted) ** 0.5
        self.ledger = Ledger(matching.flops, spent=progress.spent)
        self.optimizer = self._optimizer(self.unknown)
        self.marks = marks
        self.caught: dict[int, Tensor] = {}
        if memory is not None:
            self.optimizer.load_state_dict(memory)

    def _optimizer(self, unknown: Tensor) -> torch.optim.Optimizer:
        rate = self.schedule.rate[0]
        if self.schedule.method == "adam":
            return torch.optim.Adam([unknown], lr=rate)
        if self.schedule.method == "descent":
            return torch.optim.SGD([unknown], lr=rate)
        return torch.optim.LBFGS(
            [unknown], lr=rate, max_iter=20, max_eval=40, history_size=100,
            tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe",
        )  # fmt: skip

    def step(self) -> None:
        """One step; of L-BFGS, up to twenty iterations.

        Adam and descent evaluate an image and then leave it, unless it is near enough: what
        `tolerance` accepts is what is returned.
        """
        progress = self.progress
        share = min(progress.spent / self.schedule.steps, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = _between(self.schedule.rate, share)
        kept = progress.loss
        if self.spectrum:  # from the image, as if begun anew: what a checkpoint holds is enough
            self.unknown.data.copy_(self._unknown())
        try:
            if self.lbfgs:
                self.optimizer.step(self._closure)  # type: ignore[arg-type]  # torch takes tensors
            else:
                self._closure()
        except BudgetSpentError:
            progress.stopped = "budget spent"
        progress.image = self._image().detach()
        progress.stopped = progress.stopped or self._reason(kept)
        if not self.lbfgs and progress.stopped in ("", "budget spent"):
            self.optimizer.step()
            self._blur(share)

    def _unknown(self) -> Tensor:
        image = self.progress.image
        return self.spectrum.there(image) if self.spectrum else image

    def _image(self) -> Tensor:
        return self.spectrum.back(self.unknown) if self.spectrum else self.unknown

    @property
    def lbfgs(self) -> bool:
        return self.schedule.method == "lbfgs"

    def _closure(self) -> Tensor:
        progress = self.progress
        if progress.spent >= self.schedule.steps:
            raise BudgetSpentError
        self.optimizer.zero_grad()
        image = self._image()
        loss, square = self.matching.loss(image, self.schedule.loss, self.schedule.loss_scale)
        loss.backward()
        self.ledger.gradient()
        self.matching.subject.ledger.gradient(self.matching.flops)
        progress.spent = round(self.ledger.spent)  # whole evaluations, and so a whole number
        value = float(loss.detach())
        first = progress.loss != progress.loss
        if not self.lbfgs or first or value < progress.loss:
            progress.loss, progress.distance = value, float(square) ** 0.5
            progress.seen = image.detach().clone()
        if progress.spent in self.marks:
            self.caught[int(progress.spent)] = as_kept(progress.seen)
        return loss

    def _blur(self, share: float) -> None:
        if self.schedule.blur is not None:
            sigma = _between(self.schedule.blur, share)
            with torch.no_grad():
                kernel = [self.schedule.blur_kernel] * 2
                image = gaussian_blur(self.progress.image, kernel, [sigma] * 2)
                self.progress.image.copy_(image)

    def _reason(self, kept: float) -> str:
        progress = self.progress
        if progress.distance != progress.distance:
            return "the loss is no number"
        if self.norm and progress.distance / self.norm <= self.schedule.tolerance:
            return "tolerance reached"
        if progress.spent >= self.schedule.steps:
            return "budget spent"
        return "no further descent" if self.lbfgs and progress.loss >= kept else ""

    @property
    def share(self) -> float:
        """Of the work done."""
        return min(self.progress.spent / self.schedule.steps, 1.0)

    def packed(self) -> dict[str, Any]:
        """The state, under flat names."""
        progress = self.progress
        tree = {
            "image": progress.image.detach(),
            "seen": progress.seen,
            "spent": progress.spent,
            "loss": progress.loss,
            "distance": progress.distance,
            "memory": self.optimizer.state_dict(),
        }
        return pack(tree, "descent")

    def log(self) -> dict[str, Any]:
        """What the last step found."""
        progress = self.progress
        return {
            "loss": finite(progress.loss),
            "embedding_distance": finite(progress.distance),
        }

    def result(self) -> Tensor:
        """The image: L-BFGS may end in a trial step, so its best; else where it stopped."""
        found = self.progress.seen if self.lbfgs else self.progress.image
        return found.detach().clone()


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] * (1 - share) + ends[1] * share
