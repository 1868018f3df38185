"""The work on one sublayer: its tokens judged, and other pre-images looked for."""

from __future__ import annotations

from typing import Any

import torch

from surgeon.diagnosis import thresholds
from surgeon.diagnosis.certificates import COLLIDES, PROVED, Certificate
from surgeon.diagnosis.large import Floor
from surgeon.diagnosis.preimages import Preimage
from surgeon.diagnosis.sublayers import Sublayer, summary, token_row, well
from surgeon.imaging.metrics import finite
from surgeon.probe import State
from surgeon.runs.state import pack, unpack
from surgeon.subject import Subject
from surgeon_diagnose.mapping import short_figures
from surgeon_diagnose.settings import DiagnoseSettings
from surgeon_diagnose.tasks import Task

#: Of a sublayer that nobody named, beyond the first block: numbers in the tokens that are judged
#: one by one (24 of width 768), tokens of a step, and products that its smallest singular value may
#: cost, at most.
FAR_NUMBERS, FAR_BATCH, FAR_PRODUCTS = 24 * 768, 4, 300


def judge_sublayer(
    subject: Subject, settings: DiagnoseSettings, task: Task, state: State, index: int
) -> tuple[dict[str, Any], float]:
    """A batch of tokens judged, or the sublayer as a whole; the share of it that is done."""
    assert task.site is not None
    sublayer = Sublayer(subject, task.site, task.photo.pixels)
    if not by_tokens(sublayer, settings):
        return _judge_mixing(sublayer, settings, task, state, index), 1.0
    rows, order = unpack(state, "rows"), sublayer.order()[: _most_tokens(sublayer, settings, task)]
    batch = min(settings.batch, FAR_BATCH) if task.far else settings.batch
    chosen = order[len(rows) : len(rows) + batch]
    if chosen:
        rows += rows_of(sublayer, chosen)
    else:
        row = _searchable(rows, settings)[0]
        found = sublayer.search(int(row["token"]), settings.starts)
        row |= looked_for(row, found)
        _keep(sublayer, int(row["token"]), found, state, index)
    rest = floor_of_rest(sublayer, rows) if task.far else None
    enough = len(rows) == len(order) or well(rest)
    left = not task.far and bool(_searchable(rows, settings))
    share = 1.0 if enough and not left else min(len(rows) / len(order), 0.99)
    figures = sublayer_figures(sublayer, rows, rest)
    if share >= 1:
        rows.sort(key=lambda row: int(row["token"]))
        said = [*_statements(rows), *_unjudged(figures)]
        state |= pack({"figures": figures, "rows": rows, "evidence": said}, f"done/{index}")
        rows = []
    state |= pack(rows, "rows")
    return {"verdict": figures["verdict"], "tokens": figures["tokens_judged"]}, share


def by_tokens(sublayer: Sublayer, settings: DiagnoseSettings) -> bool:
    """Whether a sublayer is judged token by token."""
    return sublayer.deviation is not None and sublayer.columns <= settings.dense


