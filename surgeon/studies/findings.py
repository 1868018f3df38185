"""Findings: what a check says of a claim."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from surgeon.studies.table import Table

Verdict = Literal["confirmed", "refuted", "undecided", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """A claim and what the numbers say of it.

    Attributes:
        claim: as the study states it.
        verdict: "confirmed", "refuted", "undecided" (cells are missing, or the number is within
            the margin), or "not applicable".
        value: the number the verdict hangs on, None without one.
        threshold: it is held against, chosen beforehand.
        sentence: number, threshold and how many cells, in words.
    """

    claim: str
    verdict: Verdict
    value: float | None
    threshold: float | None
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """As `study.json` has it."""
        return asdict(self)


class CheckFunction(Protocol):
    """A check of your own, named as "module:function"."""

    def __call__(self, table: Table, settings: dict[str, Any], /) -> Finding:
        """What the table says of `settings["claim"]`.

        Args:
            table: every row of the study.
            settings: every key of the finding's table.
        """
