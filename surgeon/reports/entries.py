"""A run as the page has it: its views, figures, curves, and all that its own panel shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from surgeon.reports.images import SNAPSHOTS, Album, Array
from surgeon.reports.reading import Run

#: Of a table this many rows, of a curve this many points are shown; the run's folder has all.
_ROWS, _POINTS = 64, 300
#: What a logged line is drawn over: the first of these that it has, else its number.
_OVER = ("gradient_evaluations", "step", "images")
#: The probe's own picture is kept where images alone don't show what it found.
_WIDEST_TABLE = 14


def run_entry(run: Run, name: str, path: str, album: Album) -> dict[str, Any]:
    """A run for the page's data.

    Args:
        name: what the reader knows it by.
        path: of its folder, from where the page is.
        album: gets the images.
    """
    images = run.images()
    kept = {name: pixels for name, pixels in images.items() if not name.startswith("snapshot/")}
    views = views_of(run.figures, album.add(kept))
    paired = all(len(view["images"]) > 1 for view in views) and bool(views)
    drawn = run.folder / f"{run.probe}.png"
    record = run.record
    return {
        "name": name,
        "path": path,
        "probe": run.probe,
        "model": str(record.get("model", "")),
        "operations": [str(text) for text in record.get("operations") or ()],
        "figures": run.figures,
        "views": views,
        "snapshots": _snapshots(images, album),
        "picture": album.add_file(drawn) if drawn.exists() and not paired else None,
        "notes": list(dict.fromkeys(str(text) for text in record.get("notes") or ())),
        "recipe": run.recipe,
        "log": curves_of(run.log),
        "tables": _tables(record.get("tables") or {}),
        "about": _about(record),
    }


def views_of(figures: Mapping[str, Any], images: Mapping[str, int]) -> list[dict[str, Any]]:
    """What a contact sheet shows of a run: one cell for each image that has a target or a photo.

    Images that stand for themselves, such as generated ones, share one cell.

    Args:
        images: "image/LABEL", "target/NAME" and so on -> number in the album.

    Returns:
        `sites`, whose figures belong to it, and `images`, as (caption, number in the album).
    """
    named = _by_kind(images)
    cells: list[dict[str, Any]] = []
    alone: list[list[Any]] = []
    ordered = [label for label in figures if label in named["image"]]
    for label in dict.fromkeys([*ordered, *named["image"]]):
        number = named["image"][label]
        parts = label.split(", ")
        beside = [
            (kind, found)
            for kind in ("target", "start", "photo")
            if (found := _partner(named[kind], label, parts)) is not None
        ]
        own = "reconstruction" if named["target"] else label
        shown = [*([kind, found] for kind, found in beside), [own, number]]
        if beside:
            cells.append({"sites": [label], "images": shown})
        else:
            alone.append(shown[0])
    covered = {cell["sites"][0] for cell in cells}
    rest = [site for site in figures if site not in covered]
    if alone or (rest and not cells):
        cells.append({"sites": rest, "images": alone})
    elif rest:
        cells.extend({"sites": [site], "images": []} for site in rest)
    return cells or [{"sites": [], "images": []}]


def _by_kind(images: Mapping[str, int]) -> dict[str, dict[str, int]]:
    kinds: dict[str, dict[str, int]] = {k: {} for k in ("image", "target", "start", "photo")}
    for name, number in images.items():
        kind, _, label = name.partition("/")
        kinds.get(kind, {})[label] = number
    return kinds


def _partner(known: Mapping[str, int], label: str, parts: Sequence[str]) -> int | None:
    """The target, start or photo of a label: its namesake, the one it names, or the only one."""
    for name in (label, *parts):
        if name in known:
            return known[name]
    return next(iter(known.values())) if len(known) == 1 else None


def _snapshots(images: Mapping[str, Array], album: Album) -> dict[str, list[list[int]]]:
    """Label -> (step, number in the album), by step."""
    taken = {name: pixels for name, pixels in images.items() if name.startswith("snapshot/")}
    found: dict[str, list[list[int]]] = {}
    for name, number in album.add(taken, SNAPSHOTS).items():
        label, _, step = name.removeprefix("snapshot/").rpartition("/")
        if step.isdecimal():
            found.setdefault(label, []).append([int(step), number])
    return {label: sorted(steps) for label, steps in found.items()}


def curves_of(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was logged, as curves.

    Returns:
        `over`, the name of what runs along the axis, and `curves`: quantity -> line -> points.
    """
    over = next((key for key in _OVER if any(key in row for row in log)), "")
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for number, row in enumerate(log):
        x = row.get(over, number + 1)
        line = ", ".join(str(v) for v in row.values() if isinstance(v, str) and not _number(v))
        for key, value in row.items():
            if key == over:
                continue
            parts = value if isinstance(value, dict) else {"": value}
            for part, y in parts.items():
                if _number(x) and _number(y):
                    named = " ".join(filter(None, (line, str(part)))) or key
                    curves.setdefault(key, {}).setdefault(named, []).append([x, _short(y)])
    moving = {
        key: {name: _thinned(points) for name, points in lines.items()}
        for key, lines in curves.items()
        if any(len(points) > 1 for points in lines.values())
    }
    return {"over": over or "line of the log", "curves": moving}


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _thinned(points: list[list[float]]) -> list[list[float]]:
    step = math.ceil(len(points) / _POINTS)
    return points if step <= 1 else [*points[:-1:step], points[-1]]


def _tables(tables: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, rows in tables.items():
        kept = [row for row in rows if isinstance(row, dict)]
        columns = list(dict.fromkeys(key for row in kept for key in row))[:_WIDEST_TABLE]
        cells = [[row.get(column) for column in columns] for row in kept[:_ROWS]]
        if cells:
            found.append({"name": name, "columns": columns, "rows": cells, "of": len(kept)})
    return found


def _about(record: Mapping[str, Any]) -> list[list[str]]:
    """What says how the run came about, as (name, text)."""
    rows = [[name, str(record.get(name))] for name in
            ("seed", "device", "dtype", "threads", "preprocessing", "recipe", "operated_weights")
            if record.get(name) is not None]  # fmt: skip
    for name, image in (record.get("images") or {}).items():
        rows.append([f"image {name}", f"sha256 {image.get('sha256', '')}"])
    versions = record.get("versions") or {}
    rows.append(["versions", ", ".join(f"{name} {text}" for name, text in versions.items())])
    return rows
