"""The host: drives a probe's state machine, shows progress, times it, gathers the record."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor

from surgeon.errors import ProbeError, nearest
from surgeon.imaging.photos import Photo, load_photos, photo_of
from surgeon.probe import Inputs, Probe, Result, State, Step
from surgeon.registry import registry

if TYPE_CHECKING:
    from surgeon.operations.base import Operation
    from surgeon.recipe import Recipe
    from surgeon.subject import Subject


class Progress(Protocol):
    """What shows how far a run is."""

    def update(self, step: Step) -> None:
        """After each step."""


#: Called after each step with the state; for checkpoints.
Checkpoint = Callable[[State], None]


def run_probe(
    name: str,
    subject: Subject,
    *,
    image: str | Iterable[str] | Tensor | None = None,
    recipe: Recipe | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    state: State | None = None,
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
        checkpoint: called after each step.
        state: go on from this state instead of starting.
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
    began = time.perf_counter()
    log: list[dict[str, Any]] = []
    current = probe.start(subject, inputs, checked) if state is None else state
    while True:
        step = probe.step(subject, inputs, checked, current)
        current = step.state
        if step.log is not None:
            log.append(dict(step.log))
        if progress is not None:
            progress.update(step)
        if checkpoint is not None:
            checkpoint(current)
        if step.done:
            break
    result = probe.finish(subject, inputs, checked, current)
    result.probe = name
    result.log = log
    result.timing["seconds"] = time.perf_counter() - began
    result.record = run_record(subject, inputs, name, checked.model_dump(mode="json"))
    return result


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
