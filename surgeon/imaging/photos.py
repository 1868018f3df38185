"""Photos in: files to tensors as a model wants them, and what was changed on the way."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from surgeon.errors import ImageError
from surgeon.imaging.files import find_images
from surgeon.preprocessing import Preprocessing

MOST_PIXELS = 100_000_000

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class Photo:
    """An image ready for a model.

    Attributes:
        name: for labels and file names.
        pixels: (1, channels, height, width), float32 in [0, 1], not normalised.
        sha256: of the file's bytes, or of the tensor's if it came from no file.
        notes: what was changed: "grey to RGB", "transparency flattened on white".
        path: of the file, empty if it came from none; for probes that want it at another size.
    """

    name: str
    pixels: Tensor
    sha256: str
    notes: tuple[str, ...] = ()
    path: str = ""


def load_photos(images: str | Iterable[str], preprocessing: Preprocessing) -> list[Photo]:
    """Every photo an image setting, or each of several, means; each with a name of its own.

    A name is the file's without its suffix; where two are alike with it, and where that is alike
    too (files of two folders), with a number.
    """
    settings = [images] if isinstance(images, str) else list(images)
    files = [path for image in settings for path in find_images(image)]
    names = _told_apart([f.stem for f in files], [f.name for f in files])
    names = _told_apart(names, [f"{name} ({i})" for i, name in enumerate(names, 1)])
    return [
        replace(load_photo(f, preprocessing), name=name)
        for f, name in zip(files, names, strict=True)
    ]


def _told_apart(names: list[str], longer: list[str]) -> list[str]:
    """Names, the longer ones in place of any that occur twice."""
    counts = Counter(names)
    return [full if counts[n] > 1 else n for n, full in zip(names, longer, strict=True)]


def load_photo(path: str | Path, preprocessing: Preprocessing) -> Photo:
    """Read, convert, resize the shorter side and crop the centre.

    Args:
        path: an image file of any size and mode.
        preprocessing: whose input size, channels and interpolation to use.

    Returns:
        The photo in [0, 1], not normalised.

    Raises:
        ImageError: missing, corrupt, or beyond 100 million pixels.
    """
    file = Path(path)
    try:
        raw = file.read_bytes()
        image = _decode(file)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as cause:
        reason = str(cause).strip() or type(cause).__name__
        raise ImageError(
            f"image {path}", f"can't be read: {reason}", "an intact PNG, JPEG or WebP file"
        ) from None
    pixels, notes = fitted_pixels(image, preprocessing, str(path))
    return Photo(file.stem, pixels, hashlib.sha256(raw).hexdigest(), tuple(notes), str(file))


def fitted_pixels(
    image: Image.Image, preprocessing: Preprocessing, name: str = "image"
) -> tuple[Tensor, list[str]]:
    """A decoded image as a model wants it, and what was changed.

    Args:
        name: for the error.

    Returns:
        (1, channels, height, width), float32 in [0, 1], not normalised.

    Raises:
        ImageError: the model takes neither grey nor RGB.
    """
    channels = preprocessing.input_size[0]
    if channels not in (1, 3):
        raise ImageError(
            f"image {name} for a model of {channels} channels",
            "photos have 1 or 3 channels",
            "give a tensor instead, in Python",
        )
    converted, notes = _convert(image, channels)
    array = np.asarray(_fit(converted, preprocessing), dtype=np.float32) / 255
    pixels = torch.from_numpy(array.reshape(array.shape[0], array.shape[1], channels).copy())
    return pixels.permute(2, 0, 1)[None].contiguous(), notes


def photo_of(pixels: Tensor, name: str = "image") -> Photo:
    """A photo of a tensor (1, channels, height, width) or (channels, height, width) in [0, 1]."""
    batch = pixels.detach().to("cpu", torch.float32)
    batch = batch if batch.ndim == 4 else batch[None]
    return Photo(name, batch, hashlib.sha256(batch.numpy().tobytes()).hexdigest())


def _decode(file: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(file) as image:
                pixels = image.width * image.height
                if pixels > MOST_PIXELS:
                    raise ValueError(f"{pixels:,} pixels; at most {MOST_PIXELS:,} are read")
                image.load()
                return ImageOps.exif_transpose(image)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _convert(image: Image.Image, channels: int) -> tuple[Image.Image, list[str]]:
    notes, mode = [], "L" if channels == 1 else "RGB"
    if image.mode != mode:
        notes.append(f"{image.mode} to {mode}")
    if image.mode in ("I", "I;16", "I;16B", "F"):  # 16-bit grey: PIL would clip, not scale
        array = np.asarray(image, dtype=np.float64)
        top = 65535 if array.max(initial=0) > 255 else 255
        image = Image.fromarray((array / top * 255).round().clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").histogram()[255] < rgba.width * rgba.height:
            notes.append("transparency flattened on white")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert(mode), notes


def _fit(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    _, height, width = preprocessing.input_size
    shorter = max(preprocessing.resize, 1) if preprocessing.resize else min(height, width)
    scale = max(shorter / min(image.size), height / image.height, width / image.width)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    resampling = _RESAMPLING.get(preprocessing.interpolation, Image.Resampling.BICUBIC)
    image = image.resize(size, resampling)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))
