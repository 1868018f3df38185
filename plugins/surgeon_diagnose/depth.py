"""Figures of sublayers against depth: a picture beside that of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.runs.pictures import Curves, Sheet, draw_sheet, png_bytes

if TYPE_CHECKING:
    from surgeon.probe import Result

#: Of the picture, in inches.
_WIDTH = 11.0
#: Charts of the picture: its title -> figure -> what its line is called.
_CHARTS = {
    "are the tokens becoming one?": {
        "tokens_apart": "distance from their mean", "stable_rank": "stable rank",
    },
    "how far a small change is stretched": {
        "lipschitz_branch": "by the branch, at most", "smallest": "by the sublayer, at least",
        "largest": "by the sublayer, at most",
    },
    "condition": {"condition": "condition"},
}  # fmt: skip


def depth_sheet(title: str, figures: dict[str, dict[str, Any]]) -> Sheet | None:
    """The charts; None where fewer than two sublayers were judged.

    Args:
        figures: of the sublayers of one photo, in order.
    """
    if len(figures) < 2:
        return None
    charts = []
    for name, lines in _CHARTS.items():
        known = {
            label: [(float(i), float(f[key])) for i, f in enumerate(figures.values(), 1)
                    if f.get(key) is not None]
            for key, label in lines.items()
        }  # fmt: skip
        known = {label: points for label, points in known.items() if points}
        if known:
            charts.append(Curves(known, "sublayer", "", name))
    names = list(figures)
    note = f"sublayers 1 to {len(names)}: {names[0]} to {names[-1]}"
    return Sheet(title, [], tuple(charts), note=note, cell=_WIDTH)


def keep_depth(result: Result, groups: dict[str, list[str]]) -> None:
    """Put the picture of each photo beside the run's.

    Args:
        groups: a photo's name, empty for the only one -> the labels of its sublayers, in order.
    """
    for name, labels in groups.items():
        figures = {label: result.figures[label] for label in labels}
        sheet = depth_sheet(f"diagnose, sublayer after sublayer {name}".strip(), figures)
        if sheet is not None:
            result.files[f"depth {name}.png" if name else "depth.png"] = png_bytes(
                draw_sheet(sheet), "surgeon diagnose: depth"
            )
