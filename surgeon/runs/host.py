"""The host: drives a probe's state machine, shows progress, times it, gathers the record."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor

from surgeon.errors import ProbeError, RunError, nearest
from surgeon.imaging.photos import Photo, load_photos, photo_of
from surgeon.probe import Inputs, Probe, Result, Step
from surgeon.registry import registry
from surgeon.runs.checkpoints import Checkpointer, Saved

if TYPE_CHECKING:
    from surgeon.operations.base import Operation
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
        recipe: for the record; the subject's own if left out.
        progress: shown how far it is.
        checkpoint: saves the state now and then, and when the run is interrupted.
        saved: go on from this checkpoint instead of starting.
        settings: the probe's, by name.

    Returns:
        The result: figures by site, images, curves; `figure()` draws it, `save(folder)` writes it.

    Raises:
        ProbeError: no such probe or setting, or a wrong type.
        ImageError: an image can't be read.
    """
    entry = registry().find("probe", name, ProbeError)
    checked = checked_settings(name, settings)
    probe: Probe = entry.load()()
    recipe = recipe or subject.plan.recipe
    inputs = Inputs(tuple(_photos(image, subject, recipe)), recipe)
    if saved is not None:
        _check_same(saved, inputs)
    began = time.perf_counter()
    result = _driven(probe, subject, inputs, checked, progress, checkpoint, saved)
    result.probe = name
    result.timing["seconds"] = time.perf_counter() - began
    result.record = run_record(subject, inputs, name, checked.model_dump(mode="json"))
    return result


def _driven(
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
    except BaseException:
        if checkpoint is not None:
            checkpoint.write(state, log)
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
        "directory": os.getcwd(),
        "images": _hashes(inputs),
    }
    return Checkpointer(folder, about)


def _hashes(inputs: Inputs) -> dict[str, str]:
    return {photo.name: photo.sha256 for photo in inputs.photos}


def _check_same(saved: Saved, inputs: Inputs) -> None:
    before, now = saved.about["images"], _hashes(inputs)
    changed = [name for name in before if now.get(name) != before[name]]
    if changed or len(before) != len(now):
        raise RunError(
            f"resume {saved.about['probe']}",
            f"the images are others than before: {', '.join(changed) or 'more of them'}",
            "the images as they were, or run the recipe again",
        )


def checked_settings(probe: str, settings: dict[str, Any]) -> Any:
    """A probe's settings, checked.

    Raises:
        ProbeError: an unknown setting or a wrong value; the nearest names are given.
    """
    entry = registry().find("probe", probe, ProbeError)
    cls = entry.load("settings")
    try:
        return cls.model_validate(settings)
    except ValidationError as cause:
        error = cause.errors()[0]
        key = ".".join(str(part) for part in error["loc"])
        known = list(cls.model_fields)
        found = "no such setting" if error["type"] == "extra_forbidden" else error["msg"]
        hint = nearest(key, known) if error["type"] == "extra_forbidden" else ", ".join(known)
        raise ProbeError(f"probes.{probe}.{key} = {error['input']!r}", found, hint) from None


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


def _in_words(operation: Operation) -> str:
    """An operation in a few words, for labels: "bypass blocks[*].attention"."""
    site = operation.site if isinstance(operation.site, str) else ", ".join(operation.site)
    return f"{operation.op} {site}"


def run_record(
    subject: Subject, inputs: Inputs, probe: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything that says how a result came about, but for times."""
    from surgeon.weights import digest_of

    weights = dict(subject.model.named_parameters())
    return {
        "probe": probe,
        "settings": settings,
        "recipe": inputs.recipe.digest,
        "recipe_toml": inputs.recipe.to_toml(),
        "operations": [_in_words(operation) for operation in inputs.recipe.operations],
        "model": inputs.recipe.model.label if inputs.recipe.model else type(subject.model).__name__,
        "seed": inputs.recipe.model.seed if inputs.recipe.model else None,
        "operated_weights": digest_of(weights),
        "images": {p.name: {"sha256": p.sha256, "notes": list(p.notes)} for p in inputs.photos},
        "preprocessing": str(subject.preprocessing),
        "device": str(subject.device),
        "dtype": str(subject.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "surgeon": version("model-surgeon"),
            **{name: version(name) for name in ("torch", "torchvision", "timm")},
        },
    }
