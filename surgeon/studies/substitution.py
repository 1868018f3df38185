"""`${axis}` and `${axis.field}` in the values of a recipe, replaced by a cell's own values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from surgeon.errors import StudyError, nearest
from surgeon.toml_lines import Key, key_text

_HOLE = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_WHOLE = re.compile(r"\$\{([^{}]*)\}")


def substituted(tree: Any, values: Mapping[str, Any]) -> Any:
    """A tree of tables, lists and scalars with every `${...}` in its values replaced.

    A text that is one `${...}` and nothing else becomes the value with its type; in a list, a value
    that is a list is spliced in. Within a longer text the value's own text is put. A value's own
    `${...}` are replaced too. `$${` is a plain `${`.

    Args:
        tree: as TOML gives it; left as it is.
        values: axis -> value; a table's fields are `${axis.field}`.

    Raises:
        StudyError: no such axis or field, a table or list within a longer text, or a value that
            holds itself.

    >>> substituted({"site": "blocks[${k}]", "steps": "${k}"}, {"k": 3})
    {'site': 'blocks[3]', 'steps': 3}
    >>> substituted(["${ops}", "c"], {"ops": ["a", "b"]})
    ['a', 'b', 'c']
    """
    return _in(tree, values, (), ())


def _in(node: Any, values: Mapping[str, Any], key: Key, within: tuple[str, ...]) -> Any:
    if isinstance(node, dict):
        return {name: _in(item, values, (*key, name), within) for name, item in node.items()}
    if isinstance(node, list):
        return _list(node, values, key, within)
    if isinstance(node, str):
        return _text(node, values, key, within)
    return node


def _list(
    items: list[Any], values: Mapping[str, Any], key: Key, within: tuple[str, ...]
) -> list[Any]:
    made: list[Any] = []
    for i, item in enumerate(items):
        value = _in(item, values, (*key, i), within)
        spliced = isinstance(item, str) and isinstance(value, list)
        made += value if spliced else [value]
    return made


def _text(text: str, values: Mapping[str, Any], key: Key, within: tuple[str, ...]) -> Any:
    whole = _WHOLE.fullmatch(text)
    if whole is not None:
        return _value(whole[1], values, key, within)

    def put(found: re.Match[str]) -> str:
        if found[1] is None:
            return "${"
        value = _value(found[1], values, key, within)
        if isinstance(value, (dict, list)):
            raise StudyError(
                f'"{text}" in {key_text(key)}',
                f"{found[0]} is a {'table' if isinstance(value, dict) else 'list'}",
                f'"{found[0]}" alone, or one of its fields as ${{{found[1]}.field}}',
            )
        return scalar_text(value)

    return _HOLE.sub(put, text)


def _value(name: str, values: Mapping[str, Any], key: Key, within: tuple[str, ...]) -> Any:
    axis, *fields = name.strip().split(".")
    asked = f'"${{{name}}}" in {key_text(key)}'
    if axis in within:
        raise StudyError(asked, f"the value of {axis} holds itself", "a value without it")
    if axis not in values:
        raise StudyError(asked, f'no axis "{axis}"', nearest(axis, values) or "an [axes] table")
    found = values[axis]
    for field in fields:
        if not isinstance(found, dict) or field not in found:
            known = list(found) if isinstance(found, dict) else []
            here = f"this value of {axis}"
            raise StudyError(
                asked,
                f'{here} has no field "{field}"' if known else f"{here} is no table",
                nearest(field, known) or f"${{{axis}}}",
            )
        found = found[field]
    return _in(found, values, key, (*within, axis))


def scalar_text(value: Any) -> str:
    """A scalar as TOML writes it, texts without their quotes.

    >>> scalar_text(True), scalar_text(0.5), scalar_text("a")
    ('true', '0.5', 'a')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
