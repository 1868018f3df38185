"""How results, plans, anatomies, selections, recipes and studies look in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgeon.anatomist.anatomy import Anatomy
    from surgeon.anatomist.site import Selection, Site
    from surgeon.planning import Plan
    from surgeon.probe import Result
    from surgeon.recipe import Recipe
    from surgeon.studies.running import StudyResult

#: Of more images, sites or rows than this, the first are shown.
_IMAGES, _ROWS = 12, 40
_COSTS = (
    ("flops", "GFLOP", 1e9), ("activation_bytes", "activations, MB", 1e6),
    ("parameters", "parameters, M", 1e6),
)  # fmt: skip
_LEFT = "text-align:left"
_FAINT = "opacity:.7"


class Shown:
    """Base of what shows itself in a notebook as HTML, by the function for it in this module."""

    def _repr_html_(self) -> str:
        return html_of(self)


def html_of(value: Any) -> str:
    """A value of Surgeon's as a piece of HTML: escaped, without script, for light and dark.

    Raises:
        TypeError: there is nothing for its class.
    """
    for kind in type(value).__mro__:
        if kind.__name__ in _PAGES:
            html: str = _PAGES[kind.__name__](value)
            return html
    raise TypeError(f"no notebook view of {type(value).__name__}")


def show_if_notebook(value: Any) -> None:
    """Show a value in the cell that runs, if this is a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if ipython is not None and getattr(shell, "kernel", None) is not None:
        ipython.display.display(value)


def result_html(result: Result) -> str:
    """Images with their figures, and the notes."""
    from surgeon.reports.words import name_of, text_of

    names = list(dict.fromkeys(name for row in result.figures.values() for name in row))
    heads = ["site", *(name_of(name) for name in names)]
    rows = [[site, *(text_of(figures.get(name), name) for name in names)]
            for site, figures in result.figures.items()]  # fmt: skip
    notes = "".join(f"<li>{escape(text)}</li>" for text in result.notes)
    return "".join((
        _head(result.probe or "result", str(result.record.get("model", ""))),
        _strip(_images_of(result)),
        _table(heads, rows) if rows else "",
        _folded(f"{len(result.notes)} notes", f"<ul>{notes}</ul>") if notes else "",
    ))  # fmt: skip


def _images_of(result: Result) -> list[tuple[str, Any]]:
    beside = {n: t for n, t in result.tensors.items() if n.startswith(("target/", "photo/"))}
    return [*((n.replace("/", ": ", 1), t) for n, t in beside.items()), *result.images.items()]


def _strip(images: Sequence[tuple[str, Any]]) -> str:
    from surgeon.reports.images import Album, as_pixels

    if not images:
        return ""
    album, cells = Album(), []
    for label, tensor in images[:_IMAGES]:
        pixels = as_pixels(tensor.detach().float().cpu().numpy())
        (number,) = album.add({"image/": pixels}).values()
        uri, width, height, small = album.pictures[number]
        crisp = "image-rendering:pixelated;" if small else ""
        cells.append(
            f'<figure style="margin:0;width:132px"><img src="{uri}" alt="{escape(label)}" '
            f'style="width:132px;aspect-ratio:{width}/{height};{crisp}">'
            f'<figcaption style="font-size:85%;overflow-wrap:anywhere;{_FAINT}">'
            f"{escape(label)}</figcaption></figure>"
        )
    more = f"<p>and {len(images) - _IMAGES} more</p>" if len(images) > _IMAGES else ""
    joined = "".join(cells) + more
    return f'<div style="display:flex;flex-wrap:wrap;gap:10px;margin:6px 0">{joined}</div>'


def plan_html(plan: Plan) -> str:
    """What each operation does where, and what it saves."""
    from surgeon.anatomist.site import shape_text
    from surgeon.resolving import shortened

    rows = [[p.operation.op, str(p.count), shortened(p.sites)] for p in plan.operations]
    costs = plan.costs()
    saved = [
        [name, f"{full / scale:.2f}", f"{costs['operated'][key] / scale:.2f}"]
        for key, name, scale in _COSTS
        for full in (costs["full"][key],)
    ]
    warnings = "".join(f"<li>{escape(text)}</li>" for text in plan.warnings)
    return "".join((
        _head(f"plan for {plan.anatomy.model}", f"output {shape_text(plan.output_shape)}"),
        _table(["operation", "places", "sites"], rows) if rows else "",
        _table(["one forward", "as it is", "operated"], saved),
        f"<p>Warnings:</p><ul>{warnings}</ul>" if warnings else "",
    ))  # fmt: skip


def anatomy_html(anatomy: Anatomy) -> str:
    """The sites with a role, in order of execution."""
    channels = "x".join(map(str, anatomy.input_size))
    about = (
        f"{len(anatomy.blocks)} blocks, {len(anatomy.residuals)} residual adds, input {channels}"
    )
    return _head(anatomy.model, about) + _sites(anatomy.sites)


def selection_html(selection: Selection) -> str:
    """The sites that a selector matched."""
    count = f"{len(selection)} site{'s' * (len(selection) != 1)}"
    return _head(selection.selector, count) + _sites(selection.sites)


def _sites(sites: Sequence[Site]) -> str:
    from surgeon.anatomist.site import shape_text

    rows = [[s.name, s.kind, s.path, shape_text(s.shape), s.blocked or ""] for s in sites]
    heads = ["site", "kind", "path", "shape", "can't be hooked because"]
    if not any(site.blocked for site in sites):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return _table(heads, rows)


def recipe_html(recipe: Recipe) -> str:
    """Its TOML text."""
    label = recipe.model.label if recipe.model else "for a model you hold"
    return _head("recipe", label) + f"<pre>{escape(recipe.to_toml())}</pre>"


def study_html(result: StudyResult) -> str:
    """The verdicts, and how many cells there are."""
    rows = [[f.verdict, f.claim, _number(f.value), _number(f.threshold), f.sentence]
            for f in result.findings]  # fmt: skip
    counts = {s: sum(cell.status == s for cell in result.cells)
              for s in dict.fromkeys(cell.status for cell in result.cells)}  # fmt: skip
    about = ", ".join(f"{count} {status}" for status, count in counts.items())
    heads = ["verdict", "claim", "measured", "threshold", "in words"]
    report = result.folder / "report.html"
    where = f"<p>Report: <code>{escape(str(report))}</code></p>" if report.exists() else ""
    return _head(result.study.title, f"cells: {about}") + _table(heads, rows) + where


def _number(value: Any) -> str:
    from surgeon.reports.words import text_of

    return text_of(value)


def _head(title: str, about: str) -> str:
    return f'<p><b>{escape(title)}</b> <span style="{_FAINT}">{escape(about)}</span></p>'


def _table(heads: Iterable[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that the notebook's own style makes look like all others."""
    top = "".join(f'<th style="{_LEFT}">{escape(head)}</th>' for head in heads)
    lines = "".join(
        "<tr>" + "".join(f'<td style="{_LEFT}">{escape(str(cell))}</td>' for cell in row) + "</tr>"
        for row in rows[:_ROWS]
    )
    more = f"<p>and {len(rows) - _ROWS} more</p>" if len(rows) > _ROWS else ""
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<div style="overflow-x:auto">{table}</div>{more}'


def _folded(summary: str, inside: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


_PAGES: Mapping[str, Any] = {
    "Result": result_html,
    "Plan": plan_html,
    "Anatomy": anatomy_html,
    "Selection": selection_html,
    "Recipe": recipe_html,
    "StudyResult": study_html,
}
