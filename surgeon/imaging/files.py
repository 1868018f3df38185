"""Which files an image setting means. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from surgeon.errors import ImageError, nearest
from surgeon.registry import registry

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def find_images(image: str) -> list[Path]:
    """The files an image setting means: a file, a folder's images by name, or "surgeon:NAME".

    Raises:
        ImageError: there are none; the nearest names are given.
    """
    if image.startswith("surgeon:"):
        entry = registry().find("image", image.removeprefix("surgeon:"), ImageError)
        return [Path(entry.target)]
    path = Path(image)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            raise ImageError(f"images in {image}", "none in this folder", ", ".join(SUFFIXES))
        return found
    if not path.exists():
        near = (p.name for p in path.parent.glob("*") if p.suffix.lower() in SUFFIXES)
        packaged = (f"surgeon:{e.name}" for e in registry().all("image"))
        raise ImageError(f"image {image}", "no such file", nearest(path.name, [*near, *packaged]))
    return [path]
