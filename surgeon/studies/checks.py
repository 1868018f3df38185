"""The built-in checks of findings. Needs no torch.

Each takes a study's table and its own settings and gives a `Finding` whose sentence states the
number, the threshold and how many cells it comes from. What would be confirmed is undecided where
cells are missing (failed, or not yet run), and so is what lies within `margin` of its threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from surgeon.statistics import spearman
from surgeon.studies.check_settings import (
    Along,
    Common,
    Comparison,
    Equality,
    Level,
    Measured,
    Trend,
    Unfit,
)
from surgeon.studies.findings import Finding, Verdict
from surgeon.studies.table import Row, Table


@dataclass(frozen=True)
class _Line:
    """Values along an axis of cells that are alike otherwise."""

    name: str
    points: list[tuple[str, float]]

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.points]


# --- the checks


def above(table: Table, settings: Mapping[str, Any]) -> Finding:
    """The figure is at least the threshold in a share of the cells, all unless told."""
    return _level(table, Level(**settings), above=True)


def below(table: Table, settings: Mapping[str, Any]) -> Finding:
    """The figure is at most the threshold in a share of the cells, all unless told."""
    return _level(table, Level(**settings), above=False)


def spread(table: Table, settings: Mapping[str, Any]) -> Finding:
    """The largest minus the smallest value (or their ratio) along an axis, of each line."""
    asked = Along(**settings)
    lines = _lines(table, asked, asked.along)
    spreads = {line.name: _apart(max(line.values), min(line.values), asked.measure)
               for line in lines}  # fmt: skip
    value = _deciding(list(spreads.values()), asked.share, largest=asked.wants == "at least")
    kind = "difference" if asked.measure == "difference" else "ratio"
    words = (
        f"{asked.figure} along {asked.along}: {kind} of largest and smallest {{value}},"
        f" wanted {asked.wants} {{threshold}}, in {_share_text(asked.share)} of {len(lines)} lines"
        f" of {_count(lines)} values"
    )
    return _judged(table, asked, value, words, asked.wants == "at least", len(lines))


def falls(table: Table, settings: Mapping[str, Any]) -> Finding:
    """Along an axis the figure falls: by its order (Spearman), and in all by the threshold."""
    return _trend(table, Trend(**settings), sign=-1)


def rises(table: Table, settings: Mapping[str, Any]) -> Finding:
    """Along an axis the figure rises: by its order (Spearman), and in all by the threshold."""
    return _trend(table, Trend(**settings), sign=1)


def compare(table: Table, settings: Mapping[str, Any]) -> Finding:
    """The median over pairs of cells of first - second (or first / second)."""
    from surgeon.studies.study import labels_of

    asked = Comparison(**settings)
    first, second = labels_of(asked.first)[0], labels_of(asked.second)[0]
    table = table.where(**{asked.axis: [first, second]})
    pairs = [dict(line.points) for line in _lines(table, asked, asked.axis)]
    apart = [_apart(p[first], p[second], asked.measure) for p in pairs if len(p) == 2]
    value = median(apart) if apart else None
    sign = "-" if asked.measure == "difference" else "/"
    words = (
        f"{asked.figure}, {first} {sign} {second}: median {{value}} of {len(apart)} pairs"
        f" ({_range(apart)}), wanted {asked.wants} {{threshold}}"
    )
    return _judged(table, asked, value, words, asked.wants == "at least", len(apart))


def equal(table: Table, settings: Mapping[str, Any]) -> Finding:
    """The figure is the same along an axis: texts alike, numbers within the threshold."""
    asked = Equality(**settings)
    groups = _groups(_chosen(table, asked.where), asked.figure, asked.along)
    groups = {name: rows for name, rows in groups.items() if len(rows) > 1}
    apart = [_unlike([row.figures[asked.figure] for row in rows]) for rows in groups.values()]
    value = max(apart, default=None)
    words = (
        f"{asked.figure} along {asked.along}: largest difference {{value}}, wanted at most"
        f" {{threshold}}, in {len(groups)} lines of {_count(list(groups.values()))} values"
    )
    return _judged(table, asked, value, words, False, len(groups))


def not_applicable(table: Table, settings: Mapping[str, Any]) -> Finding:
    """A claim that has no meaning here, and why."""
    asked = Unfit(**settings)
    return Finding(asked.claim, "not applicable", None, None, asked.why)


BUILT_IN: dict[str, tuple[Callable[[Table, Mapping[str, Any]], Finding], type[Common]]] = {
    "above": (above, Level),
    "below": (below, Level),
    "spread": (spread, Along),
    "falls": (falls, Trend),
    "rises": (rises, Trend),
    "compare": (compare, Comparison),
    "equal": (equal, Equality),
    "not_applicable": (not_applicable, Unfit),
}


# --- their parts


def _level(table: Table, asked: Level, *, above: bool) -> Finding:
    rows = [row for row in _chosen(table, asked.where) if _number(row, asked.figure) is not None]
    values = [float(row.figures[asked.figure]) for row in rows]
    value = _deciding(values, asked.share, largest=above)
    met = sum(v >= asked.threshold if above else v <= asked.threshold for v in values)
    side = "at least" if above else "at most"
    words = (
        f"{asked.figure} {side} {{threshold}} in {met} of {len(values)} values ({_range(values)}),"
        f" wanted in {_share_text(asked.share)}; the deciding value is {{value}}"
    )
    return _judged(table, asked, value, words, above, len(values))


def _trend(table: Table, asked: Trend, *, sign: int) -> Finding:
    lines = _lines(table, asked, asked.along)
    changes, correlations = [], []
    for line in lines:
        values = line.values
        first, last = values[0], values[-1]
        rise = (
            _apart(last, first, asked.measure) if sign > 0 else _apart(first, last, asked.measure)
        )
        changes.append(rise)
        correlations.append(sign * spearman(list(range(len(values))), values))
    # A line that is out of order counts as one that did not change the way it was to.
    steady = [c if rho >= asked.correlation else -math.inf
              for c, rho in zip(changes, correlations, strict=True)]  # fmt: skip
    deciding = _deciding(steady, asked.share, largest=True)
    value = deciding if deciding is None or math.isfinite(deciding) else min(changes)
    word, lowest = ("rises", "rise") if sign > 0 else ("falls", "fall")
    words = (
        f"{asked.figure} {word} along {asked.along}: {lowest} of first and last {{value}}, wanted"
        f" at least {{threshold}}, and a rank correlation of at least {asked.correlation:g}"
        f" (lowest {min(correlations, default=math.nan):.2f}), in {_share_text(asked.share)} of"
        f" {len(lines)} lines of {_count(lines)} values"
    )
    failed = deciding is not None and not math.isfinite(deciding)
    return _judged(table, asked, value, words, True, len(lines), refuted=failed)


def _judged(
    table: Table,
    asked: Measured | Equality,
    value: float | None,
    words: str,
    at_least: bool,
    count: int,
    *,
    refuted: bool = False,
) -> Finding:
    """A finding: the number against the threshold, and what is missing."""
    missing = len(_chosen(table, asked.where).missing)
    margin = getattr(asked, "margin", 0.0)
    verdict: Verdict = "undecided"
    if value is not None and count:
        met = (value >= asked.threshold) if at_least else (value <= asked.threshold)
        near = abs(value - asked.threshold) < margin
        verdict = "confirmed" if met and not refuted else "refuted"
        if (near and not refuted) or (verdict == "confirmed" and missing):
            verdict = "undecided"
    shown = "-" if value is None else f"{value:.4g}"
    sentence = words.format(value=shown, threshold=f"{asked.threshold:g}")
    if missing:
        sentence += f"; {missing} cells are missing"
    finite = None if value is None or not math.isfinite(value) else value
    return Finding(asked.claim, verdict, finite, asked.threshold, sentence)


def _chosen(table: Table, where: Mapping[str, Any]) -> Table:
    return table.where(**where) if where else table


def _number(row: Row, figure: str) -> float | None:
    value = row.figures.get(figure)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)


def _groups(table: Table, figure: str, along: str) -> dict[str, list[Row]]:
    """Rows that are alike but for one axis, each group in the axis' order.

    A site counts as an axis where a run has several.
    """
    rows = [row for row in table if row.figures.get(figure) is not None]
    several = len({(row.run, row.probe) for row in rows}) < len(rows)
    order = table.labels(along) if rows else []
    groups: dict[str, list[Row]] = {}
    for row in rows:
        others = [row.label(axis) for axis in (*table.axes, "probe") if axis != along]
        others += [row.site] if several and along != "site" else []
        groups.setdefault(", ".join(others), []).append(row)
    return {name: sorted(found, key=lambda row: order.index(row.label(along)))
            for name, found in groups.items()}  # fmt: skip


def _lines(table: Table, asked: Measured, along: str) -> list[_Line]:
    """Lines of two values or more along an axis."""
    found = []
    for name, rows in _groups(_chosen(table, asked.where), asked.figure, along).items():
        points = [(row.label(along), value) for row in rows
                  if (value := _number(row, asked.figure)) is not None]  # fmt: skip
        if len(points) > 1:
            found.append(_Line(name, points))
    return found


def _apart(first: float, second: float, measure: str) -> float:
    if measure == "difference":
        return first - second
    return first / second if second else math.inf


def _unlike(values: list[Any]) -> float:
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        return float(max(values) - min(values))
    return 0.0 if len({str(v) for v in values}) == 1 else math.inf


def _deciding(values: list[float], share: float, *, largest: bool) -> float | None:
    """The value that as many are at least as good as `share` of all asks for."""
    if not values:
        return None
    ordered = sorted(values, reverse=largest)
    return ordered[max(0, math.ceil(share * len(values) - 1e-9) - 1)]


def _share_text(share: float) -> str:
    return "all" if share == 1 else f"{share:.0%}"


def _range(values: list[float]) -> str:
    return f"{min(values):.4g} to {max(values):.4g}" if values else "none"


def _count(lines: list[Any]) -> str:
    sizes = sorted({len(line.points if isinstance(line, _Line) else line) for line in lines})
    if not sizes:
        return "0"
    return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
