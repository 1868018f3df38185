"""The picture of a dream: photo, dream, and the activation over octaves."""

from __future__ import annotations

from surgeon.probe import Result
from surgeon.runs.pictures import Curves, Panel, Sheet


def draw(result: Result) -> Sheet:
    """A row for each photo, large."""
    rows = []
    for label, image in result.images.items():
        figures = result.figures[label]
        photo = Panel(
            result.tensors[f"photo/{label}"],
            "photo",
            f"activation {figures['activation_photo']:.4g}{_called(figures.get('top1_photo'))}",
        )
        dream = Panel(
            image, label, f"activation {figures['activation']:.4g}{_called(figures.get('top1'))}"
        )
        rows.append([photo, dream])
    chart = Curves(
        dict(result.curves), "octave (0: the photo)", "activation",
        "after each octave, at the last one's size", log_y=False,
    )  # fmt: skip
    title = f"dream of {result.record.get('model', '')}"
    note = "; ".join(result.record.get("operations", []))
    return Sheet(title, rows, (chart,), note, cell=4.4)


def _called(name: object) -> str:
    return f", looks like {name}" if name else ""
