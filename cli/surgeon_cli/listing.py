"""surgeon recipes, studies, probes, plugins, schema. None of these imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon.errors import RecipeError, StudyError
from surgeon.registry import KINDS, registry
from surgeon_cli import render
from surgeon_cli.options import JsonOption

recipes_app = typer.Typer(help="List the packaged recipes, or show one.", rich_markup_mode=None)

studies_app = typer.Typer(help="List the packaged studies, or show one.", rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(recipes_app, name="recipes", invoke_without_command=True)
    app.add_typer(studies_app, name="studies", invoke_without_command=True)
    app.command("probes")(probes)
    app.command("plugins")(plugins)
    app.command("schema")(schema)


@recipes_app.callback()
def recipes(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the packaged recipes, usable as surgeon:NAME."""
    if ctx.invoked_subcommand is None:
        _list("recipe", as_json)


@recipes_app.command("show")
def show(name: str) -> None:
    """Print a packaged recipe, to copy and change."""
    entry = registry().find("recipe", name.removeprefix("surgeon:"), RecipeError)
    render.line(Path(entry.target).read_text(encoding="utf-8").rstrip())


@studies_app.callback()
def studies(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the packaged studies, usable as surgeon:NAME."""
    if ctx.invoked_subcommand is None:
        _list("study", as_json)


@studies_app.command("show")
def show_study(name: str) -> None:
    """Print a packaged study, to copy and change."""
    entry = registry().find("study", name.removeprefix("surgeon:"), StudyError)
    render.line(Path(entry.target).read_text(encoding="utf-8").rstrip())


def probes(as_json: JsonOption = False) -> None:
    """List the probes."""
    _list("probe", as_json)


def _list(kind: str, as_json: bool) -> None:
    entries = list(registry().all(kind))
    if as_json:
        render.as_json(
            [{"name": e.name, "summary": e.summary, "plugin": e.plugin} for e in entries]
        )
        return
    render.table(["name", "summary"], [[e.name, e.summary] for e in entries])


def plugins(as_json: JsonOption = False) -> None:
    """List the plugins, what each registered, and those that failed to load."""
    found = registry()
    rows = []
    for name, distribution in sorted(found.plugins.items() | _broken(found.broken)):
        mine = [
            f"{kind} {entry.name}"
            for kind in KINDS
            for entry in found.all(kind)
            if entry.plugin == name
        ]
        failure = found.broken.get(name)
        state = f"failed: {failure!r}" if failure else ", ".join(mine)
        rows.append((name, distribution, state))
    if as_json:
        render.as_json([dict(zip(("plugin", "from", "state"), row, strict=True)) for row in rows])
        return
    render.table(["plugin", "from", "registered"], rows)


def _broken(broken: dict[str, Exception]) -> set[tuple[str, str]]:
    plugins = registry().plugins
    return {(name, "?") for name in broken if name not in plugins}


def schema(
    kind: Annotated[str, typer.Argument(metavar="[KIND]", help="recipe or study.")] = "recipe",
) -> None:
    """Print the JSON Schema of recipes, or of studies, for editors."""
    from surgeon.recipe_file import recipe_schema
    from surgeon.studies.study_file import study_schema

    if kind not in ("recipe", "study"):
        raise typer.BadParameter(f"{kind}: recipe or study")
    render.as_json(study_schema() if kind == "study" else recipe_schema(render.broken))
