"""surgeon compat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from surgeon_cli import render
from surgeon_cli.options import JsonOption


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("compat")(compat)


def compat(
    pattern: Annotated[
        str | None, typer.Argument(metavar="[PATTERN]", help='Such as "timm/vit_*" or "swin".')
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Findings, page and JSON.")
    ] = Path("compat"),
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Worker processes.")] = 2,
    timeout: Annotated[float, typer.Option("--timeout", min=1.0, help="Seconds a name.")] = 120.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Survey again what was found.")] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="In a checkout: also its page and packaged JSON.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Survey every architecture without its values: what is found, and which operations run."""
    from surgeon.compat.known import publish_to
    from surgeon.compat.page import write
    from surgeon.compat.pool import sweep
    from surgeon.compat.store import Findings

    names = _names(pattern)
    store = Findings(out / "findings.jsonl")
    todo = [name for name in names if fresh or name not in store.by_name]
    if len(todo) < len(names):
        render.note(f"{len(names) - len(todo)} of {len(names)} found before, in {store.file}")
    with render.ProgressLines("compat") as progress:
        for done, finding in enumerate(sweep(todo, processes=jobs, timeout=timeout), 1):
            store.add(finding)
            progress.at(done / len(todo), finding["name"])
    found = [store.by_name[name] for name in names]
    write(found, store.versions, out)
    if publish:
        publish_to(found, store.versions)
    if as_json:
        render.as_json(found)
        return
    _show(found)
    render.note(f"page and JSON in {out}")


def _names(pattern: str | None) -> list[str]:
    """Names of every source that a pattern matches, those without values first looked at last."""
    from surgeon.sources import all_names

    return all_names(pattern)


def _show(found: list[dict[str, Any]]) -> None:
    from surgeon.compat.page import problem

    wrong = [(f["name"], text) for f in found if (text := problem(f))]
    render.line(f"{len(found)} architectures, {len(found) - len(wrong)} without remarks")
    if wrong:
        render.table(["name", "remark"], wrong)
