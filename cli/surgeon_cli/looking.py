"""surgeon anatomy, surgeon models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from surgeon_cli import render
from surgeon_cli.options import JsonOption, ModelArgument

if TYPE_CHECKING:
    from surgeon.anatomist.anatomy import Anatomy
    from surgeon.anatomist.site import Selection


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
    from surgeon.anatomist.look import look
    from surgeon.recipe import ModelSpec
    from surgeon.sources import meta_model, preprocessing_of
    from surgeon.toml_files import apply_override

    options: dict[str, object] = {}
    for text in option or []:
        apply_override(options, text)
    spec = ModelSpec(ModelSpec.parse(model).name, options=options)
    built = meta_model(spec)
    found = look(built, preprocessing_of(spec, built).input_size)
    if selector is not None:
        _show_selection(found.select(selector), as_json)
    else:
        _show_tree(found, spec.name, modules, as_json)


def _show_selection(selection: Selection, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        render.as_json([asdict(site) for site in selection])
    else:
        render.line(str(selection))


def _show_tree(anatomy: Anatomy, name: str, modules: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from surgeon.anatomist.site import shape_text
    from surgeon.anatomist.tree import rows, summary
    from surgeon.compat.known import known

    listed, tested = rows(anatomy, modules=modules), known(name)
    if as_json:
        render.as_json(
            {
                "summary": summary(anatomy),
                "tested": None if tested is None else asdict(tested),
                "rows": [asdict(row) for row in listed],
            }
        )
        return
    render.line(summary(anatomy))
    render.line(str(tested or "not tested: not in the packaged sweep"))
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
    from surgeon.sources import all_names

    names = all_names(pattern, broken=render.broken)
    if as_json:
        render.as_json(names)
        return
    for name in names:
        render.line(name)
    render.note(f"{len(names)} models")
