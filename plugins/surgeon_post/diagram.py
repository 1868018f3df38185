"""An anatomy as a diagram: boxes, arrows and skips, with shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.graph import Call
from surgeon.anatomist.reading import Block
from surgeon.anatomist.site import Site, shape_text
from surgeon.anatomist.tree import summary

_INK, _FAINT, _EDGE = "#1b1f24", "#6a737d", "#8c959f"
_FILL = {"norm": "#ddf4ff", "mixer": "#ffd8b5", "mlp": "#dafbe1", "other": "#f6f8fa",
         "block": "#fff8c5", "parameter": "#fbefff"}  # fmt: skip
#: Height of a row in inches.
_ROW = 0.42


@dataclass(frozen=True)
class Box:
    """One row of a column.

    Attributes:
        kind: which colour; "add" is a circle.
        text: inside it.
        note: beside it: the shape of its value.
        skip: of an add, the row its skip comes from (-1: what enters the block).
    """

    kind: str
    text: str
    note: str = ""
    skip: int | None = None


def diagram(anatomy: Anatomy, block: int) -> Figure:
    """The picture.

    Args:
        block: the number of the block drawn in full.
    """
    left, right = whole_model(anatomy), one_block(anatomy, anatomy.blocks[block])
    rows = max(len(left), len(right) + 1)
    figure = Figure(figsize=(8.4, _ROW * (rows + 1.6)), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 8.4)
    axes.set_ylim(rows + 1.0, -0.6)
    axes.axis("off")
    _column(axes, left, 0.35, f"{anatomy.model}, in order of execution")
    _column(axes, right, 4.75, f"blocks[{block}]: {anatomy.blocks[block].call.kind}")
    axes.text(0.35, rows + 0.75, summary(anatomy), fontsize=7.5, color=_FAINT, va="center")
    return figure


def pixels_of(figure: Figure) -> Tensor:
    """A figure as an image (3, height, width) in [0, 1]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba(), dtype=np.float32)[..., :3] / 255
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def whole_model(anatomy: Anatomy) -> list[Box]:
    """Stem, tokens, positions, blocks, final norm and head, with the shapes of their values."""
    boxes = [Box("other", "image", shape_text((1, *anatomy.input_size)))]
    for site in _top_sites(anatomy):
        kind = _kind_of(site)
        text = f"{site.role}  {_module(anatomy, site)}".strip()
        shape = shape_text(site.shape)
        boxes.append(Box(kind, text, f"joined, {shape}" if site.role == "class_token" else shape))
    return boxes


def _top_sites(anatomy: Anatomy) -> list[Site]:
    """Sites outside blocks, with the blocks; the class token after the stem that it joins."""
    names = {f"blocks[{i}]" for i in range(len(anatomy.blocks))}
    singles = ("stem", "class_token", "pos_embed", "final_norm", "head")
    chosen = [s for s in anatomy.sites if s.role in singles or s.role in names]
    return sorted(chosen, key=lambda s: (_order(anatomy, s), s.role == "class_token"))


def _order(anatomy: Anatomy, site: Site) -> int:
    if site.role != "class_token":
        return site.order
    return next(op.index + 1 for name, op in anatomy.reading.tokens if name == site.path)


def _kind_of(site: Site) -> str:
    if site.kind == "parameter":
        return "parameter"
    if site.role is not None and site.role.startswith("blocks"):
        return "block"
    return "norm" if site.role == "final_norm" else "other"


def _module(anatomy: Anatomy, site: Site) -> str:
    if site.kind == "parameter":
        return "added" if site.role == "pos_embed" else ""
    return anatomy.graph.modules.get(site.path, "")


