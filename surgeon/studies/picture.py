"""A study's own picture: its curves, with each finding's verdict on top."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from surgeon.runs.pictures import COLOURS, Picture
from surgeon.studies.findings import Finding
from surgeon.studies.study import Study
from surgeon.studies.study_file import Curve
from surgeon.studies.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT = "#1b1f24", "#6a737d"
_VERDICTS = {
    "confirmed": "#1a7f37", "refuted": "#cf222e", "undecided": "#9a6700",
    "not applicable": _FAINT,
}  # fmt: skip
_WIDTH, _ROOM, _LINE = 4.6, 3.0, 0.17
#: Labels of more letters than that, written aslant, need more room beneath.
_LONG = 12


def draw_study(study: Study, table: Table, findings: Sequence[Finding]) -> Figure:
    """The labelled picture of a study."""
    charts = study.curves or _own_choice(study, table)
    across = min(2, len(charts)) or 1
    width = max(_WIDTH * across + 0.3, 6.5)
    heads = _heads(study, findings, int(width * 15))
    top = 0.5 + _LINE * sum(text.count("\n") + 1 for text, _ in heads) + 0.15
    down = -(-len(charts) // across)
    height = top + _ROOM * down
    figure = Picture(figsize=(width, height), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.25 / width, 1 - 0.22 / height, study.title, fontsize=11, color=_INK,
                weight="bold", va="top")  # fmt: skip
    y = 0.5
    for text, colour in heads:
        figure.text(0.25 / width, 1 - y / height, text, fontsize=7.5, color=colour, va="top",
                    linespacing=1.4)  # fmt: skip
        y += _LINE * (text.count("\n") + 1)
    each = (width - 0.3) / across
    for i, curve in enumerate(charts):
        left, row = 0.3 + (i % across) * each, i // across
        foot = 1.0 if max(map(len, table.labels(curve.along)), default=0) > _LONG else 0.75
        axes = figure.add_axes(
            ((left + 0.5) / width, (height - top - _ROOM * (row + 1) + foot) / height,
             (each - 0.85) / width, (_ROOM - 0.4 - foot) / height)
        )  # fmt: skip
        draw_curve(axes, curve, table)
    return figure


def _heads(study: Study, findings: Sequence[Finding], wide: int) -> list[tuple[str, str]]:
    """Lines under the title: the question, then each verdict."""
    texts = [(study.question, _FAINT)] if study.question else []
    texts += [(f"Stand-in: {study.stand_in}", _FAINT)] if study.stand_in else []
    texts += [(f"{f.verdict}: {f.claim} ({f.sentence})", _VERDICTS[f.verdict]) for f in findings]
    return [(textwrap.fill(text, wide, subsequent_indent="    "), colour) for text, colour in texts]


def _own_choice(study: Study, table: Table) -> tuple[Curve, ...]:
    """What to draw where the study doesn't say: its first number along its first axis."""
    numbers = [name for name in table.figures
               if any(isinstance(v, float) for v in table.column(name))]  # fmt: skip
    if not numbers or not study.axes:
        return ()
    name = "psnr" if "psnr" in numbers else numbers[0]
    axes = list(study.axes)
    return (Curve(figure=name, along=axes[0], lines=axes[1] if len(axes) > 1 else None),)


def draw_curve(axes: Axes, curve: Curve, table: Table) -> None:
    """One chart: the median over the other axes as a line, each value as a faint point."""
    chosen = table.where(probe=curve.probe) if curve.probe else table
    ticks = chosen.labels(curve.along)
    if curve.along == "site":  # of a probe that says other things of other sites
        ticks = [t for t in ticks if any(v is not None
                 for v in chosen.where(site=t).column(curve.figure))]  # fmt: skip
    names = chosen.labels(curve.lines) if curve.lines else [""]
    for name, colour in zip(names, COLOURS * 9, strict=False):
        rows = chosen.where(**{curve.lines: name}) if curve.lines else chosen
        points = [(x, value) for x, label in enumerate(ticks)
                  for value in rows.where(**{curve.along: label}).column(curve.figure)
                  if _drawable(value, log=curve.log)]  # fmt: skip
        places = sorted({x for x, _ in points})
        middle = [median(v for at, v in points if at == x) for x in places]
        axes.plot(places, middle, "o-", color=colour, lw=1.4, ms=4, label=name)
        if len(points) > len(places):
            axes.plot(*zip(*points, strict=True), ".", color=colour, alpha=0.35, ms=4)
    _dress(axes, curve, ticks, len(names))


def _dress(axes: Any, curve: Curve, ticks: Sequence[str], lines: int) -> None:
    if curve.log and axes.lines:
        axes.set_yscale("log")
    long = len(ticks) > 8 or max(map(len, ticks), default=0) > 8
    axes.set_xticks(range(len(ticks)), [textwrap.shorten(t, 22, placeholder="…") for t in ticks],
                    rotation=30 if long else 0, ha="right" if long else "center")  # fmt: skip
    axes.set_title(curve.title or f"{curve.figure.replace('_', ' ')} along {curve.along}",
                   fontsize=8.5, color=_INK, loc="left")  # fmt: skip
    axes.set_xlabel(curve.along, fontsize=7.5, color=_FAINT)
    axes.set_ylabel(curve.figure.replace("_", " "), fontsize=7.5, color=_FAINT)
    axes.tick_params(which="both", labelsize=7, colors=_FAINT)
    axes.grid(visible=True, color="#eaeef2", lw=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if 1 < lines <= 14:
        axes.legend(fontsize=6.5, frameon=False, title=curve.lines, title_fontsize=6.5)


def _drawable(value: Any, *, log: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value > 0 or not log
