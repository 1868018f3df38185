"""Verdicts on one sublayer: token by token where each goes its own way, else as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surgeon.diagnosis import thresholds
from surgeon.diagnosis.attention_bound import attention_bound
from surgeon.diagnosis.certificates import (
    OPEN,
    PROVED,
    Certificate,
    Evidence,
    Verdict,
    together,
)
from surgeon.diagnosis.collapse import stable_rank, tokens_apart
from surgeon.diagnosis.extremes import operator_norm, spectral_radius
from surgeon.diagnosis.judging import Facts, branch_evidence, judge_spectrum, spectra
from surgeon.diagnosis.large import (
    Floor,
    LargeJacobian,
    beside_norm,
    floor_of,
    judge_large,
    judge_roughly,
)
from surgeon.diagnosis.preimages import Preimage, certified, compared, other_preimages
from surgeon.diagnosis.structure import facts_of
from surgeon.errors import ProbeError
from surgeon.inversion.chain import chain
from surgeon.inversion.jacobians import token_jacobians, whole_jacobian
from surgeon.inversion.strategy import precisions

if TYPE_CHECKING:
    from surgeon.anatomist.site import Site
    from surgeon.inversion.segments import Segment
    from surgeon.subject import Subject


class Sublayer:
    """One sublayer of a subject at one image.

    Args:
        image: (1, channels, height, width) in [0, 1].

    Attributes:
        segment: from the value everything passes through last, to the sublayer's.
        x: (1, ...), the value there, float64 where the device has it.
        facts: what its dataflow proves.
        residual: whether it is x + f(x): else the whole of it is called its branch.
        deviation: (tokens,), standard deviation of each token; None where it is not token-wise.
    """

    def __init__(self, subject: Subject, site: Site, image: Tensor) -> None:
        self.subject, self.site = subject, site
        link = chain(subject, site)[-1]
        self.segment: Segment = link.segment
        self.residual = link.kind == "residual"
        source = self.segment.source
        if source is None:
            raise ProbeError(
                f"a verdict on {site.name} alone",
                "nothing before it is a value that all of it passes through",
                "a sublayer of a block, or the map from the pixels: sites",
            )
        kind = precisions(subject.device)[-1]
        names = subject.segment(None, source).parameters
        with torch.no_grad(), subject.in_dtype(kind, names):
            run = subject.run(image.to(subject.device, kind), capture=(source,), stop=source)
        self.x: Tensor = run[source]
        self.facts: Facts = facts_of(self.segment, self.x)
        tokenwise = self.segment.tokenwise and self.x.ndim == 3
        self.deviation = self.x[0].std(-1, correction=0) if tokenwise else None

    @property
    def columns(self) -> int:
        """Of its Jacobian, or of one token's."""
        return int(self.x.shape[-1]) if self.deviation is not None else self.x[0].numel()

    def order(self) -> list[int]:
        """Tokens, those of least variance first."""
        assert self.deviation is not None
        return [int(i) for i in self.deviation.argsort(stable=True)]

    def collapse(self) -> dict[str, float | None]:
        """How alike its tokens are before and after it; None where its value is no tokens."""
        names = ("tokens_apart_before", "tokens_apart", "stable_rank")
        with torch.no_grad(), self.subject.in_dtype(self.x.dtype, self.segment.parameters):
            value = self.segment(self.x)
        if self.x.ndim != 3 or value.ndim != 3 or not bool(torch.isfinite(value).all()):
            return dict.fromkeys(names)
        found = (tokens_apart(self.x), tokens_apart(value), stable_rank(value))
        return dict(zip(names, found, strict=True))

    def judge_tokens(self, tokens: list[int]) -> list[Certificate]:
        """A verdict on each of some tokens."""
        x = self.x[:, tokens]
        self._charge(self.columns, len(tokens) / self.x.shape[1])
        with self.subject.in_dtype(x.dtype, self.segment.parameters):
            jacobians = token_jacobians(self.segment, x)
        facts = _of_one_token(self.facts, self.x.shape[1])
        finite = torch.isfinite(jacobians).flatten(1).all(1)
        good = iter(self._judged(jacobians[finite], facts))
        return [next(good) if ok else judge_spectrum(None, facts) for ok in finite.tolist()]

    def floor(self, tokens: list[int]) -> Floor | None:
        """What is true of all of some tokens, by a few products with their Jacobians at once; None
        where it is no x + f(x) of the input's width."""
        if not self.residual or self.segment.target.shape[-1] != self.x.shape[-1]:
            return None
        with self.subject.in_dtype(self.x.dtype, self.segment.parameters):
            return floor_of(LargeJacobian(self.segment, self.x[:, tokens], self.subject.ledger))

    def _judged(self, jacobians: Tensor, facts: Facts) -> Iterator[Certificate]:
        """Verdicts from Jacobians, with figures of the branch alone."""
        if not len(jacobians):
            return
        square = jacobians.shape[1] == jacobians.shape[2]
        branch = jacobians - torch.eye(*jacobians.shape[1:]).to(jacobians) * self.residual
        radii = spectral_radius(branch).tolist() if square else [None] * len(branch)
        steepest = operator_norm(branch).tolist()
        for spectrum, radius, most in zip(spectra(jacobians), radii, steepest, strict=True):
            yield judge_spectrum(spectrum, facts).also(branch_evidence(most, radius))

    def search(self, token: int | None, starts: int) -> list[Preimage]:
        """Other pre-images of one token's output, or of the whole sublayer's."""
        x = self.x if token is None else self.x[:, [token]]
        jacobian_of = whole_jacobian if token is None else token_jacobians
        with self.subject.in_dtype(x.dtype, self.segment.parameters):
            jacobian = jacobian_of(self.segment, x)
            matrix = jacobian if token is None else jacobian[0]
            found = other_preimages(self.segment, x, matrix, starts=starts)
            return certified(self.segment, x, found)

    def compared(self, first: Tensor, second: Tensor) -> Preimage:
        """A saved pair of values, measured and certified again."""
        with self.subject.in_dtype(self.x.dtype, self.segment.parameters):
            return compared(self.segment, first, second)

    def judge_whole(self, dense: int, products: int = 0) -> Certificate:
        """A verdict on the sublayer as one map.

        Args:
            dense: columns up to which its Jacobian is worked out.
            products: with a larger one that may be spent on its extremes.
        """
        certificate = self._judge_mixing(dense, products)
        with self.subject.in_dtype(self.x.dtype, self.segment.parameters):
            bound = attention_bound(self.segment, self.x, residual=self.residual)
        if bound is None:
            return certificate
        text = f"the literature's bound for this attention is {bound:.3g}"
        return certificate.also(Evidence("singular values", text, {"lipschitz_bound": bound}))

    def judge_roughly(self, products: int) -> Certificate:
        """A verdict on the sublayer as one map, by some products with its Jacobian.

        Args:
            products: that the smallest singular value may cost; 0: it is not looked for.
        """
        with self.subject.in_dtype(self.x.dtype, self.segment.parameters):
            large = LargeJacobian(self.segment, self.x, self.subject.ledger)
            return judge_roughly(large, self.facts, residual=self.residual, products=products)

    def _judge_mixing(self, dense: int, products: int) -> Certificate:
        """From the whole Jacobian, or from products with it."""
        if self.x[0].numel() > dense:
            return self._judge_large(dense, products)
        self._charge(self.x[0].numel(), 1.0)
        with self.subject.in_dtype(self.x.dtype, self.segment.parameters):
            jacobian = whole_jacobian(self.segment, self.x)
        if not bool(torch.isfinite(jacobian).all()):
            return judge_spectrum(None, self.facts)
        spectrum = spectra(jacobian[None])[0]
        (certificate,) = self._judged(jacobian[None], self.facts)
        null = self.facts.null_dimensions
        if not 0 < null < len(spectrum.values):
            return certificate
        rest = float(spectrum.values[-null - 1])
        text = f"beside the {null} null directions the smallest singular value is {rest:.3g}"
        numbers: dict[str, float | int | str | None] = {"smallest_beside_null": rest}
        numbers["condition_beside_null"] = _ratio(spectrum.largest, rest)
        return certificate.also(Evidence("singular values", text, numbers))

    def _judge_large(self, dense: int, products: int) -> Certificate:
        """By products with the Jacobian and its transpose."""
        columns = self.x[0].numel()
        if not products or self.x.dtype != torch.float64:
            text = f"its Jacobian has {columns:,} columns, and at most {dense:,} are worked out"
            open_question = Evidence("none", text, {"columns": columns})
            if self.facts.null_space:
                return judge_spectrum(None, self.facts).also(open_question)
            return Certificate(OPEN, (open_question,))
        with self.subject.in_dtype(self.x.dtype, self.segment.parameters):
            large = LargeJacobian(self.segment, self.x, self.subject.ledger)
            found = judge_large(large, self.facts, residual=self.residual, products=products)
            blind = self.facts.null_dimensions == self.x.shape[1] and self.x.ndim == 3
            return found.also(beside_norm(large)) if blind and not self.residual else found

    def _charge(self, columns: int, share: float) -> None:
        self.subject.ledger.jvp(round(self.segment.flops * share), columns)


