"""The page: data, template, style and script in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from surgeon.errors import RunError
from surgeon.files import atomic_write, json_text, writing
from surgeon.reports import rows, words
from surgeon.reports.reading import read_run, read_study
from surgeon.reports.sections import Book, runs_section, study_section

VERDICTS = ("confirmed", "refuted", "undecided", "not applicable")
#: What says that a page is a report.
_MADE = b'<meta name="generator" content="Surgeon">'
_MARKS = {"confirmed": "✓", "refuted": "✕", "undecided": "?", "not applicable": "–"}


def write_report(
    studies: Sequence[Path],
    runs: Sequence[Path],
    out: Path,
    *,
    data: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write one page for any number of studies and runs.

    Args:
        studies: folders with a `study.json`.
        runs: folders with a `run.json`.
        out: the HTML file; its folder is made, and an earlier report replaced as a whole.
        data: also write the cells' figures as `NAME.csv` and `NAME.json` beside it.
        overwrite: replace also what is no report.

    Returns:
        The file. The same folders give the same bytes.

    Raises:
        RunError: a folder can't be read, or the file not be written.
    """
    beside = [out.with_suffix(".csv"), out.with_suffix(".json")] if data else []
    if not overwrite:
        _check_free(out, beside)
    read = [(folder, read_study(folder)) for folder in studies]
    count = len(runs) + sum(len(study.get("cells") or ()) for _, study in read)
    book = Book(out.resolve().parent, count)
    sections = [study_section(folder, study, book) for folder, study in read]
    if runs:
        sections.append(runs_section([read_run(folder) for folder in runs], book))
    title = sections[0]["title"] if len(sections) == 1 else _counted(sections, book)
    written = {out: _page(title, sections, book)}
    table = rows.rows_of(sections, book)
    texts = (rows.as_csv(table), json_text(table, indent=1) + "\n")
    written.update(zip(beside, texts, strict=False))
    hint = "--out with a file in a folder that can be written and has room"
    with writing(f"write a report to {out}", hint):
        out.parent.mkdir(parents=True, exist_ok=True)
        for path, text in written.items():
            atomic_write(path, text)
    return out


def _check_free(out: Path, beside: Sequence[Path]) -> None:
    """See that nothing but an earlier report would be replaced."""
    asked = f"write a report to {out}"
    if out.suffix.lower() not in (".html", ".htm"):
        raise RunError(
            asked, "its name does not end in .html", f"--out {out.name or 'report'}.html"
        )
    if out.is_dir():
        raise RunError(asked, "it is a folder", f"--out {out / 'report.html'}")
    if out.exists():
        with out.open("rb") as file:
            ours = _MADE in file.read(2000)
        if not ours:
            raise RunError(asked, "it is a file that is no report", "--overwrite, or another --out")
        return
    taken = next((path for path in beside if path.exists()), None)
    if taken is not None:
        raise RunError(asked, f"{taken.name} is there already", "--overwrite, or another --out")


def write_run_report(folder: Path) -> Path:
    """Write a run's own page, `report.html`, into its folder.

    It says nothing of where the folder is, so that a repeated run gives the same bytes.
    """
    book = Book(None)
    section = runs_section([read_run(folder)], book)
    out = folder / "report.html"
    atomic_write(out, _page(section["title"], [section], book))
    return out


def _counted(sections: Sequence[dict[str, Any]], book: Book) -> str:
    studies = sum(bool(section["name"]) for section in sections)
    counts = [(studies, "study" if studies == 1 else "studies"),
              (len(book.runs), "run" if len(book.runs) == 1 else "runs")]  # fmt: skip
    return ", ".join(f"{count} {name}" for count, name in counts if count)


def _page(title: str, sections: list[dict[str, Any]], book: Book) -> str:
    chart, script = _asset("uplot.js"), _asset("report.js")
    for number, section in enumerate(sections):
        section["id"] = f"s{number}"
    tally = {v: sum(f.get("verdict") == v for s in sections for f in s["findings"])
             for v in VERDICTS}  # fmt: skip
    times = Counter(section["title"] for section in sections)
    twins = [known for known, count in times.items() if count > 1]
    text: str = _template().render(
        title=title, sections=sections, runs=book.runs, tally=tally, marks=_MARKS, twins=twins,
        style=Markup(_asset("uplot.css") + _asset("report.css")),
        chart=Markup(chart), script=Markup(script),
        allowed=f"{_hashed(chart)} {_hashed(script)}",
        data=_embedded({"sections": sections, "runs": book.runs, "names": words.NAMES}),
        images=_embedded(book.album.pictures),
    )  # fmt: skip
    return text


def _beneath(
    section: dict[str, Any], cell: dict[str, Any], run: dict[str, Any]
) -> list[tuple[str, str]]:
    """The figures that stand beneath a cell, as (name, text)."""
    found = [run["figures"][site] for site in cell["sites"] if site in run["figures"]]
    return [
        (words.name_of(name), words.summary_of(found, name))
        for name in section["shown"].get(cell["probe"], ())
        if any(name in figures for figures in found)
    ]


@cache
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(value=words.text_of)
    environment.globals.update(beneath=_beneath)
    return environment.from_string(_asset("report.html"))


@cache
def _asset(name: str) -> str:
    return (files("surgeon.reports") / "assets" / name).read_text(encoding="utf-8")


def _hashed(script: str) -> str:
    """What allows this very script in the page's content security policy, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _embedded(value: Any) -> Markup:
    """JSON that can stand in a script element, whatever texts are in it."""
    text = json.dumps(json.loads(json_text(value)), ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
