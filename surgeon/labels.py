"""Names of classes: what a model calls its outputs, and which one a user means. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgeon.errors import ProbeError, nearest

if TYPE_CHECKING:
    from torch import nn

    from surgeon.recipe import ModelSpec

#: Per class all its names, the one to show first.
Labels = tuple[tuple[str, ...], ...]


def labels_of(spec: ModelSpec | None, model: nn.Module) -> Labels:
    """The names of a built model's classes, as its source knows them; empty where it does not.

    Args:
        spec: how it was built; None for a model of your own, whose classes have no names.
    """
    if spec is None:
        return ()
    from surgeon.sources import resolve

    found = resolve(spec)
    source_labels = getattr(found.source, "labels", None)
    if source_labels is None:
        return ()
    labels: Labels = source_labels(found.name, spec.weights, dict(spec.options), model)
    return labels


def class_index(asked: int | str, labels: Labels, count: int | None = None) -> int:
    """The index of a class given by index or by one of its names, in any case.

    Args:
        asked: 251, "251", "dalmatian" or "n02110341".
        labels: of the model.
        count: classes there are, where it is known.

    Raises:
        ProbeError: no such class, or several of that name.

    >>> class_index("coach dog", (("tench",), ("dalmatian", "coach dog")))
    1
    """
    text = str(asked).strip()
    if text.lstrip("-").isdigit():
        number, most = int(text), count if count is not None else len(labels)
        if number < 0 or (most and number >= most):
            raise ProbeError(f"class {asked}", f"the model has {most} classes", f"0 to {most - 1}")
        return number
    found = _matching(text.lower(), labels)
    if len(found) == 1:
        return found[0]
    if not labels:
        raise ProbeError(f'class "{asked}"', "the model's classes have no names here", "an index")
    if found:
        listed = ", ".join(f"{i} ({labels[i][0]})" for i in found)
        raise ProbeError(f'class "{asked}"', f"{len(found)} classes of that name", listed)
    names = [name for row in labels for name in row]
    raise ProbeError(
        f'class "{asked}"', f"none of {len(labels)} is called so", nearest(text, names)
    )


def class_name(index: int, labels: Labels) -> str:
    """What to show for a class: its first name, else "class 7"."""
    return labels[index][0] if 0 <= index < len(labels) else f"class {index}"


def _matching(text: str, labels: Labels) -> list[int]:
    """Classes first called so; else classes also called so."""
    first = [i for i, names in enumerate(labels) if names and names[0].lower() == text]
    return first or [i for i, names in enumerate(labels) if text in _lowered(names)]


def _lowered(names: Sequence[str]) -> list[str]:
    return [name.lower() for name in names]
