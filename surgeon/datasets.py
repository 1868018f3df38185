"""Labelled images, read a batch at a time: packaged, in folders by class, or torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from surgeon.errors import ImageError, nearest
from surgeon.imaging.files import SUFFIXES
from surgeon.imaging.photos import fitted_pixels, load_photo
from surgeon.labels import Labels, class_index
from surgeon.preprocessing import Preprocessing
from surgeon.registry import registry


class Dataset(Protocol):
    """Labelled images in a fixed order.

    Attributes:
        name: for labels and records.
        classes: names by index; empty where the model's own names hold.
    """

    name: str
    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
        """Images start to stop (exclusive).

        Returns:
            Pixels (batch, channels, height, width), float32 in [0, 1], not normalised, fitted to
            the preprocessing's input size; labels (batch,), int64.
        """


@dataclass(frozen=True)
class ArrayDataset:
    """Images in memory.

    Attributes:
        images: (count, channels, height, width), uint8, 1 or 3 channels.
        labels: (count,), int64.
    """

    name: str
    images: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, start: int, stop: int, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
        chosen = self.images[start:stop]
        labels = torch.from_numpy(self.labels[start:stop].copy())
        if chosen.shape[1:] == tuple(preprocessing.input_size):
            return torch.from_numpy(chosen.astype(np.float32) / 255), labels
        return torch.cat([fitted_pixels(_picture(x), preprocessing)[0] for x in chosen]), labels


def _picture(array: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, 2))


class FolderDataset:
    """A folder with a folder of images for each class, called by index, name or synset.

    Args:
        labels: of the model, to tell a class's index from its name.

    Raises:
        ImageError: there are no images in folders.
        ProbeError: a folder is called like no class.
    """

    def __init__(self, folder: Path, labels: Labels) -> None:
        self.name = folder.name
        self.classes: tuple[str, ...] = ()  # the model's own names hold
        self.files: list[tuple[Path, int]] = []
        for place in sorted(p for p in folder.iterdir() if p.is_dir()):
            images = sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES)
            if images:
                index = class_index(place.name.replace("_", " "), labels)
                self.files += [(path, index) for path in images]
        if not self.files:
            raise ImageError(
                f"labelled images in {folder}",
                "no folders with images in it",
                "a folder for each class, called by its index or name",
            )

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, start: int, stop: int, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
        chosen = self.files[start:stop]
        pixels = [load_photo(path, preprocessing).pixels for path, _ in chosen]
        return torch.cat(pixels), torch.tensor([index for _, index in chosen])


class TorchvisionDataset:
    """A dataset of torchvision's that is on this machine, its test or validation part.

    Args:
        kind: class name in `torchvision.datasets`.
        root: where it lies; nothing is downloaded.
    """

    def __init__(self, kind: str, root: str) -> None:
        from torchvision import datasets

        cls = getattr(datasets, kind, None)
        if cls is None:
            known = [n for n in datasets.__all__ if n[0].isupper()]
            raise ImageError(f"dataset torchvision:{kind}", "no such class", nearest(kind, known))
        self.name = kind
        self.data = _opened(cls, kind, root)
        self.classes = tuple(str(name) for name in getattr(self.data, "classes", ()))

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, start: int, stop: int, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
        pairs = [self.data[i] for i in range(start, min(stop, len(self)))]
        pixels = [fitted_pixels(image, preprocessing)[0] for image, _ in pairs]
        return torch.cat(pixels), torch.tensor([int(label) for _, label in pairs])


def _opened(cls: Any, kind: str, root: str) -> Any:
    """Its test part, by whichever argument its constructor has for that."""
    accepted = signature(cls).parameters
    choices: Sequence[dict[str, Any]] = [{"train": False}] if "train" in accepted else [{}]
    if "split" in accepted:
        choices = [{"split": name} for name in ("test", "val", "valid")]
    reason = ""
    for choice in choices:
        try:
            return cls(root, **choice)
        except (RuntimeError, ValueError, OSError) as cause:
            reason = reason or str(cause).strip().partition("\n")[0]
    raise ImageError(
        f"dataset torchvision:{kind} in {root}",
        reason,
        f"torchvision.datasets.{kind}(root, download=True), on a machine with a network",
    )


def open_dataset(text: str, labels: Labels) -> Dataset:
    """The dataset a setting means.

    Args:
        text: "surgeon:NAME" for a packaged one, "torchvision:NAME:FOLDER", or a folder.
        labels: of the model.

    Raises:
        ImageError: there is none; what there is, is named.
    """
    kind, _, rest = text.partition(":")
    if kind == "surgeon" and rest:
        dataset: Dataset = registry().find("dataset", rest, ImageError).load()()
        return dataset
    if kind == "torchvision" and rest:
        name, _, root = rest.partition(":")
        return TorchvisionDataset(name, root or ".")
    folder = Path(text)
    if not folder.is_dir():
        packaged = ", ".join(f"surgeon:{entry.name}" for entry in registry().all("dataset"))
        raise ImageError(f"labelled images {text}", "no such folder", f"a folder, or {packaged}")
    return FolderDataset(folder, labels)
