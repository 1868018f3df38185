"""The host: drives a probe's state machine, shows progress, times it, gathers the record."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from surgeon.errors import ProbeError, RunError, SelectionError
from surgeon.imaging.photos import Photo, load_photos, photo_of
from surgeon.probe import Inputs, Probe, Result, Step
from surgeon.recipe_file import checked_settings
from surgeon.registry import registry
from surgeon.runs.checkpoints import Checkpointer, Saved
from surgeon.runs.interrupts import keep_glimpse
from surgeon.runs.records import run_record, weights_digest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from surgeon.recipe import Recipe
    from surgeon.subject import Subject


class Progress(Protocol):
    """What shows how far a run is."""

    def update(self, step: Step) -> None:
        """After each step."""


def run_probe(
    name: str,
    subject: Subject,
    *,
    image: str | Iterable[str] | Tensor | None = None,
    recipe: Recipe | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpointer | None = None,
    saved: Saved | None = None,
    **settings: Any,
) -> Result:
    """Run a probe on a subject.

    Args:
        name: a registered probe.
        subject: operated; left as it is.
        image: a file, a folder, "surgeon:NAME", several of these, or a tensor (batch, channels,
            height, width) in [0, 1].
        recipe: the subject's own if left out; its image and its settings of the probe are taken
            where none are given.
        progress: shown how far it is.
        checkpoint: saves the state now and then, and when the run is interrupted.
        saved: go on from this checkpoint instead of starting.
        settings: the probe's, by name.

    Returns:
        The result: figures by site, images, curves; `figure()` draws it, `save(folder)` writes it.

    Raises:
        ProbeError: no such probe or setting, or a wrong type.
        SelectionError: a setting selects no site; names file, line and key if it is from a recipe.
        ImageError: an image can't be read.
    """
    entry = registry().find("probe", name, ProbeError)
    recipe = recipe or subject.plan.recipe
    checked = checked_settings(name, {**recipe.probes.get(name, {}), **settings})
    probe: Probe = entry.load()()
    photos = tuple(_photos(image, subject, recipe))
    inputs = Inputs(photos, as_resolved(recipe, name, checked, image))
    if saved is not None:
        _check_same(saved, subject, inputs)
    began = time.perf_counter()
    try:
        result = _driven(name, probe, subject, inputs, checked, progress, checkpoint, saved)
    except SelectionError as error:
        raise _located(error, recipe, name, settings) from error.__cause__
    result.probe = name
    result.timing["seconds"] = time.perf_counter() - began
    result.record = run_record(subject, inputs, name, checked.model_dump(mode="json"))
    return result


def as_resolved(
    recipe: Recipe, name: str, settings: BaseModel, image: str | Iterable[str] | Tensor | None
) -> Recipe:
    """The recipe that repeats a run: this probe alone, with the settings and the image it had.

    An image given as a tensor, or as several files, has no place in a recipe and is left out.
    """
    given = settings.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    chosen = recipe.input
    if image is not None:
        chosen = replace(chosen, image=image if isinstance(image, str) else None)
    return recipe.updated(probes={name: given}, input=chosen)


def _located(
    error: SelectionError, recipe: Recipe, name: str, settings: dict[str, Any]
) -> SelectionError:
    """A selector's error with its place in the recipe, if it is the recipe's."""
    for key in ("sites", "site"):
        own = recipe.probes.get(name, {}).get(key)
        if ("probes", name, key) in recipe.places and settings.get(key, own) == own:
            located = error.located(recipe.place(("probes", name, key)))
            return located if isinstance(located, SelectionError) else error
    return error


def _driven(
    name: str,
    probe: Probe,
    subject: Subject,
    inputs: Inputs,
    settings: Any,
    progress: Progress | None,
    checkpoint: Checkpointer | None,
    saved: Saved | None,
) -> Result:
    """Step after step to the result; what was done is saved, however it ends."""
    log = list(saved.log) if saved else []
    state = saved.state if saved else probe.start(subject, inputs, settings)
    try:
        while True:
            if checkpoint is not None:
                checkpoint.after_step(state, log)
            step = probe.step(subject, inputs, settings, state)
            lines = [*log, dict(step.log)] if step.log is not None else log
            if progress is not None:
                progress.update(step)
            if step.done:
                result = probe.finish(subject, inputs, settings, step.state)
                result.log = lines
                return result
            state, log = step.state, lines
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            keep_glimpse(name, probe, subject, inputs, settings, state, log, error)
        if checkpoint is not None:
            try:
                checkpoint.write(state, log)
            except RunError as unwritten:  # what ended the run matters more
                error.add_note(str(unwritten))
        raise


def checkpoint_of(
    folder: Path, name: str, subject: Subject, recipe: Recipe, settings: Any
) -> Checkpointer | None:
    """What saves a run's checkpoints; None for a probe that can't be resumed.

    Args:
        folder: of the run.
        settings: the probe's, checked.
    """
    probe = registry().find("probe", name, ProbeError).load()
    if not getattr(probe, "resumable", True):
        return None
    inputs = Inputs(tuple(_photos(None, subject, recipe)), recipe)
    about = {
        "probe": name,
        "recipe": recipe.to_toml(),
        "settings": settings.model_dump(mode="json", exclude_unset=True),
        "device": str(subject.device),
        "dtype": str(subject.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "directory": os.getcwd(),
        "images": _hashes(inputs),
        "weights": weights_digest(subject),
    }
    return Checkpointer(folder, about)


def _hashes(inputs: Inputs) -> dict[str, str]:
    return {photo.name: photo.sha256 for photo in inputs.photos}


def _check_same(saved: Saved, subject: Subject, inputs: Inputs) -> None:
    if saved.about["weights"] != weights_digest(subject):
        raise RunError(
            f"resume {saved.about['probe']}",
            "the operated model has other weights than before",
            "the weights of model and donors as they were, or run the recipe again",
        )
    before, now = saved.about["images"], _hashes(inputs)
    changed = [name for name in before if now.get(name) != before[name]]
    if changed or len(before) != len(now):
        raise RunError(
            f"resume {saved.about['probe']}",
            f"the images are others than before: {', '.join(changed) or 'more of them'}",
            "the images as they were, or run the recipe again",
        )


def _photos(
    image: str | Iterable[str] | Tensor | None, subject: Subject, recipe: Recipe
) -> list[Photo]:
    if isinstance(image, Tensor):
        batch = image if image.ndim == 4 else image[None]
        expected = subject.preprocessing.input_size
        if tuple(batch.shape[1:]) != tuple(expected):
            raise ProbeError(
                f"an image tensor of {tuple(batch.shape)}",
                f"the model takes {expected}",
                "resize it, or give a file",
            )
        return [
            photo_of(x, f"image{i}" if len(batch) > 1 else "image") for i, x in enumerate(batch)
        ]
    chosen = image if image is not None else recipe.input.image
    return load_photos(chosen, subject.preprocessing) if chosen is not None else []
