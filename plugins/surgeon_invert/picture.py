"""The picture of an inversion: target, start, reconstructions with their figures, curves."""

from __future__ import annotations

from typing import Any

from surgeon.probe import Result
from surgeon.runs.pictures import Curves, Panel, Sheet

_PER_ROW = 6


def draw(result: Result) -> Sheet:
    """Target and start first, then a panel for each site, image and seed."""
    targets = {n.partition("/")[2]: t for n, t in result.tensors.items() if n.startswith("target/")}
    panels = [Panel(image, f"target: {name}") for name, image in targets.items()]
    start = next((t for n, t in result.tensors.items() if n.startswith("start/")), None)
    if start is not None:
        panels.append(Panel(start, "start"))
    for label, image in result.images.items():
        panels.append(Panel(image, label, caption(result.figures.get(label, {}))))
    rows = [panels[i : i + _PER_ROW] for i in range(0, len(panels), _PER_ROW)]
    record = result.record
    settings = record.get("settings", {})
    method = settings.get("preset") or settings.get("method", "")
    title = f"invert {record.get('model', '')} by {method}"
    return Sheet(title, rows, _curves(result), note="; ".join(record.get("operations", [])))


def caption(figures: dict[str, Any]) -> str:
    """The figures a reader looks for first."""
    if not figures:
        return ""
    lines = [f"PSNR {_short(figures['psnr'])} dB, SSIM {_short(figures['ssim'])}"]
    lines.append(f"embedding error {_short(figures['embedding_relative'])}")
    ratio = figures.get("yardstick_ratio")
    if ratio is not None:
        lines.append(f"against a': {_short(ratio)}")
    if figures.get("row_space_error") is not None:
        lines.append(f"row-space error {_short(figures['row_space_error'])}")
    lines.append(f"{_short(figures['gradient_evaluations'])} GE, {figures['stopped']}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, (int, float)) else str(value)


def _curves(result: Result) -> tuple[Curves, ...]:
    charts = []
    for key, title, unit in (
        ("embedding_distance", "distance of outputs", "L2"),
        ("input_distance", "distance of images", "L2"),
        ("residual", "residual of each sublayer undone", "relative L2"),
    ):
        lines: dict[str, list[tuple[float, float]]] = {}
        for line in result.log:
            if isinstance(line.get(key), float):
                point = (float(line["gradient_evaluations"]), float(line[key]))
                lines.setdefault(str(line["task"]), []).append(point)
        if any(len(points) > 1 for points in lines.values()):
            charts.append(Curves(lines, "gradient evaluations", unit, title))
    return tuple(charts)