def _ratio(a: float, b: float) -> float | None:
    return a / b if b > 0 and math.isfinite(a / b) else None


def _of_one_token(facts: Facts, tokens: int) -> Facts:
    """Facts of a sublayer as one token's; null directions are shared out evenly or not known."""
    if facts.null_space and facts.null_dimensions != tokens:
        return Facts(facts.bounded_branch)
    return Facts(facts.bounded_branch, facts.null_space, 1 if facts.null_space else 0)


def token_row(token: int, deviation: float, certificate: Certificate) -> dict[str, Any]:
    """A token's verdict for tables."""
    row = certificate.as_row()
    return {"token": token, "std": deviation, **row}


def summary(rows: list[dict[str, Any]], tokens: int, rest: Floor | None = None) -> dict[str, Any]:
    """Figures of a sublayer from its tokens' rows.

    Args:
        tokens: how many it has.
        rest: what is known of those without a row.
    """
    verdicts: list[Verdict] = [row["verdict"] for row in rows]
    small = [row["smallest"] for row in rows if row.get("smallest") is not None]
    large = [row["largest"] for row in rows if row.get("largest") is not None]
    conditions = [row["condition"] for row in rows if row.get("condition") is not None]
    return {
        "verdict": together(verdicts, complete=len(rows) == tokens or well(rest)),
        "tokens": tokens,
        "tokens_judged": len(rows),
        "tokens_proved": sum(row["verdict"] == PROVED for row in rows),
        "determinants_negative": sum(row.get("determinant_sign") == -1 for row in rows),
        "determinants_unclear": sum(row.get("determinant_sign") == 0 for row in rows),
        "smallest": min(small, default=None),
        "largest": max(large, default=None),
        "condition": max(conditions, default=None),
        **{name: _most(rows, name) for name in ("lipschitz_branch", "spectral_radius")},
    }


def well(floor: Floor | None) -> bool:
    """Whether tokens of which this is known are injective here."""
    return floor is not None and not thresholds.is_ill_conditioned(floor.condition)


def _most(rows: list[dict[str, Any]], name: str) -> float | None:
    return max((row[name] for row in rows if row.get(name) is not None), default=None)
