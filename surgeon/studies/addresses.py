"""Addresses: a run is found by all that its result depends on. Builds no model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgeon.errors import ProbeError
from surgeon.files import atomic_write, json_text
from surgeon.imaging.files import find_images
from surgeon.recipe import ModelSpec, Recipe
from surgeon.recipe_file import checked_settings
from surgeon.registry import registry
from surgeon.runs.versions import versions
from surgeon.weights_files import local_file


@dataclass(frozen=True)
class Setup:
    """What a study's runs share.

    Attributes:
        device: "cpu", "cuda" ...
        dtype: "float32" ...
        threads: of torch in each process; results depend on how many, in their last bits.
    """

    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1


@dataclass
class Hashes:
    """SHA-256 of files, each read once while its size and time stay; and where tags' files are.

    Args:
        file: remembers them from one call to the next; None: only while this object lives.
    """

    file: Path | None = None
    known: dict[str, str] = field(default_factory=dict)
    changed: bool = False

    def __post_init__(self) -> None:
        if self.file is not None and self.file.is_file():
            try:
                self.known = json.loads(self.file.read_text(encoding="utf-8"))
            except ValueError:  # it is only a memory of what can be had again
                self.known = {}

    def of(self, path: Path) -> str:
        """Of a file's content."""
        stat = path.stat()
        key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        if key not in self.known:
            with path.open("rb") as file:
                self.known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            self.changed = True
        return self.known[key]

    def save(self) -> None:
        """Remember them in the file."""
        if self.file is not None and self.changed:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self.file, json_text(self.known))
            self.changed = False


def digest_of_run(recipe: Recipe, probe: str, setup: Setup, hashes: Hashes) -> str:
    """SHA-256, hexadecimal, of all that a run's result depends on.

    That is the recipe with this probe's settings, as written and with every default in place; the
    content of weights files, images and of files the settings name (a folder's: names, sizes and
    times); device, dtype and threads; the versions of Python, Surgeon, its plugin for the probe,
    torch, torchvision and timm. Weights of a library's own tag count by the tag.

    Raises:
        ModelError, WeightsError, ImageError, ProbeError: what the recipe names is not there.
    """
    return hashlib.sha256(_canonical(address(recipe, probe, setup, hashes)).encode()).hexdigest()


def address(recipe: Recipe, probe: str, setup: Setup, hashes: Hashes) -> dict[str, Any]:
    """What `digest_of_run` hashes, in words."""
    settings = checked_settings(probe, dict(recipe.probes.get(probe, {})))
    defaulted = settings.model_dump(mode="json")
    alone = recipe.updated(probes={probe: dict(recipe.probes.get(probe, {}))})
    models = {"": recipe.model, **recipe.donors}
    return {
        "recipe": alone.to_dict(),
        "probe": probe,
        "settings": defaulted,
        "weights": {name: _weights(spec, hashes) for name, spec in models.items() if spec},
        "images": _images(recipe.input.image, hashes),
        "files": {text: found for text in _texts(defaulted) if (found := _named(text, hashes))},
        "setup": [setup.device, setup.dtype, setup.threads],
        "versions": versions(),
        "plugin": registry().find("probe", probe, ProbeError).distribution,
    }


def _weights(spec: ModelSpec, hashes: Hashes) -> str | None:
    """Of a file its content, of a library's own tag the tag.

    Raises:
        ModelError, WeightsError: no such model or tag.
    """
    file = local_file(spec.weights) or _packaged(spec, hashes)
    if file is None:
        return spec.weights
    return hashes.of(file) if file.is_file() else "missing"


def _packaged(spec: ModelSpec, hashes: Hashes) -> Path | None:
    """The file of a tag, of a source that has its own; remembered, as a source is slow to import.

    What is remembered holds for these versions, and while that file is there.
    """
    kind = spec.name.partition("/")[0]
    entry = registry().entries["source"].get(kind)
    of = entry.distribution if entry is not None else ""
    key = f"{spec.label} of {of} under {_canonical(versions())}"
    known = hashes.known.get(key)
    if known is None or (known and not Path(known).is_file()):
        found = _file_of_tag(spec)
        known = hashes.known[key] = str(found) if found is not None else ""
        hashes.changed = True
    return Path(known) if known else None


def _file_of_tag(spec: ModelSpec) -> Path | None:
    from surgeon.sources import resolve

    found = resolve(ModelSpec(spec.name, spec.weights))
    tell = getattr(found.source, "weights_file", None)
    return None if tell is None or spec.weights is None else Path(tell(found.name, spec.weights))


def _images(image: str | None, hashes: Hashes) -> list[list[str]]:
    return [[path.name, hashes.of(path)] for path in find_images(image)] if image else []


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, (dict, list)):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _texts(item)


def _named(text: str, hashes: Hashes) -> Any:
    """The content of what a setting names: a file, a packaged image or data set, a folder."""
    if text.startswith("surgeon:"):
        name = text.removeprefix("surgeon:")
        entry = registry().entries["image"].get(name)
        return hashes.of(Path(entry.target)) if entry is not None else None
    if "/" not in text and "." not in text:
        return None
    path = Path(text)
    if path.is_dir():
        return sorted(_listed(path))
    return hashes.of(path) if path.is_file() else None


def _listed(folder: Path) -> Iterator[list[Any]]:
    for root, _, names in os.walk(folder):
        for name in names:
            file = Path(root) / name
            stat = file.stat()
            yield [file.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
