"""surgeon anatomy, surgeon models."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated

import typer

from surgeon_cli import render
from surgeon_cli.options import JsonOption, ModelArgument


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("anatomy")(anatomy)
    app.command("models")(models)


def anatomy(
    model: ModelArgument,
    selector: Annotated[
        str | None, typer.Argument(metavar="[SELECTOR]", help='Such as "blocks[*].attention".')
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="Of the model: img_size=112."),
    ] = None,
    modules: Annotated[
        bool, typer.Option("--modules", help="Also every module without a role.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a model is made of: roles, paths, shapes, in order of execution."""
    from dataclasses import asdict

    from surgeon.anatomist.look import look
    from surgeon.anatomist.site import shape_text
    from surgeon.anatomist.tree import rows, summary
    from surgeon.recipe import ModelSpec
    from surgeon.recipe_file import apply_override
    from surgeon.sources import meta_model, preprocessing_of

    options: dict[str, object] = {}
    for text in option or []:
        apply_override(options, text)
    spec = ModelSpec(ModelSpec.parse(model).name, options=options)
    built = meta_model(spec)
    found = look(built, preprocessing_of(spec, built).input_size)
    if selector is not None:
        selection = found.select(selector)
        if as_json:
            render.as_json([asdict(site) for site in selection])
        else:
            render.line(str(selection))
        return
    listed = rows(found, modules=modules)
    if as_json:
        render.as_json({"summary": summary(found), "rows": [asdict(row) for row in listed]})
        return
    render.line(summary(found))
    render.table(
        ["role", "kind", "shape", "parameters", "path"],
        [
            [
                "  " * row.depth + (row.role or "."),
                row.kind,
                shape_text(row.shape) if row.shape else "",
                f"{row.parameters:,}" if row.parameters else "",
                row.path + (f"  ({row.mark})" if row.mark else ""),
            ]
            for row in listed
        ],
    )


def models(
    pattern: Annotated[
        str | None, typer.Argument(metavar="[PATTERN]", help='Such as "timm/vit_*" or "swin".')
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the models that can be operated on."""
    from surgeon.registry import registry

    names = []
    for entry in registry().all("source"):
        try:
            names += [f"{entry.name}/{name}" for name in entry.load()().names()]
        except Exception as cause:  # whatever a plugin raises costs only itself
            render.broken(entry, cause)
    if pattern:
        wild = pattern if any(c in pattern for c in "*?") else f"*{pattern}*"
        names = [name for name in names if fnmatchcase(name, wild)]
    if as_json:
        render.as_json(names)
        return
    for name in names:
        render.line(name)
    render.note(f"{len(names)} models")
