"""The sections of a page: a study each, and one for the runs that belong to none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgeon.errors import RunError
from surgeon.reports.entries import run_entry
from surgeon.reports.images import Album
from surgeon.reports.reading import Run, read_run

#: Figures that are shown first, where a run has them; else the first of the probe's own.
_FIRST = (
    "verdict", "psnr", "ssim", "embedding_relative", "yardstick_ratio", "row_space_error",
    "gradient_evaluations", "stopped",
)  # fmt: skip
_AT_MOST = 5


class Book:
    """The runs and images of a page, each once, though several studies may share them.

    Args:
        home: the folder that the page will be in; None where its runs are said by name alone.
        count: how many runs there will be, at most.
    """

    def __init__(self, home: Path | None, count: int = 1) -> None:
        self.home, self.album = home, Album(count)
        self.runs: list[dict[str, Any]] = []
        self._known: dict[Path, int] = {}

    def add(self, run: Run, name: str) -> int:
        """The number of a run.

        Raises:
            RunError: its images can't be read.
        """
        key = run.folder.resolve()
        if key not in self._known:
            path = Path(os.path.relpath(key, self.home)).as_posix() if self.home else ""
            self.runs.append(run_entry(run, name, "" if path == "." else path, self.album))
            self._known[key] = len(self.runs) - 1
        return self._known[key]


def study_section(folder: Path, study: dict[str, Any], book: Book) -> dict[str, Any]:
    """A study's findings, curves and cells.

    A cell whose run can't be read says so; the others are shown.

    Args:
        study: its `study.json`.
    """
    cells: list[dict[str, Any]] = []
    for cell in study.get("cells") or ():
        cells.extend(_study_cells(cell, folder, book))
    curves = [dict(curve) for curve in study.get("curves") or ()
              if curve.get("figure") and curve.get("along")]  # fmt: skip
    texts = {key: str(study.get(key) or "")
             for key in ("title", "question", "experiment", "tier", "stand_in")}  # fmt: skip
    return {
        **texts,
        "title": texts["title"] or folder.name,
        "name": folder.name,
        "findings": [_finding(dict(finding)) for finding in study.get("findings") or ()],
        "curves": curves,
        "axes": _axes(cells, list(study.get("axes") or ())),
        "cells": cells,
        "shown": _shown_figures(cells, book, [str(curve["figure"]) for curve in curves]),
    }


def _finding(finding: dict[str, Any]) -> dict[str, Any]:
    texts = {key: str(finding.get(key) or "") for key in ("claim", "verdict", "sentence")}
    return {**texts, "value": finding.get("value"), "threshold": finding.get("threshold")}


def _study_cells(cell: dict[str, Any], folder: Path, book: Book) -> list[dict[str, Any]]:
    labels = {str(k): str(v) for k, v in (cell.get("labels") or {}).items()}
    base = {
        "labels": labels,
        "probe": str(cell.get("probe", "")),
        "status": str(cell.get("status", "")),
        "error": [str(line) for line in cell.get("error") or ()],
        "why": str(cell.get("why") or ""),
    }
    if base["status"] != "done" or not cell.get("run"):
        return [{**base, "run": None, "view": 0, "sites": []}]
    try:
        run = read_run(folder / str(cell["run"]))
        number = book.add(run, ", ".join(labels.values()) or folder.name)
    except RunError as error:
        lines = str(error).splitlines()
        return [{**base, "status": "missing", "error": lines, "run": None, "view": 0, "sites": []}]
    return _views(base, number, book)


def _views(base: dict[str, Any], number: int, book: Book) -> list[dict[str, Any]]:
    """A cell for each view of a run."""
    views = book.runs[number]["views"]
    return [
        {**base, "run": number, "view": i, "sites": view["sites"]} for i, view in enumerate(views)
    ]


def runs_section(runs: Sequence[Run], book: Book) -> dict[str, Any]:
    """Runs that belong to no study; what they differ in are their axes."""
    names = _names([run.folder for run in runs])
    cells: list[dict[str, Any]] = []
    for run, name in zip(runs, names, strict=True):
        number = book.add(run, name or _title(run))
        labels = {"run": name, **_labels(run)}
        base = {"labels": labels, "probe": run.probe, "status": "done", "error": [], "why": ""}
        cells.extend(_views(base, number, book))
    varying = [axis for axis in ("run", "model", "operations", "image")
               if len({cell["labels"][axis] for cell in cells}) > 1]  # fmt: skip
    for cell in cells:
        cell["labels"] = {axis: cell["labels"][axis] for axis in varying}
    title = _title(runs[0]) if len(runs) == 1 else "Runs"
    return {
        "title": title, "question": "", "experiment": "", "tier": "", "stand_in": "", "name": "",
        "findings": [], "curves": [], "axes": _axes(cells, varying), "cells": cells,
        "shown": _shown_figures(cells, book, []),
    }  # fmt: skip


def _title(run: Run) -> str:
    return f"{run.probe}: {run.record.get('model', 'a model')}"


def _labels(run: Run) -> dict[str, str]:
    record = run.record
    operations = [str(text) for text in record.get("operations") or ()]
    return {
        "model": str(record.get("model", "")),
        "operations": "; ".join(operations) or "as it is",
        "image": ", ".join(record.get("images") or ()) or "none",
    }


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of their parents' as tells them apart; one needs none."""
    if len(folders) < 2:
        return [""] * len(folders)
    paths = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _axes(cells: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """What cells can be told apart by: the axes, then probe and site where those don't do."""
    axes = [(name, [cell["labels"].get(name, "") for cell in cells]) for name in names]
    axes.append(("probe", [cell["probe"] for cell in cells]))
    sites = [cell["sites"][0] if len(cell["sites"]) == 1 else "" for cell in cells]
    told = [(*labels, site) for *labels, site in zip(*(of for _, of in axes), sites, strict=True)]
    if len({labels[:-1] for labels in told}) < len(set(told)):  # else the labels say the site
        axes.append(("site", sites))
    found = [
        {"name": name, "labels": list(dict.fromkeys(filter(None, labels)))} for name, labels in axes
    ]
    return [axis for axis in found if len(axis["labels"]) > 1]


def _shown_figures(
    cells: Sequence[dict[str, Any]], book: Book, wanted: Sequence[str]
) -> dict[str, list[str]]:
    """Probe -> the figures shown beneath its cells, those asked about first."""
    shown: dict[str, list[str]] = {}
    for cell in cells:
        if cell["run"] is None:
            continue
        entry = book.runs[cell["run"]]
        known = dict.fromkeys(key for figures in entry["figures"].values() for key in figures)
        first = [name for name in (*wanted, *_FIRST) if name in known]
        chosen = dict.fromkeys([*first, *([] if len(first) > 1 else known)])
        shown.setdefault(cell["probe"], list(chosen)[:_AT_MOST])
    return shown
