"""The cells of a report as a table: one row for each site."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgeon.reports.sections import Book

_FIXED = ("study", "probe", "site", "status", "run")


def rows_of(sections: Sequence[dict[str, Any]], book: Book) -> list[dict[str, Any]]:
    """`study`, `labels`, `probe`, `site`, `status`, `run` and `figures` of each row."""
    return [
        {
            "study": section["name"],
            "labels": cell["labels"],
            "probe": cell["probe"],
            "site": site,
            "status": cell["status"],
            "run": entry["path"] if entry else "",
            "figures": entry["figures"].get(site, {}) if entry else {},
        }
        for section in sections
        for cell in section["cells"]
        for entry in (book.runs[cell["run"]] if cell["run"] is not None else None,)
        for site in cell["sites"] or [""]
    ]


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as CSV: the axes' columns, then the fixed ones, then the figures'.

    A figure that shares a name with an axis goes under "NAME (figure)".
    """
    axes = list(dict.fromkeys(name for row in rows for name in row["labels"]))
    figures = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    taken = {*axes, *_FIXED}
    heads = [f"{name} (figure)" if name in taken else name for name in figures]
    axis_heads = [f"{name} (axis)" if name in _FIXED else name for name in axes]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_FIXED[0], *axis_heads, *_FIXED[1:], *heads])
    for row in rows:
        labels = [row["labels"].get(name, "") for name in axes]
        values = [_cell(row["figures"].get(name)) for name in figures]
        writer.writerow([row["study"], *labels, *(row[name] for name in _FIXED[1:]), *values])
    return text.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None else value
