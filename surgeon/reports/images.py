"""Images for a page: each once, as small as it can be without a reader seeing it."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]

#: Up to this many pixels high and wide an image is kept as it is, and drawn with sharp pixels.
SMALL = 96
#: What the images of a page may take, in bytes; each run has an equal part of it.
ROOM = 18_000_000
#: (most pixels high or wide, quality): the first that a run has room for, else the last.
SHOWN = ((320, 84), (224, 78), (160, 70), (112, 60))
SNAPSHOTS = ((160, 70), (112, 60), (80, 50))
DRAWN = ((1400, 80), (960, 75), (640, 70))


def as_pixels(array: Array) -> Array:
    """An image's values as uint8: (height, width), or (height, width, 3).

    Args:
        array: (1, channels, height, width) or (channels, height, width), in [0, 1] or uint8; what
            is no number is black. Of other than three channels the first is shown.
    """
    x = array[0] if array.ndim == 4 else array
    if x.dtype != np.uint8:
        scaled = x * np.float32(255) + np.float32(0.5)
        scaled = scaled.clip(0, 255, out=scaled)
        x = (np.nan_to_num(scaled) if np.isnan(scaled.min()) else scaled).astype(np.uint8)
    return np.ascontiguousarray(x.transpose(1, 2, 0) if x.shape[0] == 3 else x[0])


class Album:
    """The images of a page, each kept once.

    Args:
        runs: how many runs share the room.

    Attributes:
        pictures: (data URI, width, height, whether it is small) of each, by its number.
    """

    def __init__(self, runs: int = 1) -> None:
        self.pictures: list[tuple[str, int, int, bool]] = []
        self.room = ROOM / max(runs, 1) / 2
        self._known: dict[str, int] = {}

    def add(
        self, images: Mapping[str, Array], tiers: Sequence[tuple[int, int]] = SHOWN
    ) -> dict[str, int]:
        """The numbers of a run's images.

        Args:
            images: (height, width) or (height, width, 3), uint8.
        """
        pictures = {name: Image.fromarray(pixels) for name, pixels in images.items()}
        encoded = _within(pictures.values(), tiers, self.room)
        return {
            name: self._kept(uri, picture)
            for (name, picture), uri in zip(pictures.items(), encoded, strict=True)
        }

    def add_file(self, path: Path) -> int | None:
        """The number of a picture with labels on it, None if it can't be read."""
        try:
            with Image.open(path) as picture:
                drawn = picture.convert("RGB")
        except OSError:
            return None
        (uri,) = _within([drawn], DRAWN, self.room)
        return self._kept(uri, drawn)

    def _kept(self, uri: str, picture: Image.Image) -> int:
        key = hashlib.sha256(uri.encode()).hexdigest()
        if key not in self._known:
            self._known[key] = len(self.pictures)
            small = max(picture.size) <= SMALL
            self.pictures.append((uri, *picture.size, small))
        return self._known[key]


def _within(
    pictures: Iterable[Image.Image], tiers: Sequence[tuple[int, int]], room: float
) -> list[str]:
    """Pictures as data URIs, in the best quality that there is room for."""
    listed = list(pictures)
    uris: list[str] = []
    for most, quality in tiers:
        uris = [_uri(picture, most, quality, tiers is DRAWN) for picture in listed]
        if sum(map(len, uris)) <= room:
            break
    return uris


def _uri(picture: Image.Image, most: int, quality: int, drawn: bool) -> str:
    """Exactly (PNG) where it is small; else as JPEG, or of lines and letters as WebP."""
    content = io.BytesIO()
    if max(picture.size) <= SMALL:
        kind = "png"
        picture.save(content, "PNG")
    else:
        kind = "webp" if drawn else "jpeg"
        smaller = picture.copy()
        smaller.thumbnail((most, most), Image.Resampling.BILINEAR)
        smaller.save(content, kind.upper(), quality=quality, **({"method": 0} if drawn else {}))
    return f"data:image/{kind};base64," + base64.b64encode(content.getvalue()).decode()
