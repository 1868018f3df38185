"""Verifying a run: what it says is worked out again from its own files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from surgeon.errors import ImageError, ProbeError, RunError
from surgeon.imaging.photos import Photo, load_photos, photo_of
from surgeon.operating import operate
from surgeon.preprocessing import Preprocessing
from surgeon.probe import Check, Inputs, Kept, Step
from surgeon.recipe import Recipe
from surgeon.recipe_file import checked_settings
from surgeon.registry import registry
from surgeon.runs.host import Progress
from surgeon.runs.records import weights_digest

if TYPE_CHECKING:
    from surgeon.subject import Subject

#: What a run's photos are called among its tensors.
_PHOTO = "image/photo "


class _Verifies(Protocol):
    """A probe that can be verified."""

    def verify(
        self, subject: Subject, inputs: Inputs, settings: Any, kept: Kept
    ) -> Iterator[Check]: ...


@dataclass(frozen=True)
class _Run:
    """A run folder as it was found."""

    record: dict[str, Any]
    recipe: Recipe
    kept: Kept


def verify(
    folder: str | Path,
    *,
    model: nn.Module | None = None,
    preprocessing: Preprocessing | None = None,
    progress: Progress | None = None,
) -> list[Check]:
    """Work a run's verdicts out again from its files, and say of each whether it still holds.

    The model is built by the run's recipe; weights and photos must be those of the run too. The
    photos are the pixels that the run kept; where their file is still there, it must give them.

    Args:
        folder: of a run of a probe that can be verified, such as `diagnose`.
        model: where the recipe names none: the model that was probed, un-operated.
        preprocessing: what `operate` was given with it.
        progress: shown how far it is.

    Returns:
        A check for the weights, for each photo, and for each verdict.

    Raises:
        RunError: no run, files missing or unreadable, or a model is needed.
        ProbeError: the run's probe can't be verified.
    """
    run = _read(Path(folder))
    record = run.record
    probe = registry().find("probe", record["probe"], ProbeError).load()()
    if not hasattr(probe, "verify"):
        raise ProbeError(
            f"verify {folder}",
            f"{record['probe']} gives no verdicts that could be worked out again",
            "a run of diagnose, or run the recipe again and compare",
        )
    built = _model(run, model, str(folder)).to(getattr(torch, record["dtype"]))
    settings = checked_settings(record["probe"], record["settings"])
    with operate(built, run.recipe, preprocessing=preprocessing, input_size=_size(run)) as subject:
        photos = _photos(run, str(folder))
        checks = [
            _same("weights", record["operated_weights"], weights_digest(subject)),
            _same("preprocessing", record["preprocessing"], str(subject.preprocessing)),
            *(_photo_check(run, photo, subject) for photo in photos),
        ]
        inputs = Inputs(tuple(photos), run.recipe)
        return checks + _probed(probe, subject, inputs, settings, run.kept, progress)


def _probed(
    probe: _Verifies,
    subject: Subject,
    inputs: Inputs,
    settings: Any,
    kept: Kept,
    progress: Progress | None,
) -> list[Check]:
    checks, expected = [], max(1, len(kept.figures))
    for check in probe.verify(subject, inputs, settings, kept):
        checks.append(check)
        if progress is not None:
            share = min(len(checks) / expected, 1.0)
            progress.update(Step({}, progress=share, text=f"{check.name}  {check.found}"))
    return checks


def _read(folder: Path) -> _Run:
    asked = f"verify {folder}"
    try:
        record = json.loads((folder / "run.json").read_text())
        recipe = Recipe.read(str(folder / "recipe.toml"))
        tensors = load_file(folder / "result.safetensors")
        kept = Kept(record["figures"], record["tables"], record["notes"], tensors)
        for name in ("probe", "settings", "operated_weights", "images", "device", "dtype"):
            _ = record[name]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as cause:
        found = f"no {Path(cause.filename).name}" if isinstance(cause, OSError) else str(cause)
        raise RunError(asked, found, "the folder of a run that has ended") from None
    return _Run(record, recipe, kept)


def _model(run: _Run, model: nn.Module | None, folder: str) -> nn.Module:
    if run.recipe.model is not None:
        return run.recipe.load(run.record["device"])
    if model is None:
        raise RunError(
            f"verify {folder}",
            f"its model was a {run.record['model']} in memory, which no recipe can build",
            f'in Python: surgeon.verify("{folder}", model=your_model)',
        )
    return model


def _size(run: _Run) -> tuple[int, int, int] | None:
    photos = [t for name, t in run.kept.tensors.items() if name.startswith(_PHOTO)]
    if run.recipe.model is not None or not photos:
        return None
    channels, height, width = photos[0].shape[-3:]
    return channels, height, width


def _photos(run: _Run, folder: str) -> list[Photo]:
    """The pixels that the run kept, in the run's order."""
    found = []
    for name, about in run.record["images"].items():
        pixels = run.kept.tensors.get(_PHOTO + name)
        if pixels is None:
            raise RunError(
                f"verify {folder}", f"the pixels of {name} are not in it", "a run as it was written"
            )
        found.append(Photo(name, pixels, about["sha256"]))
    return found


def _photo_check(run: _Run, photo: Photo, subject: Subject) -> Check:
    """Whether the kept pixels are the photo's, by its file or by their own hash."""
    name, image = f"photo {photo.name}", run.recipe.input.image
    if image is None:
        return _same(name, photo.sha256, photo_of(photo.pixels).sha256)
    try:
        files = {p.name: p for p in load_photos(image, subject.preprocessing)}
    except ImageError:
        return Check(name, "as kept", "its file is gone; the kept pixels are used", confirmed=True)
    file = files.get(photo.name)
    if file is None or file.sha256 != photo.sha256:
        return Check(name, photo.sha256[:12], "another file", confirmed=False)
    same = torch.equal(file.pixels, _float(photo.pixels))
    return Check(name, "as its file", "as its file" if same else "other pixels", confirmed=same)


def _float(pixels: Tensor) -> Tensor:
    return pixels.float()


def _same(name: str, said: str, found: str) -> Check:
    short = 12 if len(said) == 64 else None
    return Check(name, said[:short], found[:short], confirmed=said == found)
