"""Labelled pictures: image strips and curves, drawn the same everywhere."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from surgeon.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

    from surgeon.probe import Result

_INK, _FAINT = "#1b1f24", "#6a737d"
#: Okabe and Ito's colours, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class Picture(Figure):
    """A figure that a notebook shows, whether or not pyplot was ever imported there."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()


@dataclass(frozen=True)
class Panel:
    """One image with its label above and its figures beneath."""

    image: Tensor
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Curves:
    """Lines over a common axis; points over names where `ticks` gives them (x = 0, 1, 2 ...)."""

    lines: Mapping[str, Sequence[tuple[float, float]]]
    x_label: str
    y_label: str
    title: str = ""
    log_x: bool = False
    log_y: bool = True
    level: tuple[float, str] | None = None
    ticks: Sequence[str] = ()


@dataclass(frozen=True)
class Sheet:
    """A picture: a title, rows of panels, curves.

    Attributes:
        cell: width of a panel in inches.
    """

    title: str
    rows: Sequence[Sequence[Panel]]
    curves: Sequence[Curves] = field(default_factory=tuple)
    note: str = ""
    cell: float = 2.1


def draw_result(result: Result) -> Figure:
    """The labelled picture of a result."""
    if result.draw is not None:
        sheet = result.draw(result)
        if isinstance(sheet, Figure):  # a picture that is no sheet
            return sheet
    else:
        panels = [Panel(image, name) for name, image in result.images.items()]
        rows = [panels[i : i + 6] for i in range(0, len(panels), 6)]
        curves = (Curves(dict(result.curves), "step", "value"),) if result.curves else ()
        sheet = Sheet(result.probe, rows, curves)
    return draw_sheet(sheet)


def draw_sheet(sheet: Sheet) -> Figure:
    """Draw a sheet; sizes follow from what is on it."""
    columns = max([len(row) for row in sheet.rows] + [1])
    lines = max((p.caption.count("\n") + 1 for row in sheet.rows for p in row), default=1)
    cell = sheet.cell
    row_height = cell + 0.28 + 0.17 * lines
    curve_height = 2.9 if sheet.curves else 0.0
    head = 0.72 if sheet.note else 0.5
    height = head + 0.1 + row_height * len(sheet.rows) + curve_height
    width = max(cell * columns + 0.5, 6.8 if sheet.curves else 6.5)
    figure = Picture(figsize=(width, height), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.25 / width, 1 - 0.22 / height, sheet.title, fontsize=11, color=_INK,
                weight="bold", va="top")  # fmt: skip
    if sheet.note:
        figure.text(0.25 / width, 1 - 0.47 / height, sheet.note, fontsize=7.5, color=_FAINT,
                    va="top")  # fmt: skip
    step = (width - 0.5) / columns if sheet.rows else 0
    for r, row in enumerate(sheet.rows):
        top = height - head - 0.28 - r * row_height
        for c, panel in enumerate(row):
            left = 0.25 + c * step
            axes = figure.add_axes(
                (left / width, (top - cell + 0.12) / height, (min(step, cell) - 0.1) / width,
                 (cell - 0.12) / height)
            )  # fmt: skip
            _draw_panel(axes, panel)
    if sheet.curves:
        _draw_curves(figure, sheet.curves, width, height, curve_height)
    return figure


def _draw_panel(axes: Any, panel: Panel) -> None:
    array = to_array(panel.image)
    grey = array.ndim == 2
    small = max(array.shape[:2]) < 100
    axes.imshow(
        array, cmap="gray" if grey else None, vmin=0, vmax=1,
        interpolation="nearest" if small else "antialiased",
    )  # fmt: skip
    axes.set_title(panel.title, fontsize=8.5, color=_INK, loc="left", pad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#d0d7de")
    axes.set_xlabel(panel.caption, fontsize=7, color=_FAINT, loc="left", labelpad=3)


def _draw_curves(
    figure: Figure, curves: Sequence[Curves], width: float, height: float, room: float
) -> None:
    each = (width - 0.3) / len(curves)
    for i, chart in enumerate(curves):
        axes = figure.add_axes(
            ((0.3 + i * each + 0.55) / width, 0.5 / height, (each - 0.85) / width,
             (room - 0.95) / height)
        )  # fmt: skip
        for (name, points), colour in zip(chart.lines.items(), COLOURS * 9, strict=False):
            usable = [(x, y) for x, y in points if np.isfinite(y) and (y > 0 or not chart.log_y)]
            if usable:
                style = "o" if chart.ticks else "-"
                axes.plot(*zip(*usable, strict=True), style, label=name, color=colour, lw=1.4, ms=4)
        if chart.level is not None:
            axes.axhline(chart.level[0], color=_FAINT, lw=0.9, ls="--")
            axes.text(
                0.99, chart.level[0], chart.level[1], fontsize=7, color=_FAINT, ha="right",
                va="bottom", transform=axes.get_yaxis_transform(),
            )  # fmt: skip
        if chart.log_y and axes.lines:
            axes.set_yscale("log")
        if chart.log_x and axes.lines:
            axes.set_xscale("log")
        axes.set_title(chart.title, fontsize=8.5, color=_INK, loc="left")
        axes.set_xlabel(chart.x_label, fontsize=7.5, color=_FAINT)
        axes.set_ylabel(chart.y_label, fontsize=7.5, color=_FAINT)
        axes.tick_params(which="both", labelsize=7, colors=_FAINT)
        axes.grid(visible=True, color="#eaeef2", lw=0.6)
        if chart.ticks:
            axes.set_xticks(range(len(chart.ticks)), chart.ticks)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if 1 < len(chart.lines) <= 14:
            axes.legend(fontsize=6.5, frameon=False, ncols=1 + len(chart.lines) // 8)


def to_array(image: Tensor) -> np.ndarray[Any, Any]:
    """An image tensor, clipped to [0, 1], as (height, width) or (height, width, 3)."""
    x = image.detach().float().cpu()
    x = x[0] if x.ndim == 4 else x
    x = x.clamp(0, 1).nan_to_num(0.0)
    return np.asarray(x[0] if x.shape[0] == 1 else x.permute(1, 2, 0))


def save_picture(result: Result, path: Path, recipe: str) -> None:
    """Write a result's picture as PNG with the recipe's hash in it."""
    atomic_write(path, png_bytes(draw_result(result), f"surgeon {result.probe}", Recipe=recipe))


def png_bytes(figure: Figure, title: str, **more: str) -> bytes:
    """A figure as PNG, the same bytes for the same picture.

    Args:
        title, more: its metadata.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None, "Title": title, **more})
    return content.getvalue()
