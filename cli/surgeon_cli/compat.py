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
    timeout: Annotated[float, typer.Option("--timeout", min=1.0, help="Seconds a name.")] = 300.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Survey again what was found.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Survey every architecture without its values: what is found, and which operations run.

    A survey that was interrupted goes on where it stopped, if DIR is the same.
    """
    from surgeon.compat.known import packed
    from surgeon.compat.page import write
    from surgeon.compat.pool import sweep
    from surgeon.compat.store import Findings
    from surgeon.sources import all_names

    names = all_names(pattern)
    store = Findings(out / "findings.jsonl")
    todo = [name for name in names if fresh or name not in store.by_name]
    if len(todo) < len(names):
        render.note(f"{len(names) - len(todo)} of {len(names)} found before, in {store.file}")
    with render.ProgressLines("compat") as progress:
        for done, finding in enumerate(sweep(todo, processes=jobs, timeout=timeout), 1):
            store.add(finding)
            progress.at(done / len(todo), finding["name"])
    found = [store.by_name[name] for name in names]
    write(found, store.versions, out / "compatibility.md")
    (out / "known.json").write_text(packed(found, store.versions), encoding="utf-8")
    if as_json:
        render.as_json(found)
    else:
        _show(found)
    render.note(f"page and JSON in {out}")


def _show(found: list[dict[str, Any]]) -> None:
    from surgeon.compat.page import remark, right

    remarks = [(f["name"], text) for f in found if (text := remark(f))]
    render.line(
        f"{len(found)} architectures, {sum(not f.get('error') for f in found)} looked at,"
        f" {sum(map(right, found))} with stem, blocks and head right"
    )
    if remarks:
        render.table(["name", "remark"], remarks)
