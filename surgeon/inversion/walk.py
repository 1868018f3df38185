"""Where an exact inversion is: all that a checkpoint has to hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Walk:
    """Where an exact inversion is.

    Attributes:
        stage: "chain": links are undone; "image": pixels are searched for; "done".
        index: of the link to undo next.
        value: at that link's target.
        aim, aim_index: the value an image must give, and the link whose target it is at.
        given: the value at the site.
        partial: whether some tokens of a link were left: what is below is a guess.
        image: the best so far.
        residual: relative, of what was done last.
        damping, memory: of the search in the image, to go on with.
        best: the image whose residual was least, of the search in the image.
        latest, restarts: residual of its last slice, and how often patches were put anew.
        stale: slices in a row that found next to nothing nearer.
        near: whether the search in the image began where links had led to.
        fine: whether that search has gone on to float64.
        fork, source, hard: a link with tokens that may have several pre-images, the value found
            at its source, and the numbers of those tokens among its unknowns.
        landings: how often hard tokens were looked for from the image that the search had come to.
        kept, error: of the images that the search began or ended with, the one whose value at the
            site itself was nearest, and how far that was, relative.
        spent: gradient evaluations.
        records: rows of `Record`.
        stopped: why it ended, empty while it goes on.
    """

    stage: str
    index: int
    value: Tensor
    aim: Tensor
    aim_index: int
    image: Tensor
    given: Tensor
    partial: bool = False
    residual: float = 1.0
    damping: Tensor | None = None
    memory: dict[str, Any] | None = None
    best: Tensor | None = None
    latest: float = float("inf")
    restarts: int = 0
    stale: int = 0
    near: bool = False
    fine: bool = False
    fork: int = -1
    source: Tensor | None = None
    hard: list[int] = field(default_factory=list)
    landings: int = 0
    kept: Tensor | None = None
    error: float = float("inf")
    spent: float = 0.0
    records: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""

    def note(self, method: str, reached: float, cost: float) -> None:
        """Bring the record of the search in the image up to date."""
        last = self.records[-1]
        self.records[-1] = {
            **last, "method": method, "residual": self.residual, "cost": last["cost"] + cost,
            "left": int(self.residual > reached),
        }  # fmt: skip
