"""The selector language: roles with Python's indices, module paths, globs.

    selector := "path:" glob | role | path
    role     := single | blocks part? | "stages" index? ("." blocks part?)? | "residuals" index?
    single   := "stem" | "class_token" | "pos_embed" | "final_norm" | "head"
    blocks   := "blocks" index?
    part     := "." ("attention" | "mixer" | "mlp" | "sublayers" index? | "norm" j | "residual" j)
    index    := "[" (integer | slice | "*") "]"

Nothing here knows a model; `Anatomy.select` matches what is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from surgeon.errors import SelectionError, nearest

T = TypeVar("T")

_STEP = re.compile(r"([a-z_]+?)(\d*)(?:\[([^\[\]]*)\])?")
_STARTS = (
    "blocks",
    "stages",
    "residuals",
    "stem",
    "class_token",
    "pos_embed",
    "final_norm",
    "head",
)
_PARTS = ("attention", "mixer", "mlp", "sublayers", "norm", "residual", "blocks")
_INDEXED = ("blocks", "stages", "residuals", "sublayers")


@dataclass(frozen=True, slots=True)
class Index:
    """Which of several: one, or a slice."""

    one: int | None = None
    several: tuple[int | None, int | None, int | None] | None = None

    def of(self, items: Sequence[T]) -> list[T]:
        """The items meant, none where the number lies outside."""
        if self.one is not None:
            inside = -len(items) <= self.one < len(items)
            return [items[self.one]] if inside else []
        return list(items[slice(*(self.several or ()))] if self.several else items)


ALL = Index()


@dataclass(frozen=True, slots=True)
class Step:
    """One word of a role: a name, the number in it (`norm2`), its index."""

    name: str
    number: int | None = None
    index: Index = ALL


def parse_role(text: str) -> tuple[Step, ...] | None:
    """The steps of a role; None if the text is no role but may be a path.

    Raises:
        SelectionError: brackets that are no index, such as "blocks[a]".
    """
    if not text:
        raise SelectionError(
            'selector ""', "it is empty", 'name a role or a path, such as "blocks[0]"'
        )
    steps: list[Step] = []
    for word in _words(text):
        match = _STEP.fullmatch(word)
        known = _PARTS if steps else _STARTS
        if match is None or match[1] not in known:
            if "[" in text:
                name = re.split(r"[\d\[]", word)[0]
                near = [text.replace(name, other, 1) for other in nearest(name, known).split(", ")]
                raise _malformed(text, f'"{word}" is no role', ", ".join(near) if name else "")
            return None
        if bool(match[2]) != (match[1] in ("norm", "residual")):
            return None
        if match[3] is not None and match[1] not in _INDEXED:
            raise _malformed(text, f'"{match[1]}" takes no index')
        index = ALL if match[3] is None else _index(text, match[3])
        steps.append(Step(match[1], int(match[2]) if match[2] else None, index))
    return tuple(steps) if _in_order(steps) else None


def _words(text: str) -> list[str]:
    return re.split(r"\.(?![^\[]*\])", text)


def _in_order(steps: list[Step]) -> bool:
    """Whether each word may follow the one before it."""
    names = [step.name for step in steps]
    if names[0] == "stages" and len(names) > 1:
        return names[1] == "blocks" and _in_order(steps[1:])
    if names[0] == "blocks":
        return len(names) < 3 and (len(names) == 1 or names[1] != "blocks")
    return len(names) == 1


def _index(text: str, inner: str) -> Index:
    inner = inner.strip()
    if inner == "*":
        return ALL
    parts = [part.strip() for part in inner.split(":")]
    try:
        numbers = [int(part) if part else None for part in parts]
    except ValueError:
        raise _malformed(text, f'"[{inner}]" is no index') from None
    if len(numbers) == 1 and numbers[0] is not None:
        return Index(one=numbers[0])
    if len(numbers) not in (2, 3) or (numbers[-1] == 0 and len(numbers) == 3):
        raise _malformed(text, f'"[{inner}]" is no index')
    first, second, third = (*numbers, None)[:3]
    return Index(several=(first, second, third))


def _malformed(text: str, found: str, hint: str = "") -> SelectionError:
    hint = (
        hint or 'an integer, a slice or *: "blocks[3]", "blocks[-1].mlp", "blocks[4:8].attention"'
    )
    return SelectionError(f'selector "{text}"', found, hint)
