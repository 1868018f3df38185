"""Checkpoints: a run that was interrupted or killed goes on from its last one."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from surgeon.errors import RunError
from surgeon.files import atomic_write, writing
from surgeon.probe import State

NAME = "checkpoint.safetensors"
#: Of a run's time, checkpoints may take this; 1 % is for one that takes longer than the last did.
_SHARE = 0.007
#: The first one waits so long: a run that is shorter is as soon made again.
_FIRST_SECONDS = 1.0


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        about: how the run was asked for: recipe, probe, settings, device, dtype, directory.
        state: of the probe, complete.
        log: lines for `metrics.jsonl` so far.
    """

    about: dict[str, Any]
    state: State
    log: list[dict[str, Any]] = field(default_factory=list)


class Checkpointer:
    """Saves a probe's state into a run folder now and then, at under 1 % of the run's time.

    Args:
        folder: of the run; made when first needed.
        about: see `Saved`.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder.resolve(), about
        self._began, self._spent = time.monotonic(), 0.0
        self._due = self._began + _FIRST_SECONDS

    def after_step(self, state: State, log: list[dict[str, Any]]) -> None:
        """Save, if it is time."""
        if time.monotonic() >= self._due:
            self.write(state, log)

    def write(self, state: State, log: list[dict[str, Any]]) -> None:
        """Save now, whole or not at all.

        Raises:
            RunError: the folder can't be written.
        """
        began = time.monotonic()
        hint = "--out with a folder that can be written and has room"
        with writing(f"save a checkpoint in {self.folder}", hint):
            self.folder.mkdir(parents=True, exist_ok=True)
            content = _encoded(Saved(self.about, state, log))
            atomic_write(self.folder / NAME, content, durable=True)
        took = time.monotonic() - began
        self._spent += took
        self._due = self._began + (self._spent + took) / _SHARE


def read_checkpoint(folder: Path) -> Saved:
    """The checkpoint of a run that has not ended.

    Raises:
        RunError: there is none, or it can't be read.
    """
    path = folder / NAME
    if not path.is_file():
        ended = (folder / "run.json").exists()
        raise RunError(
            f"resume {folder}",
            "the run has ended" if ended else f"there is no {NAME}",
            "surgeon apply with its recipe.toml, to run it again" if ended else "a run's folder",
        )
    try:
        with safe_open(path, framework="pt") as handle:
            text = json.loads(handle.metadata()["surgeon"])
            tensors = {
                name: handle.get_tensor(name).to(device) for name, device in text["devices"].items()
            }
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as cause:
        raise RunError(
            f"resume {folder}", f"{NAME} can't be read: {cause}", "run the recipe again"
        ) from None
    return Saved(text["about"], {**text["scalars"], **tensors}, text["log"])


def _encoded(saved: Saved) -> bytes:
    tensors = {k: v for k, v in saved.state.items() if isinstance(v, Tensor)}
    text = {
        "about": saved.about,
        "scalars": {k: v for k, v in saved.state.items() if k not in tensors},
        "devices": {name: str(tensor.device) for name, tensor in tensors.items()},
        "log": saved.log,
    }
    # Copies: tensors of a state may share memory, which the format refuses.
    plain = {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}
    content: bytes = save(plain, metadata={"surgeon": json.dumps(text)})
    return content
