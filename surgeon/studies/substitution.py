"""`${axis}` and `${axis.field}` in the values of a recipe, replaced by a cell's own values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from surgeon.errors import StudyError, nearest
from surgeon.toml_lines import Key, key_text

_HOLE = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_WHOLE = re.compile(r"\$\{([^{}]*)\}")


def substituted(
    tree: Any, values: Mapping[str, Any], where: Callable[[Key], str] | None = None
) -> Any:
    """A tree of tables, lists and scalars with every `${...}` in its values replaced.

    A text that is one `${...}` and nothing else becomes the value with its type; in a list, a value
    that is a list is spliced in. Within a longer text the value's own text is put. A value's own
    `${...}` are replaced too. `$${` is a plain `${`.

    Args:
        tree: as TOML gives it; left as it is.
        values: axis -> value; a table's fields are `${axis.field}`.
        where: says where in a file a key of the tree stands, for errors.

    Raises:
        StudyError: no such axis or field, a table or list within a longer text, or a value that
            holds itself.

    >>> substituted({"site": "blocks[${k}]", "steps": "${k}"}, {"k": 3})
    {'site': 'blocks[3]', 'steps': 3}
    >>> substituted(["${ops}", "c"], {"ops": ["a", "b"]})
    ['a', 'b', 'c']
    """
    return _Substitution(values, where).of(tree, (), ())


@dataclass(frozen=True)
class _Substitution:
    """Replaces under one cell's values; `within`: the axes whose values are being put."""

    values: Mapping[str, Any]
    where: Callable[[Key], str] | None

    def of(self, node: Any, key: Key, within: tuple[str, ...]) -> Any:
        if isinstance(node, dict):
            return {name: self.of(item, (*key, name), within) for name, item in node.items()}
        if isinstance(node, list):
            return self._list(node, key, within)
        if isinstance(node, str):
            return self._text(node, key, within)
        return node

    def _list(self, items: list[Any], key: Key, within: tuple[str, ...]) -> list[Any]:
        made: list[Any] = []
        for i, item in enumerate(items):
            value = self.of(item, (*key, i), within)
            spliced = isinstance(item, str) and isinstance(value, list)
            made += value if spliced else [value]
        return made

    def _text(self, text: str, key: Key, within: tuple[str, ...]) -> Any:
        whole = _WHOLE.fullmatch(text)
        if whole is not None:
            return self._value(whole[1], key, within)

        def put(found: re.Match[str]) -> str:
            if found[1] is None:
                return "${"
            value = self._value(found[1], key, within)
            if isinstance(value, (dict, list)):
                kind = "table" if isinstance(value, dict) else "list"
                hint = f'"{found[0]}" alone, or one of its fields as ${{{found[1]}.field}}'
                raise StudyError(self._asked(text, key), f"{found[0]} is a {kind}", hint)
            return scalar_text(value)

        return _HOLE.sub(put, text)

    def _value(self, name: str, key: Key, within: tuple[str, ...]) -> Any:
        axis, *fields = name.strip().split(".")
        asked = self._asked(f"${{{name}}}", key)
        if axis in within:
            raise StudyError(asked, f"the value of {axis} holds itself", "a value without it")
        if axis not in self.values:
            hint = nearest(axis, self.values) or "an [axes] table"
            raise StudyError(asked, f'no axis "{axis}"', hint)
        found = self.values[axis]
        for field in fields:
            if not isinstance(found, dict) or field not in found:
                known = list(found) if isinstance(found, dict) else []
                told = f'has no field "{field}"' if known else "is no table"
                hint = nearest(field, known) or f"${{{axis}}}"
                raise StudyError(asked, f"this value of {axis} {told}", hint)
            found = found[field]
        return self.of(found, key, (*within, axis))

    def _asked(self, text: str, key: Key) -> str:
        place = f" ({self.where(key)})" if self.where else ""
        return f'"{text}" in {key_text(key) or "recipe"}{place}'


def scalar_text(value: Any) -> str:
    """A scalar as TOML writes it, texts without their quotes.

    >>> scalar_text(True), scalar_text(0.5), scalar_text("a")
    ('true', '0.5', 'a')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
