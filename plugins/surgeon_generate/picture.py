"""The picture of `generate`: a contact sheet with scores, and snapshots in rows."""

from __future__ import annotations

from typing import Any

from surgeon.probe import Result
from surgeon.runs.pictures import Curves, Panel, Sheet


def draw(result: Result) -> Sheet:
    """Every image with its scores; a row for each where there are snapshots."""
    settings = result.record.get("settings", {})
    steps = settings.get("snapshots") or []
    rows = []
    if steps:
        for label, image in result.images.items():
            kept = [(s, result.tensors.get(f"snapshot/{label}/{s}")) for s in steps]
            row = [Panel(x, f"{label}, step {s}") for s, x in kept if x is not None]
            rows.append([*row, Panel(image, label, caption(result.figures[label]))])
    else:
        panels = [
            Panel(image, label, caption(result.figures[label]))
            for label, image in result.images.items()
        ]
        columns = 10 if len(panels) > 24 else 6 if len(panels) > 10 else 5
        rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    charts = () if len(result.images) > 12 else (_curve(result),)
    made_of = settings.get("preset", "")
    title = f"generate {result.record.get('model', '')}, preset {made_of}"
    note = "; ".join(result.record.get("operations", []))
    return Sheet(title, rows, charts, note)


def caption(figures: dict[str, Any]) -> str:
    """The scores a reader looks for first."""
    lines = []
    if figures.get("right") is not None:
        told = "top-1" if figures["right"] else f"top-1: {figures['top1']}"
        lines.append(f"logit {figures['logit']:.3g}, p {figures['softmax']:.3f}, {told}")
    elif "top1" in figures:
        lines.append(f"{figures['objective']:.4g}; looks like {figures['top1']}")
    else:
        lines.append(f"objective {figures['objective']:.4g}")
    if figures.get("robust") is not None:
        lines.append(f"robust {figures['robust']:.0%}")
    if "judge_top1" in figures:
        lines.append(f"judge: {figures['judge_top1']}")
    return "\n".join(lines)


def _curve(result: Result) -> Curves:
    lines: dict[str, list[tuple[float, float]]] = {}
    for line in result.log:
        for label, value in line["objective"].items():
            if isinstance(value, float):
                lines.setdefault(label, []).append((float(line["step"]), value))
    return Curves(lines, "step", "objective", "objective of the views", log_y=False)
