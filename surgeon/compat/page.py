"""The findings of a sweep as a page: a table of families, then every exception, then every name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Finding = dict[str, Any]

OPERATIONS = ("truncate", "only", "bypass", "drop_residual", "ablate")
_PARTS = ("stem", "blocks", "head")
_HEAD = """# Compatibility

Every architecture of every source, looked at and tried without its values by `surgeon compat`,
which wrote this page. *Right* means that stem, blocks and head are what the library itself says:
timm's `first_conv`, `classifier` and `group_matcher` (where that groups by stages or not at all,
blocks are read off its source by hand, in `timm_source.py`), torchvision's source files. An
operation counts where it was planned, applied, run and undone: `truncate` at the first, middle and
last block, `only` and `ablate` at the middle one, `bypass` a quarter of the way, `drop_residual`
everywhere. What the operations compute is compared with oracles, on real tensors, for one small
architecture of every family, by `tests/core/test_families.py`.
"""


def remark(finding: Finding) -> str:
    """What is to be said of one architecture; empty where all is well."""
    if finding.get("error"):
        return str(finding["error"])
    wrong = [] if right(finding) else list(finding["agreement"]["notes"])
    return "; ".join(wrong + [f"{op}: {why}" for op, why in finding["operations"].items() if why])


def right(finding: Finding) -> bool:
    """Stem, blocks and head found, and none of them other than the library says."""
    agreement = finding.get("agreement") or {}
    return not finding.get("error") and all(agreement.get(part) is not False for part in _PARTS)


def page(findings: Sequence[Finding], versions: dict[str, str]) -> str:
    """The whole page, in Markdown."""
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    seconds = sum(finding.get("seconds", 0.0) for finding in findings)
    parts = [
        _HEAD,
        f"{len(findings)} architectures, {seconds:.0f} s of CPU time; {listed}.\n",
        _totals(findings),
        *_families(findings),
        *_exceptions(findings),
        *_names(findings),
    ]
    return "\n".join(parts)


def _totals(findings: Sequence[Finding]) -> str:
    groups = _grouped(findings, lambda f: (_library(f), str(f.get("task", "classification"))))
    rows = [
        [library, task, len(found), sum(not f.get("error") for f in found),
         _share(sum(map(right, found)), len(found)), *(_ran(found, op) for op in OPERATIONS)]
        for (library, task), found in groups.items()
    ]  # fmt: skip
    return _table(["library", "task", "names", "looked at", "right", *OPERATIONS], rows)


def _families(findings: Sequence[Finding]) -> Iterable[str]:
    yield "## Families\n"
    groups = _grouped(findings, lambda f: (_library(f), str(f.get("family", ""))))
    rows = []
    for (library, family), found in groups.items():
        parts = [f["parts"] for f in found if f.get("parts")]
        rows.append(
            [f"{library}/{family}", len(found), _share(sum(map(right, found)), len(found)),
             *(_span(p[key] for p in parts) for key in ("blocks", "residuals", "attention", "mlp")),
             "yes" if any(p["pos_embed"] for p in parts) else "",
             "yes" if any(p["class_token"] for p in parts) else "",
             *(_ran(found, op) for op in OPERATIONS)]
        )  # fmt: skip
    yield _table(
        ["family", "names", "right", "blocks", "residual adds", "mixing sublayers", "mlp sublayers",
         "position", "class token", *OPERATIONS],
        rows,
    )  # fmt: skip


def _exceptions(findings: Sequence[Finding]) -> Iterable[str]:
    for title, texts in (
        ("Not looked at", {f["name"]: f["error"] for f in findings if f.get("error")}),
        (
            "Read otherwise than the library says",
            {
                f["name"]: "; ".join(f["agreement"]["notes"])
                for f in findings
                if not f.get("error") and not right(f)
            },
        ),
        (
            "Truncation that failed",
            {f["name"]: t for f in findings if (t := (f.get("operations") or {}).get("truncate"))},
        ),
    ):
        yield f"## {title}\n"
        yield _by_reason(texts) if texts else "None.\n"
    bare = {
        f["name"]: ""
        for f in findings
        if f.get("parts") and not f["parts"]["residuals"]
    }  # fmt: skip
    yield "## Without a residual add\n"
    yield (
        "Their blocks concatenate, or only follow each other; `drop_residual` says so and `bypass`"
        f" needs a block that keeps the shape. {len(bare)} names: {', '.join(sorted(bare))}.\n"
    )
    yield "## Where `bypass` and `only` are refused\n"
    yield (
        "A block that changes the shape of the stream and has no skip can't be passed by: there is"
        " nothing to pass on. The plan says so, with both shapes, before anything runs.\n"
    )


def _names(findings: Sequence[Finding]) -> Iterable[str]:
    yield "## Every name\n"
    rows = [
        [f["name"], p.get("blocks", ""), p.get("residuals", ""), p.get("stem", ""),
         ", ".join(p.get("head", ())[:2]), "" if right(f) else "see above"]
        for f in findings
        for p in [f.get("parts") or {}]
    ]  # fmt: skip
    yield _table(["name", "blocks", "residual adds", "stem", "head", "remark"], rows)


def write(findings: Sequence[Finding], versions: dict[str, str], file: Path) -> None:
    """Write the page."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(findings, versions), encoding="utf-8")


# --- pieces


def _library(finding: Finding) -> str:
    return str(finding["name"]).partition("/")[0]


def _grouped(findings: Sequence[Finding], key: Any) -> dict[Any, list[Finding]]:
    found: dict[Any, list[Finding]] = defaultdict(list)
    for finding in findings:
        found[key(finding)].append(finding)
    return dict(sorted(found.items()))


def _share(part: int, whole: int) -> str:
    return "all" if part == whole else f"{part} of {whole}"


def _ran(findings: Sequence[Finding], operation: str) -> str:
    tried = [f["operations"] for f in findings if f.get("operations")]
    ran = sum(not reasons.get(operation, "not tried") for reasons in tried)
    return _share(ran, len(findings)) if ran else "none"


def _span(numbers: Iterable[int]) -> str:
    found = sorted(numbers)
    if not found:
        return ""
    return str(found[0]) if found[0] == found[-1] else f"{found[0]} to {found[-1]}"


def _by_reason(texts: dict[str, str]) -> str:
    names: dict[str, list[str]] = defaultdict(list)
    for name, text in texts.items():
        names[text].append(name)
    return _table(["names", "reason"], [[", ".join(n), text] for text, n in names.items()])


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    text = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
    return text + "\n"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
