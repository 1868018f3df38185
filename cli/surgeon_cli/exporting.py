"""surgeon export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon_cli import render
from surgeon_cli.options import OverwriteOption, RecipeArgument, SetOption


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("export")(export)


def export(
    recipe: RecipeArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors file to write.")],
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write the tensors a recipe changes; surgeon.load(FILE) gives the operated model back."""
    import surgeon
    from surgeon.recipe import Recipe

    written = surgeon.export(Recipe.read(recipe, set_ or ()), file, overwrite=overwrite)
    render.line(f"{file}: {written['tensors']} tensors, {written['bytes']:,} bytes")
