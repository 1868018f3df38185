"""Which line of a TOML text a key stands on; the standard parser doesn't say."""

from __future__ import annotations

import re
import tomllib
from typing import Any

Key = tuple[str | int, ...]

_HEADER = re.compile(r"\s*(\[\[?)([^\[\]]+)\]\]?\s*(?:#.*)?$")
_PAIR = re.compile(
    r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*="
)


def key_lines(text: str) -> dict[Key, int]:
    """The line, from 1, of each table header and each key; items of arrays of tables by number.

    >>> key_lines('[[operations]]\\nsite = "stem"')[("operations", 0, "site")]
    2
    """
    lines: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    here: Key = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            path: Key = tuple(_parts(header[2]))
            if header[1] == "[[":
                counts[path] = counts.get(path, -1) + 1
                path = (*path, counts[path])
            here = path
            lines.setdefault(here, number)
        elif pair := _PAIR.match(line):
            lines.setdefault((*here, *_parts(pair[1])), number)
    return lines


def line_of(text: str, key: Key) -> int | None:
    """The line of a key, or of the nearest table around it."""
    lines = key_lines(text)
    while key:
        for found in (key, (*key, 0)):  # an array of tables is where its first one is
            if found in lines:
                return lines[found]
        key = key[:-1]
    return None


def key_text(key: Key) -> str:
    """`operations[2].site`, as errors and `--set` write keys."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _parts(dotted: str) -> list[str]:
    table: Any = tomllib.loads(f"{dotted.strip()} = 0")
    parts = []
    while isinstance(table, dict):
        (part,) = table
        parts.append(part)
        table = table[part]
    return parts
