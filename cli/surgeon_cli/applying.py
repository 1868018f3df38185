"""surgeon apply, surgeon plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgeon_cli import render
from surgeon_cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    OutOption,
    OverwriteOption,
    RecipeArgument,
    SeedOption,
    SetOption,
    with_seed,
)

if TYPE_CHECKING:
    from torch import nn

    from surgeon.probe import Result
    from surgeon.recipe import Recipe
    from surgeon.subject import Subject


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("apply")(apply)
    app.command("plan")(plan)


def apply(
    recipe: RecipeArgument,
    probe: Annotated[
        list[str] | None,
        typer.Option("--probe", metavar="NAME", help="Run a probe; the recipe's own if left out."),
    ] = None,
    set_: SetOption = None,
    out: OutOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; run nothing.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Operate on a model by a recipe, run probes on it, and put it back as it was."""
    from surgeon.recipe import Recipe

    loaded = Recipe.read(recipe, with_seed(set_, seed))
    if dry_run:
        _show_plan(loaded, as_json)
        return
    names = probe or list(loaded.probes)
    folders = _folders(names, loaded, recipe, out, overwrite)
    subject, before = _operated(loaded, device, dtype)
    report: dict[str, Any] = {"model": loaded.model and loaded.model.label, "runs": {}}
    with subject:
        if not as_json:
            render.line(str(subject.plan))
            render.line(f"  input: {subject.preprocessing}")
        for name in names:
            result = _run(name, subject, loaded, seed, folders[name])
            result.save(folders[name], overwrite=True)  # checked before; its checkpoint is there
            report["runs"][name] = {"folder": str(folders[name]), "figures": result.figures}
            if not as_json:
                show_result(result, folders[name])
    report["restored"] = _restored(subject.model, before)
    if as_json:
        render.as_json(report)


def _folders(
    names: list[str], recipe: Recipe, path: str, out: Path | None, overwrite: bool
) -> dict[str, Path]:
    """Where each probe's run goes, checked before any work."""
    from surgeon.errors import ProbeError
    from surgeon.recipe_file import checked_settings
    from surgeon.registry import registry
    from surgeon.runs.store import check_free, check_writable, free_folder

    for name in names:
        registry().find("probe", name, ProbeError)
        checked_settings(name, dict(recipe.probes.get(name, {})))
    stem = path.removeprefix("surgeon:") if path.startswith("surgeon:") else Path(path).stem
    default = Path("runs") / f"{stem.replace('/', '-')}-{recipe.digest[:8]}"
    base = out or (default if overwrite else free_folder(default))
    folders = {name: base / name if len(names) > 1 else base for name in names}
    for folder in folders.values():
        check_free(folder, overwrite)
        check_writable(folder)
    return folders


def _operated(recipe: Recipe, device: str | None, dtype: str | None) -> tuple[Subject, Any]:
    import surgeon
    from surgeon_cli.devices import checked_device, checked_dtype

    place, kind = checked_device(device), checked_dtype(dtype)
    model = recipe.load(place)
    if kind is not None:
        model = model.to(kind)
    before = surgeon.fingerprint(model)
    return surgeon.operate(model, recipe), before


def _run(name: str, subject: Subject, recipe: Recipe, seed: int | None, folder: Path) -> Result:
    from surgeon.recipe_file import checked_settings, settings_class
    from surgeon.runs.host import checkpoint_of, run_probe

    settings = dict(recipe.probes.get(name, {}))
    if seed is not None and "seeds" in settings_class(name).model_fields:
        settings.setdefault("seeds", [seed])
    saver = checkpoint_of(folder, name, subject, recipe, checked_settings(name, settings))
    with render.ProgressLines(name) as progress, resumable(folder if saver else None):
        return run_probe(
            name, subject, recipe=recipe, progress=progress, checkpoint=saver, **settings
        )


@contextmanager
def resumable(folder: Path | None) -> Iterator[None]:
    """Say how to go on, if what runs here is interrupted."""
    try:
        yield
    except KeyboardInterrupt as error:
        for text in getattr(error, "__notes__", ()):  # its last state could not be saved
            render.note(text)
        if folder is not None and (folder / "checkpoint.safetensors").exists():
            render.note(f"go on with: surgeon resume {folder}")
        raise


def show_result(result: Result, folder: Path) -> None:
    if result.figures:
        first = next(iter(result.figures.values()))
        rows = [
            [site, *(_short(figures.get(key)) for key in first)]
            for site, figures in result.figures.items()
        ]
        headers = ["site", *(key.replace("_", " ") for key in first)]
        if len(headers) > 12 and len(rows) <= 3:  # many figures of few sites: a column for each
            rows = [list(row) for row in zip(headers[1:], *(r[1:] for r in rows), strict=True)]
            headers = ["", *result.figures]
        render.table(headers, rows)
    for text in result.notes:
        render.line(f"note: {text}")
    render.line(f"picture: {folder / (result.probe + '.png')}")
    render.line(f"page: {folder / 'report.html'}")
    render.line(f"run: {folder}  ({result.timing['seconds']:.1f} s)")


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _restored(model: nn.Module, before: Any) -> bool:
    import surgeon
    from surgeon.errors import RestoreError

    after = surgeon.fingerprint(model)
    changed = before.difference(after)
    if changed:
        raise RestoreError("restore the model", "; ".join(changed[:3]), "report this as a bug")
    render.note(f"model restored: {len(after.facts)} facts as before")
    return True


def plan(
    recipe: RecipeArgument,
    set_: SetOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a recipe would do: sites, shapes, what is saved, conflicts. Touches nothing."""
    from surgeon.recipe import Recipe

    _show_plan(Recipe.read(recipe, with_seed(set_, seed)), as_json)


def _show_plan(recipe: Recipe, as_json: bool) -> None:
    import surgeon
    from surgeon.errors import RecipeError
    from surgeon.sources import meta_model, preprocessing_of

    if recipe.model is None:
        raise RecipeError("plan a recipe", "it names no model", '--set model.name="timm/..."')
    model = meta_model(recipe.model)
    preprocessing = preprocessing_of(recipe.model, model)
    preprocessing = preprocessing if recipe.input.normalize else preprocessing.raw()
    planned = surgeon.plan(model, recipe)
    if as_json:
        render.as_json({**planned.to_dict(), "preprocessing": str(preprocessing)})
        return
    render.line(str(planned))
    render.line(f"  input: {preprocessing}")
