"""surgeon report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon_cli import render
from surgeon_cli.options import JsonOption, OverwriteOption


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("report")(report)


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...", help="Folders of runs and studies, or of such folders."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="An .html file; report.html in the folder, of several here, if left out.",
        ),
    ] = None,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write one self-contained page for any runs and studies, and their figures as CSV and JSON."""
    from surgeon.reports import find_folders, write_report

    studies, runs = find_folders(folders)
    single = len(studies) + len(runs) == 1
    page = out or ((studies or runs)[0] if single else Path()) / "report.html"
    own = out is None and single and bool(studies)  # a study's folder has its table already
    write_report(studies, runs, page, data=not own, overwrite=overwrite)
    tables = [page.with_name(f"{'table' if own else page.stem}.{kind}") for kind in ("csv", "json")]
    if as_json:
        counted = {"studies": len(studies), "runs": len(runs), "bytes": page.stat().st_size}
        render.as_json({"report": str(page), "tables": [str(t) for t in tables], **counted})
        return
    render.line(f"report: {page}  ({page.stat().st_size / 1e6:.1f} MB)")
    render.line(f"tables: {tables[0]}, {tables[1]}")
