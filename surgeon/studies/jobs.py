"""Jobs: one cell's run in the store, made once, by whoever holds its lock."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from surgeon.errors import RunError
from surgeon.files import writing
from surgeon.fingerprints import Fingerprint, fingerprint
from surgeon.operating import operate
from surgeon.recipe import Recipe
from surgeon.recipe_file import checked_settings
from surgeon.runs.checkpoints import NAME as CHECKPOINT
from surgeon.runs.checkpoints import Saved, read_checkpoint
from surgeon.runs.host import Progress, checkpoint_of, run_probe
from surgeon.runs.store import MARK, clear_remains
from surgeon.studies.addresses import Setup

if TYPE_CHECKING:
    from torch import nn

    from surgeon.recipe import ModelSpec

try:
    import fcntl
except ImportError:  # a system without it: two studies at once may both make a run they share
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Job:
    """A run to be made.

    Attributes:
        recipe: of the cell, with this probe's settings alone.
        folder: in the store.
    """

    recipe: Recipe
    probe: str
    folder: Path
    setup: Setup

    @property
    def model(self) -> ModelSpec:
        """Which jobs share a loaded model."""
        assert self.recipe.model is not None
        return self.recipe.model

    def to_dict(self) -> dict[str, Any]:
        """As a worker process is told it."""
        return {
            "recipe": self.recipe.to_toml(),
            "places": [[list(key), place] for key, place in self.recipe.places.items()],
            "probe": self.probe,
            "folder": str(self.folder),
            "setup": asdict(self.setup),
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Job:
        """What `to_dict` tells."""
        places = {tuple(key): place for key, place in told["places"]}
        recipe = Recipe.from_toml(told["recipe"]).updated(places=places)
        return cls(recipe, told["probe"], Path(told["folder"]), Setup(**told["setup"]))


class Loaded:
    """The one model a process holds at a time, loaded when it is another than before."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._model: nn.Module | None = None
        self._before: Fingerprint | None = None
        self.count = 0

    def get(self, job: Job) -> nn.Module:
        """The job's model, un-operated."""
        key = (job.model, job.setup.device, job.setup.dtype)
        if self._model is None or key != self._key:
            self.drop()
            model = job.recipe.load(job.setup.device).to(getattr(torch, job.setup.dtype))
            self._key, self._model, self._before = key, model, fingerprint(model)
            self.count += 1
        return self._model

    def check(self) -> None:
        """Let go of a model that is not as it was loaded: the next job gets a new one."""
        if self._model is None or self._before is None:
            return
        if self._before.difference(fingerprint(self._model)):
            self.drop()

    def drop(self) -> None:
        """Let go of the model, now: its graph of modules and hooks may hold itself."""
        self._key = self._model = self._before = None
        gc.collect()


def make_run(job: Job, loaded: Loaded, progress: Progress | None = None) -> None:
    """Make a job's run, from its checkpoint where it has one; nothing if it is there.

    Raises:
        SurgeonError: it can't be made.
    """
    with locked(job.folder):
        clear_remains(job.folder)
        if (job.folder / MARK).is_file():
            (job.folder / CHECKPOINT).unlink(missing_ok=True)  # killed between the two
            return
        try:
            with operate(loaded.get(job), job.recipe) as subject:
                settings = checked_settings(job.probe, dict(job.recipe.probes.get(job.probe, {})))
                saver = checkpoint_of(job.folder, job.probe, subject, job.recipe, settings)
                result = run_probe(
                    job.probe, subject, recipe=job.recipe, progress=progress, checkpoint=saver,
                    saved=_saved(job.folder) if saver is not None else None,
                )  # fmt: skip
        finally:
            loaded.check()
        result.save(job.folder, overwrite=True)


def _saved(folder: Path) -> Saved | None:
    """The run's checkpoint; one that can't be read is as good as none: the run begins anew."""
    if not (folder / CHECKPOINT).is_file():
        return None
    try:
        return read_checkpoint(folder)
    except RunError:
        return None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's lock, which the system takes back from a process that dies."""
    if fcntl is None:
        yield
        return
    place = folder.parent / ".locks" / folder.name
    hint = "--store with a folder that can be written and has room"
    with writing(f"write to {folder.parent}", hint):
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        if (folder / MARK).is_file():  # whoever still waits for it finds the run made
            place.unlink(missing_ok=True)
