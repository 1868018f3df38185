"""The work on one sublayer: its tokens judged, and other pre-images looked for."""

from __future__ import annotations

from typing import Any

import torch

from surgeon.diagnosis import thresholds
from surgeon.diagnosis.certificates import COLLIDES, PROVED
from surgeon.diagnosis.preimages import Preimage
from surgeon.diagnosis.sublayers import Sublayer, summary, token_row
from surgeon.probe import State
from surgeon.runs.state import pack, unpack
from surgeon.subject import Subject
from surgeon_diagnose.mapping import short_figures
from surgeon_diagnose.settings import DiagnoseSettings
from surgeon_diagnose.tasks import Task


def judge_sublayer(
    subject: Subject, settings: DiagnoseSettings, task: Task, state: State, index: int
) -> tuple[dict[str, Any], float]:
    """A batch of tokens judged, or the sublayer as a whole; the share of it that is done."""
    assert task.site is not None
    sublayer = Sublayer(subject, task.site, task.photo.pixels)
    if not by_tokens(sublayer, settings):
        return _judge_mixing(sublayer, settings, state, index), 1.0
    assert sublayer.deviation is not None
    rows = unpack(state, "rows")
    order = sublayer.order()[: settings.tokens]
    chosen = order[len(rows) : len(rows) + settings.batch]
    if chosen:
        rows += rows_of(sublayer, chosen)
    else:
        row = _searchable(rows, settings)[0]
        found = sublayer.search(int(row["token"]), settings.starts)
        row |= looked_for(row, found)
        _keep(sublayer, int(row["token"]), found, state, index)
    left = _searchable(rows, settings)
    share = min(len(rows) / len(order), 0.99) if left or len(rows) < len(order) else 1.0
    figures = sublayer_figures(sublayer, rows)
    if share >= 1:
        rows.sort(key=lambda row: int(row["token"]))
        kept = {"figures": figures, "rows": rows, "evidence": _statements(rows)}
        state |= pack(kept, f"done/{index}")
        rows = []
    state |= pack(rows, "rows")
    return {"verdict": figures["verdict"], "tokens": figures["tokens_judged"]}, share


def by_tokens(sublayer: Sublayer, settings: DiagnoseSettings) -> bool:
    """Whether a sublayer is judged token by token."""
    return sublayer.deviation is not None and sublayer.columns <= settings.dense


def rows_of(sublayer: Sublayer, tokens: list[int]) -> list[dict[str, Any]]:
    """Rows of some tokens, with what was found of each."""
    assert sublayer.deviation is not None
    judged = sublayer.judge_tokens(tokens)
    return [
        token_row(token, float(sublayer.deviation[token]), certificate)
        for token, certificate in zip(tokens, judged, strict=True)
    ]


def sublayer_figures(sublayer: Sublayer, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What stands in `figures` of a sublayer judged token by token."""
    assert sublayer.deviation is not None
    found = [row["preimages"] for row in rows if "preimages" in row]
    return {
        **summary(rows, len(sublayer.deviation)),
        "bounded_branch": bool(sublayer.facts.bounded_branch),
        "std_least": float(sublayer.deviation.min()),
        "searched": len(found), "preimages_found": sum(n > 0 for n in found),
        "preimages_certified": sum(row.get("certified") == 1 for row in rows),
    }  # fmt: skip


def _judge_mixing(
    sublayer: Sublayer, settings: DiagnoseSettings, state: State, index: int
) -> dict[str, Any]:
    """The verdict on a sublayer that mixes tokens, as one map."""
    certificate = sublayer.judge_whole(settings.dense, settings.products)
    figures = {
        **short_figures(certificate), "bounded_branch": bool(sublayer.facts.bounded_branch)
    }  # fmt: skip
    if figures["by"] == "determinant" and settings.search:
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