def _most_tokens(sublayer: Sublayer, settings: DiagnoseSettings, task: Task) -> int:
    """Tokens of a sublayer that are judged one by one, at most."""
    if not task.far:
        return settings.tokens
    return min(settings.tokens, max(1, FAR_NUMBERS // sublayer.columns))


def floor_of_rest(sublayer: Sublayer, rows: list[dict[str, Any]]) -> Floor | None:
    """What is known of the tokens that were not judged one by one."""
    judged = {int(row["token"]) for row in rows}
    rest = [token for token in sublayer.order() if token not in judged]
    return sublayer.floor(rest) if rest else None


def rows_of(sublayer: Sublayer, tokens: list[int]) -> list[dict[str, Any]]:
    """Rows of some tokens, with what was found of each."""
    assert sublayer.deviation is not None
    judged = sublayer.judge_tokens(tokens)
    return [
        token_row(token, float(sublayer.deviation[token]), certificate)
        for token, certificate in zip(tokens, judged, strict=True)
    ]


def sublayer_figures(
    sublayer: Sublayer, rows: list[dict[str, Any]], rest: Floor | None = None
) -> dict[str, Any]:
    """What stands in `figures` of a sublayer judged token by token."""
    assert sublayer.deviation is not None
    found = [row["preimages"] for row in rows if "preimages" in row]
    figures = {
        **summary(rows, len(sublayer.deviation), rest),
        "bounded_branch": bool(sublayer.facts.bounded_branch),
        "std_least": float(sublayer.deviation.min()),
        "searched": len(found), "preimages_found": sum(n > 0 for n in found),
        "preimages_certified": sum(row.get("certified") == 1 for row in rows),
        **sublayer.collapse(),
    }  # fmt: skip
    if rest is None:
        return figures
    steepest = max(figures["lipschitz_branch"] or 0.0, rest.branch)
    return figures | {
        "lipschitz_branch": finite(steepest),
        "rest_smallest_at_least": finite(rest.smallest),
        "rest_condition_at_most": finite(rest.condition),
    }


def mixing_certificate(sublayer: Sublayer, settings: DiagnoseSettings, task: Task) -> Certificate:
    """The verdict on a sublayer as one map: in full, or roughly where nobody named it."""
    if task.far and sublayer.x[0].numel() > settings.dense:
        return sublayer.judge_roughly(min(settings.products, FAR_PRODUCTS))
    return sublayer.judge_whole(settings.dense, settings.products)


def mixing_figures(sublayer: Sublayer, certificate: Certificate) -> dict[str, Any]:
    """What stands in `figures` of a sublayer judged as one map."""
    bounded = bool(sublayer.facts.bounded_branch)
    return {**short_figures(certificate), "bounded_branch": bounded, **sublayer.collapse()}


def _judge_mixing(
    sublayer: Sublayer, settings: DiagnoseSettings, task: Task, state: State, index: int
) -> dict[str, Any]:
    """The verdict on a sublayer that mixes tokens, as one map."""
    certificate = mixing_certificate(sublayer, settings, task)
    figures = mixing_figures(sublayer, certificate)
    if figures["by"] == "determinant" and settings.search and not task.far:
        found = sublayer.search(None, settings.starts)
        figures |= looked_for(figures, found)
        _keep(sublayer, None, found, state, index)
    statements = [e.statement for e in certificate.evidence]
    state |= pack({"figures": figures, "rows": [], "evidence": statements}, f"done/{index}")
    return {"verdict": certificate.verdict}


def _searchable(rows: list[dict[str, Any]], settings: DiagnoseSettings) -> list[dict[str, Any]]:
    """Tokens whose other pre-images are still to be looked for: those that have some for certain
    first, then those whose Jacobian is nearest to singular."""
    square = [row for row in rows if "determinant_sign" in row and row.get("smallest") is not None]
    proved = [row for row in square if row["by"] in ("determinant", "two pre-images")
              and row["determinant_sign"] < 0]  # fmt: skip
    others = [row for row in square if row not in proved]
    others = [row for row in others if row["by"] != "exact null space"]
    others.sort(key=lambda row: float(row["smallest"]))
    return [row for row in [*proved, *others][: settings.search] if "preimages" not in row]


def looked_for(row: dict[str, Any], found: list[Preimage]) -> dict[str, Any]:
    """What a search adds to a row, its verdict where that is changed."""
    if not found:
        return {"preimages": 0}
    best = found[0]
    evidence = best.evidence()
    more: dict[str, Any] = {"preimages": len(found), **evidence.numbers}
    if row["verdict"] == PROVED:
        return more
    if best.balls is not None:
        return more | {"verdict": PROVED, "by": evidence.kind, "statement": evidence.statement}
    if best.apart >= thresholds.APART:
        return more | {"verdict": COLLIDES, "by": evidence.kind, "statement": evidence.statement}
    return more


def _keep(
    sublayer: Sublayer, token: int | None, found: list[Preimage], state: State, index: int
) -> None:
    """The best of what was found, beside the value itself."""
    if found:
        x = sublayer.x if token is None else sublayer.x[:, [token]]
        name = "whole" if token is None else f"token {token}"
        state[f"preimage/{index}/{name}"] = torch.cat([x, found[0].x])


def _statements(rows: list[dict[str, Any]]) -> list[str]:
    """What the worst tokens rest on: certified pairs and proofs first, then the smallest value."""
    proofs = [row for row in rows if row["verdict"] == PROVED]
    proofs.sort(key=lambda row: -int(row.get("certified", 0)))
    known = [row for row in rows if row.get("smallest") is not None]
    worst = proofs[:3] or sorted(known, key=lambda row: float(row["smallest"]))[:1]
    return [f"token {row['token']}: {row['statement']}{_found(row)}" for row in worst]


def _unjudged(figures: dict[str, Any]) -> list[str]:
    """What is said of the tokens that were not judged one by one."""
    if "rest_smallest_at_least" not in figures:
        return []
    left = figures["tokens"] - figures["tokens_judged"]
    low = figures["rest_smallest_at_least"]
    if low is None or low <= 0:
        return [f"{left} further tokens were not judged: name the sublayer to have it judged whole"]
    return [f"the {left} further tokens have singular values of at least {low:.2g}"]


def _found(row: dict[str, Any]) -> str:
    """What a search found, where the statement doesn't say so itself."""
    if "preimages" not in row or row["by"] == "two pre-images":
        return ""
    if not row["preimages"]:
        return "; others were looked for, none found"
    certified = ""
    if row.get("certified"):
        certified = f", certified in balls of radius {max(row['radius'], row['radius_other']):.0e}"
    return f"; {row['preimages']} found, one {row['preimage_apart']:.2g} apart{certified}"
