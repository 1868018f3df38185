"""The picture of an evaluation: accuracy by class, and images that surgery changed."""

from __future__ import annotations

from surgeon.probe import Result
from surgeon.runs.pictures import Curves, Panel, Sheet

_PER_ROW = 6
_MOST_TICKS = 16


def draw(result: Result) -> Sheet:
    """Images whose answer went from right to wrong or back, then a chart of the classes."""
    panels = []
    for name, image in result.images.items():
        number, _, answer = name.partition(": ")
        panels.append(Panel(image, number, answer.replace("; ", "\n")))
    rows = [panels[i : i + _PER_ROW] for i in range(0, len(panels), _PER_ROW)]
    name, figures = next(iter(result.figures.items()))
    title = f"evaluate {result.record.get('model', '')} on {name}"
    return Sheet(title, rows, (_chart(result),), note=_note(result, figures))


def _note(result: Result, figures: dict[str, float]) -> str:
    text = (
        f"accuracy {figures['accuracy']:.4f} ({figures['accuracy_low']:.4f} to"
        f" {figures['accuracy_high']:.4f}) of {figures['images']:,} images"
    )
    if "agreement" in figures:
        text += (
            f"; un-operated {figures['unoperated_accuracy']:.4f};"
            f" agreement {figures['agreement']:.4f}"
        )
    operations = "; ".join(result.record.get("operations", []))
    return f"{text}  ·  {operations or 'un-operated'}"


def _chart(result: Result) -> Curves:
    """Accuracy of each class, from the operated model's worst to its best."""
    rows = sorted(result.tables["classes"], key=lambda row: row["accuracy"])
    names = [str(row["class"]) for row in rows] if len(rows) <= _MOST_TICKS else []
    operated = [(float(i), row["accuracy"]) for i, row in enumerate(rows)]
    lines = {"un-operated": operated}
    if rows and "unoperated_accuracy" in rows[0]:
        before = [(float(i), row["unoperated_accuracy"]) for i, row in enumerate(rows)]
        lines = {"operated": operated, "un-operated": before}
    label = "" if names else "classes, from worst to best"
    title = "accuracy of each class"
    return Curves(lines, label, "accuracy", title, log_y=False, ticks=names)
