"""Files written whole or not at all, and JSON that any reader takes."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surgeon.errors import RunError


def atomic_write(path: Path, content: bytes | str, *, durable: bool = False) -> None:
    """Write a file under a temporary name, then rename it; on failure nothing of it stays.

    Args:
        content: text goes out as UTF-8.
        durable: wait until it is on the disk, so that a power failure leaves the old file or this.

    Raises:
        OSError: as the system says.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        if durable:
            settle(partial)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


@contextlib.contextmanager
def writing(asked: str, hint: str) -> Iterator[None]:
    """Within it what the system says of a file that can't be written becomes an error of ours.

    Args:
        asked, hint: its first line and its last.

    Raises:
        RunError: in place of an OSError.
    """
    try:
        yield
    except OSError as cause:
        raise RunError(asked, cause.strerror or str(cause), hint) from None


def settle(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON, with null for numbers that JSON has no words for.

    >>> json_text({"psnr": float("inf"), "ssim": 1.0})
    '{"psnr": null, "ssim": 1.0}'
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
