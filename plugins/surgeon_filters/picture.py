"""The picture of `filters`: grids, the fitted wavelets, and scores against their null."""

from __future__ import annotations

import torch

from surgeon.probe import Result
from surgeon.runs.pictures import Curves, Panel, Sheet


def draw(result: Result) -> Sheet:
    """A row for each site: its filters and what they are compared with, then the fits."""
    rows, charts = [], []
    for label in result.figures:
        figures = result.figures[label]
        caption = (
            f"{figures['filters']} of {figures['height']}x{figures['width']}x{figures['channels']};"
            f" {figures['wavelets']:.0%} wavelets, {figures['patternless']:.0%} patternless"
        )
        panel = Panel(result.images[label], label, caption)
        fit = Panel(result.images[f"{label}, fits"], f"{label}: nearest Gabor functions")
        rows.append([panel, fit])
    for name, null in result.tensors.items():
        if name.startswith("null/"):
            site = name.removeprefix("null/")
            lines = {"untrained seeds": _survival(null)}
            for label in result.figures:
                if label == site or label.startswith(f"{site}, "):
                    scores = [row["score"] for row in result.tables[label]]
                    lines[label] = _survival(torch.tensor(scores))
            charts.append(
                Curves(lines, "wavelet score", "share above", f"{site}: scores", log_y=False)
            )
    title = f"filters of {result.record.get('model', '')}"
    note = "; ".join(result.record.get("operations", []))
    return Sheet(title, rows, tuple(charts), note, cell=3.6)


def _survival(scores: torch.Tensor) -> list[tuple[float, float]]:
    """The share of filters that score above each score."""
    ordered = scores.double().sort().values.tolist()
    return [(x, 1 - (i + 1) / len(ordered)) for i, x in enumerate(ordered)]
