"""surgeon resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon_cli import render
from surgeon_cli.applying import resumable, show_result
from surgeon_cli.options import JsonOption


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("resume")(resume)


def resume(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of an unfinished run, or study.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Go on with a run or a study that was interrupted or killed, from its last checkpoint."""
    import surgeon
    from surgeon_cli.studying import is_study, resume_and_show

    if is_study(run):
        resume_and_show(run, as_json)
        return

    with render.ProgressLines(run.name) as progress, resumable(run):
        result = surgeon.resume(run, progress=progress)
    if as_json:
        render.as_json({"folder": str(run), "figures": result.figures})
        return
    show_result(result, run)
