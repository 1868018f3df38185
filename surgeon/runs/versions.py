"""Versions of what a result depends on. Needs no torch."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version


@cache
def versions() -> dict[str, str]:
    """Of Python, Surgeon and the libraries of models."""
    return {
        "python": platform.python_version(),
        "surgeon": version("model-surgeon"),
        **{name: version(name) for name in ("torch", "torchvision", "timm")},
    }
