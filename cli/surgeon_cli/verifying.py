"""surgeon verify."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from surgeon_cli import render
from surgeon_cli.options import JsonOption


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("verify")(verify)


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that ended.")],
    as_json: JsonOption = False,
) -> None:
    """Work a run's verdicts out again from its files; exit code 1 if one no longer holds."""
    import surgeon
    from surgeon.errors import RunError

    with render.ProgressLines(run.name) as progress:
        checks = surgeon.verify(run, progress=progress)
    if as_json:
        render.as_json({"run": str(run), "checks": [asdict(check) for check in checks]})
    else:
        rows = [
            [c.name, c.said, c.found, "confirmed" if c.confirmed else "no longer so"]
            for c in checks
        ]
        render.table(["", "said", "found", ""], rows)
    broken = [check for check in checks if not check.confirmed]
    if broken:
        raise RunError(
            f"verify {run}",
            f"{len(broken)} of {len(checks)} no longer so: {', '.join(c.name for c in broken)}",
            "the recipe again: its files, the model or this version of Surgeon have changed",
        )
