"""Going on with a run that was interrupted or killed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from surgeon.errors import RunError
from surgeon.operating import operate
from surgeon.recipe import Recipe
from surgeon.runs.checkpoints import NAME, Checkpointer, read_checkpoint
from surgeon.runs.host import Progress, run_probe
from surgeon.runs.store import clear_remains
from surgeon.threads import threads

if TYPE_CHECKING:
    from surgeon.probe import Result


def resume(folder: str | Path, *, progress: Progress | None = None) -> Result:
    """Finish a run from its last checkpoint, and write its folder.

    The files are byte for byte those of a run that was never interrupted.

    Args:
        folder: of a run that holds `checkpoint.safetensors`.
        progress: shown how far it is.

    Returns:
        The result, as `run_probe` gives it.

    Raises:
        RunError: there is no checkpoint, or the images or weights have changed since.
    """
    place = Path(folder).resolve()
    saved = read_checkpoint(place)
    about = saved.about
    clear_remains(place)
    with contextlib.chdir(_directory(place, about["directory"])), threads(about["threads"]):
        recipe = Recipe.from_toml(about["recipe"], source=str(place / NAME))
        model = recipe.load(about["device"]).to(getattr(torch, about["dtype"]))
        with operate(model, recipe) as subject:
            result = run_probe(
                about["probe"], subject, recipe=recipe, progress=progress,
                checkpoint=Checkpointer(place, about), saved=saved, **about["settings"],
            )  # fmt: skip
    result.save(place, overwrite=True)
    return result


def _directory(folder: Path, directory: str) -> str:
    """Where the run was started: its recipe's paths are relative to there."""
    if not Path(directory).is_dir():
        raise RunError(
            f"resume {folder}",
            f"it was started in {directory}, which is gone",
            "put back what the recipe's paths point to",
        )
    return directory
