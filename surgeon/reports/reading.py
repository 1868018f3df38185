"""Folders of runs and studies, as a report reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from surgeon.errors import RunError, nearest
from surgeon.registry import in_order
from surgeon.reports.images import Array, as_pixels

RUN, STUDY, UNFINISHED = "run.json", "study.json", "checkpoint.safetensors"
#: What of a run's tensors is an image to look at, by the start of its name.
_SHOWN = ("image/", "target/", "start/", "photo/", "snapshot/")


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Attributes:
        record: `run.json`.
        recipe: its TOML text, empty where there is none.
        log: the lines of `metrics.jsonl`.
    """

    folder: Path
    record: dict[str, Any]
    recipe: str
    log: Sequence[dict[str, Any]]

    @property
    def probe(self) -> str:
        return str(self.record.get("probe", "run"))

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """Site -> name -> number or short text."""
        found = self.record.get("figures")
        return {str(k): v for k, v in found.items() if isinstance(v, dict)} if found else {}

    def images(self) -> dict[str, Array]:
        """Name -> (height, width) or (height, width, 3), uint8.

        Raises:
            RunError: `result.safetensors` can't be read.
        """
        path = self.folder / "result.safetensors"
        if not path.exists():
            return {}
        try:
            return {name: as_pixels(array) for name, array in _tensors(path).items()}
        except (SafetensorError, OSError, ValueError) as cause:
            raise RunError(
                f"report {self.folder}", f"{path.name} can't be read: {cause}", "repeat the run"
            ) from None


def _tensors(path: Path) -> dict[str, Array]:
    found = {}
    with safe_open(path, framework="np") as handle:
        names = [name for name in handle.keys() if name.startswith(_SHOWN)]  # noqa: SIM118
        odd = {name for name in names if handle.get_slice(name).get_dtype() == "BF16"}
        found = {name: handle.get_tensor(name) for name in names if name not in odd}
    if odd:  # which numpy has no type for
        with safe_open(path, framework="pt") as handle:
            found.update({name: handle.get_tensor(name).float().numpy() for name in odd})
    return {name: found[name] for name in names if found[name].ndim in (3, 4)}


def read_run(folder: Path) -> Run:
    """A run's folder, without its images.

    Raises:
        RunError: it holds no run, or one that can't be read.
    """
    record = _json(folder, RUN)
    recipe, log = folder / "recipe.toml", folder / "metrics.jsonl"
    try:
        text = recipe.read_text(encoding="utf-8") if recipe.exists() else ""
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as cause:
        raise RunError(f"report {folder}", f"a file can't be read: {cause}", "repeat it") from None
    return Run(folder, record, text, [row for row in rows if isinstance(row, dict)])


def read_study(folder: Path) -> dict[str, Any]:
    """A study's `study.json`.

    Raises:
        RunError: there is none, or it can't be read.
    """
    return _json(folder, STUDY)


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _no_run(folder) from None
    except (OSError, ValueError) as cause:
        raise RunError(f"report {folder}", f"{name} can't be read: {cause}", "repeat it") from None
    if not isinstance(found, dict):
        raise RunError(f"report {folder}", f"{name} holds no table", "repeat it")
    return found


def find_folders(folders: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Which folders are studies' and which runs'; of a folder of such folders, those in it.

    Raises:
        RunError: a folder is neither, or a run in it has not ended.
    """
    studies: list[Path] = []
    runs: list[Path] = []
    for folder in folders:
        inside = list(folder.iterdir()) if folder.is_dir() else []
        inside.sort(key=lambda place: in_order(place.name))
        kept = [folder] if _kind(folder) else [p for p in inside if p.is_dir() and _kind(p)]
        if not kept:
            raise _no_run(folder)
        for place in kept:
            (studies if _kind(place) == STUDY else runs).append(place)
    return list(dict.fromkeys(studies)), list(dict.fromkeys(runs))


def _kind(folder: Path) -> str:
    """The file that says what a folder holds; empty if it is neither a study's nor a run's."""
    return next((name for name in (STUDY, RUN) if (folder / name).is_file()), "")


def _no_run(folder: Path) -> RunError:
    asked = f"report {folder}"
    if (folder / UNFINISHED).exists():
        return RunError(asked, "the run in it has not ended", f"surgeon resume {folder}")
    if folder.exists() and not folder.is_dir():
        return RunError(asked, "it is a file", "the folder that it is in")
    if folder.is_dir():
        return RunError(asked, f"it holds neither {RUN} nor {STUDY}", "the folder of a run")
    here = sorted(p.name for p in folder.parent.glob("*/")) if folder.parent.is_dir() else []
    return RunError(asked, "no such folder", nearest(folder.name, here) or "the folder of a run")
