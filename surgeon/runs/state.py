"""Nested states under flat names: what an optimiser keeps, as a file can hold it."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor


def pack(tree: Any, name: str) -> dict[str, Any]:
    """Nested dicts, lists and tuples of tensors and scalars, as one text and flat tensors.

    The tensors are copies, and those that `unpack` gives are: a state never moves with what it was
    taken from or what goes on from it.

    Args:
        name: the text's name; tensors go under "name/0", "name/1" ...

    Raises:
        TypeError: something else in the tree.

    >>> unpack(pack({0: [1, (2.5, None)]}, "o"), "o")
    {0: [1, (2.5, None)]}
    """
    tensors: list[Tensor] = []
    text = json.dumps(_encode(tree, tensors))
    return {name: text, **{f"{name}/{i}": tensor for i, tensor in enumerate(tensors)}}


def unpack(flat: dict[str, Any], name: str) -> Any:
    """What `pack` packed under a name."""
    return _decode(json.loads(flat[name]), flat, name)


def _encode(node: Any, tensors: list[Tensor]) -> Any:
    if isinstance(node, Tensor):
        tensors.append(node.detach().clone())
        return {"tensor": len(tensors) - 1}
    if isinstance(node, dict):
        return {"dict": [[key, _encode(item, tensors)] for key, item in node.items()]}
    if isinstance(node, (list, tuple)):
        return {type(node).__name__: [_encode(item, tensors) for item in node]}
    if isinstance(node, (int, float, str, bool, type(None))):
        return {"value": node}
    raise TypeError(f"a state holds tensors and scalars, not {type(node).__name__}")


def _decode(node: dict[str, Any], flat: dict[str, Any], name: str) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return flat[f"{name}/{content}"].clone()
    if kind == "dict":
        return {key: _decode(item, flat, name) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_decode(item, flat, name) for item in content]
        return items if kind == "list" else tuple(items)
    return content
