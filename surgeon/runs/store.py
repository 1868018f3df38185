"""Run folders: what a run leaves behind, each file written whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save

from surgeon.errors import RunError
from surgeon.files import atomic_write, json_text, settle, writing
from surgeon.registry import registry
from surgeon.runs.checkpoints import NAME as CHECKPOINT

if TYPE_CHECKING:
    from torch import Tensor

    from surgeon.probe import Result

#: A folder with this file in it holds a run.
MARK = "run.json"
_FILES = (
    MARK, CHECKPOINT, "recipe.toml", "metrics.jsonl", "result.safetensors", "timing.json",
    "report.html", "report.csv", "report.json",
)  # fmt: skip


def write_run(result: Result, folder: Path, *, overwrite: bool = False) -> Path:
    """Write a whole run folder; on failure nothing of it stays.

    Args:
        overwrite: replace a run that is there.

    Returns:
        The folder.

    Raises:
        RunError: the folder holds a run or other files, or can't be written.
    """
    check_free(folder, overwrite, result.files)
    parent = folder.resolve().parent
    with _writing(folder):
        parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
        try:
            _write_files(result, partial)
            for path in partial.iterdir():
                settle(path)
            _commit(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _commit(partial: Path, folder: Path) -> None:
    """Put a whole run where it belongs.

    What is killed here leaves the folder with its checkpoint, to go on from, or with the run.
    """
    if not (folder / CHECKPOINT).exists():
        if folder.exists():
            shutil.rmtree(folder)
        partial.chmod(0o755)
        os.replace(partial, folder)
        return
    names = sorted((path.name for path in partial.iterdir()), key=lambda name: name == MARK)
    for name in names:
        os.replace(partial / name, folder / name)
    for path in folder.iterdir():
        if path.name not in (*names, CHECKPOINT):
            path.unlink()
    (folder / CHECKPOINT).unlink()


def clear_remains(folder: Path) -> None:
    """Remove what a killed process left of writing a run. No other may be writing it."""
    partial = re.compile(rf"\.{re.escape(folder.name)}-[a-z0-9_]{{8}}")
    for path in folder.parent.glob(f".{folder.name}-*"):
        if partial.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
    if folder.is_dir():
        for path in folder.glob(".*.partial"):
            path.unlink(missing_ok=True)


def check_free(folder: Path, overwrite: bool, own: Iterable[str] = ()) -> None:
    """See that a run may be written to a folder, before any work is done.

    Args:
        own: names of further files that the run to be written has.

    Raises:
        RunError: it holds a run or other files.
    """
    asked = f"write a run to {folder}"
    if folder.exists() and not folder.is_dir():
        raise RunError(asked, "it is a file", "another folder")
    names = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    if not names:
        return
    unended = CHECKPOINT in names
    if not unended and MARK not in names:
        raise RunError(asked, f"it holds files that are no run: {names[0]}", "an empty folder")
    strange = [name for name in names if name not in own and not _of_a_run(folder / name)]
    if strange:
        raise RunError(
            asked, f"beside a run it holds {', '.join(strange[:3])}", "another folder, or move them"
        )
    if unended and not overwrite:
        raise RunError(
            asked,
            "it holds a run that has not ended",
            f"surgeon resume {folder}, --overwrite, or another folder",
        )
    if not overwrite:
        raise RunError(asked, "it already holds a run", "--overwrite, or another folder")


def _of_a_run(path: Path) -> bool:
    """Whether a run wrote this: its fixed files, pictures of probes, what a crash left of them."""
    name = path.name.removeprefix(".").removesuffix(".partial")
    probes = registry().entries["probe"]
    picture = name.endswith(".png") and (name[:-4] in probes or _is_picture(path))
    return path.is_file() and (name in _FILES or picture)


def _is_picture(path: Path) -> bool:
    """Whether it is a picture that Surgeon drew, of a probe no longer here."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return str(image.info.get("Title", "")).startswith("surgeon ")
    except OSError:
        return False


def check_writable(folder: Path) -> None:
    """See that a folder could be made, by making and removing a file beside it.

    Raises:
        RunError: it could not.
    """
    parent = folder.resolve().parent
    while not parent.exists():
        parent = parent.parent
    with _writing(folder), tempfile.TemporaryFile(dir=parent):
        pass


def free_folder(wanted: Path) -> Path:
    """The folder, or the first of folder-2, folder-3 ... that holds no run."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _write_files(result: Result, folder: Path) -> None:
    from surgeon.runs.pictures import save_picture

    record = result.record
    recipe = record.get("recipe_toml")
    if recipe:
        atomic_write(folder / "recipe.toml", recipe)
    tensors = {**{f"image/{n}": t for n, t in result.images.items()}, **result.tensors}
    write_tensors(folder / "result.safetensors", tensors, str(record.get("recipe")))
    lines = "".join(json_text(line) + "\n" for line in result.log)
    atomic_write(folder / "metrics.jsonl", lines)
    write_json(folder / "timing.json", result.timing)
    for name, content in result.files.items():
        (folder / name).write_bytes(content)
    save_picture(result, folder / f"{result.probe}.png", str(record.get("recipe")))
    written = {k: v for k, v in record.items() if k != "recipe_toml"}
    body = {**written, "figures": result.figures, "tables": result.tables, "notes": result.notes}
    write_json(folder / MARK, body)
    _write_page(folder)


def _write_page(folder: Path) -> None:
    """The run's own page. The run is kept whatever becomes of it, and the failure is said."""
    from surgeon.reports import write_run_report

    try:
        write_run_report(folder)
    except OSError:
        raise
    except Exception as cause:  # a run of hours must not be lost to a page about it
        warnings.warn(f"no report.html: {cause!r}; please report this as a bug", stacklevel=2)


def write_json(path: Path, value: Any) -> None:
    atomic_write(path, json_text(value, indent=2) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], recipe: str) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        recipe: goes into the metadata, alone: safetensors writes several entries in any order, and
            the same tensors are to give the same bytes.
    """
    plain = {name: t.detach().cpu().contiguous() for name, t in sorted(tensors.items())}
    atomic_write(path, save(plain, metadata={"recipe": recipe}))


def _writing(folder: Path) -> AbstractContextManager[None]:
    hint = "--out with a folder that can be written and has room"
    return writing(f"write a run to {folder}", hint)
