"""The exact method of `invert`, as the probe drives it, and the choice between it and L-BFGS."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor

from surgeon.inversion.exact import ExactInversion
from surgeon.inversion.matching import Matching, start_image
from surgeon.inversion.searching import REACHED
from surgeon.inversion.strategy import Goal, precisions
from surgeon.inversion.walk import Walk
from surgeon.runs.state import pack
from surgeon_invert.methods import Progress, Schedule
from surgeon_invert.settings import InvertSettings

#: Settings that only a gradient method has.
_OF_GRADIENTS = ("loss", "loss_scale", "rate", "rate_end", "blur")


def choose(settings: InvertSettings, matching: Matching) -> tuple[str, str]:
    """The method, and why it is that one."""
    if settings.preset == "post":
        return "descent", "the preset's"
    if settings.method != "auto":
        return settings.method, "as asked"
    if len(matching.sites) > 1:
        return "lbfgs", "several sites are matched together"
    asked = [name for name in _OF_GRADIENTS if getattr(settings, name) is not None]
    if asked:
        return "lbfgs", f"{' and '.join(asked)} set, which only a gradient method has"
    image = matching.target
    obstacle = ExactInversion(matching.subject, matching.sites[0], image).obstacle
    if obstacle:
        return "lbfgs", obstacle
    return "exact", "every link to the pixels can be undone"


#: Images are apart from this row-space error on, or below this PSNR in dB.
_APART, _TOGETHER = 1e-3, 60.0


class ExactRun:
    """One exact inversion; each step undoes a sublayer.

    Args:
        walk: the fields of a `Walk` to go on from, None at the start.
    """

    def __init__(
        self, matching: Matching, schedule: Schedule, seed: int, walk: dict[str, Any] | None = None
    ) -> None:
        self.matching, self.schedule = matching, schedule
        target = matching.target.to(precisions(matching.target.device)[-1])
        start = start_image(target.shape, seed).to(target)
        goal = Goal(tolerance=schedule.tolerance or Goal.tolerance)
        self.inversion = ExactInversion(
            matching.subject, matching.sites[0], start, budget=schedule.steps, goal=goal
        )
        self.walk = (
            self.inversion.begin(self.inversion.output(target)) if walk is None else Walk(**walk)
        )

    def step(self) -> None:
        """Undo one sublayer, or search the image a little further."""
        before = self.walk.spent
        self.inversion.step(self.walk)
        spent = self.walk.spent - before
        self.matching.subject.ledger.take(spent, self.matching.flops)

    @property
    def progress(self) -> Progress:
        """Where it is, as the gradient methods say it."""
        walk = self.walk
        return Progress(
            walk.image, walk.image, spent=walk.spent, loss=walk.residual, stopped=walk.stopped
        )

    @property
    def share(self) -> float:
        """Of the work done."""
        walk = self.walk
        if walk.stage == "chain":
            return 1 - (walk.index + 1) / len(self.inversion.links)
        return min(walk.spent / self.schedule.steps, 1.0)

    def packed(self) -> dict[str, Any]:
        """The state, under flat names."""
        return pack({f.name: getattr(self.walk, f.name) for f in fields(Walk)}, "exact")

    def result(self) -> Tensor:
        """The image."""
        return self.walk.image.detach()

    def log(self) -> dict[str, Any]:
        """What the last step did."""
        row = self.walk.records[-1] if self.walk.records else {}
        return {key: row.get(key) for key in ("link", "method", "residual", "gain", "left")}


def another(figures: dict[str, Any]) -> bool:
    """Whether an image is another pre-image: its output the same to 1e-8, itself apart.

    Apart is by what the stem passes on where that is known: what it is blind to is no finding.
    """
    seen = figures["row_space_error"]
    apart = (
        seen > _APART
        if seen is not None
        else figures["psnr"] is not None and figures["psnr"] < _TOGETHER
    )
    return bool(figures["embedding_relative"] <= REACHED and apart)


def finding(figures: dict[str, Any]) -> str:
    """What another pre-image is, in a line."""
    return (
        f"another pre-image, outputs {figures['embedding_relative']:.1e} apart (relative, "
        f"float64), images {figures['input_distance']:.3g} (L2); kept as a tensor in float64"
    )
