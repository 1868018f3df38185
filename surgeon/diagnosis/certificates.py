"""Verdicts and what they rest on. Needs no torch; everything in them can be written as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal[
    "injective here",
    "ill-conditioned",
    "not injective: proved",
    "collision to tolerance",
    "not converged",
]
INJECTIVE: Verdict = "injective here"
ILL: Verdict = "ill-conditioned"
PROVED: Verdict = "not injective: proved"
COLLIDES: Verdict = "collision to tolerance"
OPEN: Verdict = "not converged"

#: What may stand under "proved".
PROOFS = ("counting", "exact null space", "determinant", "two pre-images")

#: Of several parts that a map is made of side by side, the first of these is the whole's verdict.
_WORST: tuple[Verdict, ...] = (PROVED, COLLIDES, ILL, OPEN, INJECTIVE)


@dataclass(frozen=True)
class Evidence:
    """One thing a verdict rests on.

    Attributes:
        kind: "counting", "exact null space", "determinant", "two pre-images", "singular values",
            "rank", "pair", or "none" where something was not worked out.
        statement: one sentence.
        numbers: the figures of it; None for what is not finite.
    """

    kind: str
    statement: str
    numbers: dict[str, float | int | str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Certificate:
    """A verdict with its evidence, what decided it first.

    Attributes:
        verdict: one of five.
        evidence: at least one piece.

    Raises:
        ValueError: "proved" without a proof.
    """

    verdict: Verdict
    evidence: tuple[Evidence, ...]

    def __post_init__(self) -> None:
        if self.verdict == PROVED and self.evidence[0].kind not in PROOFS:
            raise ValueError(f"{self.evidence[0].kind} proves nothing")

    @property
    def numbers(self) -> dict[str, float | int | str | None]:
        """The figures of all the evidence."""
        return {key: value for piece in self.evidence for key, value in piece.numbers.items()}

    def also(self, *further: Evidence) -> Certificate:
        """The same verdict with further evidence."""
        return Certificate(self.verdict, (*self.evidence, *further))

    def as_row(self) -> dict[str, Any]:
        """For tables: verdict, what decided it, and its figures."""
        first = self.evidence[0]
        return {"verdict": self.verdict, "by": first.kind, "statement": first.statement,
                **self.numbers}  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return asdict(self)


def together(verdicts: Sequence[Verdict], *, complete: bool) -> Verdict:
    """The verdict on a map whose parts, side by side, have verdicts of their own.

    Args:
        complete: whether every part was judged; if not, it can't be called injective.
    """
    worst = next((v for v in _WORST if v in verdicts), OPEN)
    return OPEN if worst == INJECTIVE and not complete else worst
