"""What the packaged sweep found, for `surgeon anatomy` to say. Reads JSON, imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("known.json")


@dataclass(frozen=True)
class Known:
    """One architecture as the packaged sweep found it.

    Attributes:
        blocks, residuals: how many.
        right: whether stem, blocks and head are as the library says; None where it says nothing.
        refused: operation -> why it can't be carried out everywhere.
        error: why it could not be looked at, empty if it could.
    """

    blocks: int
    residuals: int
    right: bool | None
    refused: dict[str, str]
    error: str

    def __str__(self) -> str:
        if self.error:
            return f"tested: can't be looked at: {self.error}"
        judged = {True: "as the library has it", False: "not as the library has it", None: "found"}
        text = f"tested: stem, blocks and head {judged[self.right]}"
        if self.refused:
            text += "; refused somewhere: " + ", ".join(self.refused)
        return text


@cache
def _packaged() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


def versions() -> dict[str, str]:
    """Versions of the libraries that the packaged sweep ran with."""
    return dict(_packaged()["versions"])


def known(name: str) -> Known | None:
    """What the packaged sweep found of "source/architecture", None where it was not in it."""
    row = _packaged()["models"].get(name)
    return None if row is None else Known(*row)


def packed(findings: list[dict[str, Any]], versions: dict[str, str]) -> str:
    """Findings as the packaged file holds them: a line a model."""
    rows = []
    for finding in sorted(findings, key=lambda f: str(f["name"])):
        parts, agreement = finding.get("parts") or {}, finding.get("agreement") or {}
        said = [agreement.get(key) for key in ("stem", "blocks", "head")]
        right = None if set(said) <= {None} else False not in said
        refused = {op: why for op, why in (finding.get("operations") or {}).items() if why}
        row = [
            parts.get("blocks", 0), parts.get("residuals", 0), right, refused,
            finding.get("error", ""),
        ]  # fmt: skip
        rows.append(f"{json.dumps(finding['name'])}: {json.dumps(row)}")
    head = json.dumps(versions)
    return f'{{"versions": {head}, "models": {{\n' + ",\n".join(rows) + "\n}}\n"
