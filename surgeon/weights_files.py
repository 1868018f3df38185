"""Whether weights are a local file or a library's own tag. Needs no torch."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".safetensors", ".pth")


def local_file(weights: str | None) -> Path | None:
    """The local file that weights are, if they are one."""
    if weights is None:
        return None
    path = Path(weights)
    looks_like_file = path.suffix in SUFFIXES or "/" in weights or path.exists()
    return path if looks_like_file else None
