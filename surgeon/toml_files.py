"""Files of TOML: reading them, overriding their keys, and errors that say file, line and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from surgeon.errors import RecipeError, SurgeonError, nearest
from surgeon.registry import registry
from surgeon.toml_lines import Key, key_text, line_of


def packaged_text(path: str, kind: str, error: type[SurgeonError] = RecipeError) -> str:
    """The text of a TOML file, or of a packaged one as "surgeon:NAME".

    Args:
        kind: what it is: "recipe" or "study".

    Raises:
        error: it can't be read; the nearest names are given.
    """
    if path.startswith("surgeon:"):
        file = Path(registry().find(kind, path.removeprefix("surgeon:"), error).target)
    else:
        file = Path(path)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        reason = getattr(cause, "strerror", None) or "not UTF-8 text"
        here = [p.name for p in file.parent.glob("*.toml")] if file.parent.is_dir() else []
        plural = {"study": "studies"}.get(kind, f"{kind}s")
        hint = nearest(file.name, here) if here else f"surgeon {plural} lists the packaged ones"
        raise error(f"{kind} {path}", reason, hint) from None


def parse_toml(text: str, source: str, error: type[SurgeonError] = RecipeError) -> dict[str, Any]:
    """TOML's tables.

    Raises:
        error: it is none.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as cause:
        raise error(f"read {source}", f"no TOML: {cause}", _mend(text, str(cause))) from None


def _mend(text: str, cause: str) -> str:
    """What to try where the parser stopped."""
    if "Invalid value" in cause:
        return "quote strings"
    place = re.search(r"at line (\d+)", cause)
    line = text.splitlines()[int(place[1]) - 1].strip() if place else ""
    return f"mend this line: {line}" if line else "mend the end of the file"


class Where:
    """Turns keys into "file, line", or the override that set them.

    Args:
        prefix: the table of the file that keys are relative to.
    """

    def __init__(
        self, source: str, text: str, overrides: Iterable[str] = (), prefix: Key = ()
    ) -> None:
        self.source, self.text, self.prefix = source, text, prefix
        self.overrides = {o.partition("=")[0].strip(): o for o in overrides}

    def within(self, *keys: str | int) -> Where:
        """The same for keys relative to a table of the file."""
        inner = Where(self.source, self.text, prefix=(*self.prefix, *keys))
        inner.overrides = self.overrides
        return inner

    def __call__(self, key: Key) -> str:
        key = (*self.prefix, *key)
        if key_text(key) in self.overrides:
            return f"--set {self.overrides[key_text(key)]}"
        line = line_of(self.text, key)
        return f"{self.source}, line {line}" if line else self.source


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set one key of a nested table from "a.b.c=VALUE"; VALUE as in TOML, else a string.

    Raises:
        RecipeError: no "=", or a key that runs through something that is no table.
    """
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {override}", 'no "="', "--set probes.invert.steps=200")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *path, last = key.strip().split(".")
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override}", f'"{part}" is no table', "a key of a table")
    table[last] = parsed


def settings_error(
    cause: ValidationError,
    key: Key,
    where: Where | None,
    known: Iterable[str],
    error_class: type[SurgeonError] = RecipeError,
) -> SurgeonError:
    """The first thing wrong, in three lines; an unknown key before what it left missing."""
    error = min(cause.errors(), key=lambda e: e["type"] not in _UNKNOWN)
    # Unions report the member they tried as part of the path; keys of the file are what counts.
    path = tuple(p for p in error["loc"] if not (isinstance(p, str) and _internal(p)))
    full = (*key, *path)
    place = f" ({where(full)})" if where else ""
    if error["type"] in _UNKNOWN:
        hint = nearest(str(path[-1]), known)
        return error_class(f"{key_text(full)}{place}", "no such key", hint)
    if error["type"] in ("missing", "missing_argument"):
        return error_class(f"{key_text(full)}{place}", "it is missing", f"{path[-1]} = ...")
    found = error["msg"][0].lower() + error["msg"][1:] + f", not {error['input']!r}"
    choices = error.get("ctx", {}).get("expected")
    return error_class(
        f"{key_text(full)}{place}", found, str(choices or "see surgeon schema for what it takes")
    )


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _internal(part: str) -> bool:
    return part in ("str", "constrained-str", "int", "ModelSpec", "InputSpec") or part.startswith(
        ("tuple[", "function-")
    )