def one_block(anatomy: Anatomy, block: Block) -> list[Box]:
    """The parts of a block in order of execution: norms, modules of the branches, adds."""
    graph = anatomy.graph
    parts = [(float(call.start), _part(anatomy, block, call)) for call in _calls(anatomy, block)]
    adds = {}
    for number, sublayer in enumerate(block.sublayers, 1):
        residual = sublayer.residual
        shape = shape_text(graph.values[residual.op.outputs[0]].shape)
        note = f"{shape}{', skip projected' if residual.projected else ''}"
        box = Box("add", f"residual{number}", note)
        adds[box.text] = residual
        parts.append((residual.op.index + 0.5, box))
    boxes = [box for _, box in sorted(parts, key=lambda part: part[0])]
    rows = {adds[box.text].op.outputs[0]: i for i, box in enumerate(boxes, 1) if box.text in adds}
    boxes = [
        replace(box, skip=rows.get(adds[box.text].source, 0)) if box.text in adds else box
        for box in boxes
    ]
    entered = graph.values[block.call.inputs[0]].shape
    return [Box("other", "what enters the block", shape_text(entered)), *boxes]


def _calls(anatomy: Anatomy, block: Block) -> list[Call]:
    """The block's own modules that have weights and work in a branch, and its norms."""
    graph = anatomy.graph
    inside = {op.index for s in block.sublayers for op in s.residual.ops}
    bodies = [s.body for s in block.sublayers if s.body is not None and s.body != block.call]
    found = {call.index: call for call in (*block.norms, *bodies)}
    for call in graph.calls:
        own = any(name.startswith(f"{call.path}.") for name in graph.parameters)
        if call.parent == block.call.index and own and inside & set(range(call.start, call.end)):
            found.setdefault(call.index, call)
    return list(found.values())


def _part(anatomy: Anatomy, block: Block, call: Call) -> Box:
    """A module of a block as a box."""
    name = call.path.removeprefix(block.call.path + ".")
    shape = shape_text(anatomy.graph.values[call.outputs[0]].shape) if call.outputs else ""
    if call in block.norms:
        return Box("norm", f"norm{block.norms.index(call) + 1}  {call.kind}", shape)
    for sublayer in block.sublayers:
        if sublayer.body == call:
            said = "mixes tokens" if sublayer.mixes else "each token alone"
            return Box("mixer" if sublayer.mixes else "mlp", f"{name}  {call.kind}", said)
    return Box("other", f"{name}  {call.kind}", shape)


def _column(axes: Any, boxes: list[Box], left: float, title: str) -> None:
    """A column of boxes from the top, arrows between, skips at its right."""
    width, height = 2.1, 0.62
    axes.text(left, -0.2, title, fontsize=9.5, weight="bold", color=_INK, va="center")
    middle = left + width / 2
    for row, box in enumerate(boxes):
        y = row + 0.55
        if row:
            axes.annotate("", (middle, y), (middle, y - 1 + height), zorder=1,
                          arrowprops={"arrowstyle": "-|>", "color": _EDGE, "lw": 0.9})  # fmt: skip
        if box.kind == "add":
            axes.plot(middle, y + height / 2, "o", ms=15, mfc="white", mec=_INK, zorder=3)
            axes.text(middle, y + height / 2, "+", fontsize=11, ha="center", va="center", zorder=4)
            axes.text(left, y + height / 2, box.text, fontsize=7.5, color=_FAINT, va="center")
        else:
            axes.add_patch(FancyBboxPatch(
                (left, y), width, height, boxstyle="round,pad=0,rounding_size=0.08",
                fc=_FILL[box.kind], ec=_EDGE, lw=0.8, zorder=2))  # fmt: skip
            axes.text(middle, y + height / 2, box.text, fontsize=8, ha="center", va="center",
                      color=_INK, zorder=4)  # fmt: skip
        axes.text(left + width + 0.55, y + height / 2, box.note, fontsize=7.5, color=_FAINT,
                  va="center")  # fmt: skip
        if box.skip is not None:
            _skip(axes, left + width, middle, box.skip, row, height)


def _skip(axes: Any, right: float, middle: float, source: int, target: int, height: float) -> None:
    """The line of a skip: out of the arrow below its source, down, and into the add."""
    out, into = source + 0.55 + height + 0.16, target + 0.55 + height / 2
    x = right + 0.3
    axes.plot([middle, x, x], [out, out, into], color="#0969da", lw=1.1, zorder=1)
    axes.annotate("", (middle + 0.17, into), (x, into), zorder=1,
                  arrowprops={"arrowstyle": "-|>", "color": "#0969da", "lw": 1.1})  # fmt: skip
