"""Small texts such as `logit(251) - 0.5 * total_variation()`, read without running any code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from surgeon.errors import ProbeError, nearest

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def read_calls(text: str, names: Mapping[str, Callable[..., Any]]) -> Any:
    """The value of a text of numbers, calls, + - * / and brackets.

    Args:
        names: what may be called. Arguments are numbers, texts, or `name=value`.

    Raises:
        ProbeError: anything else in the text; the nearest names are given.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError) as cause:
        reason = getattr(cause, "msg", None) or str(cause)
        raise ProbeError(f"read `{text}`", reason, "such as `logit(3) - 0.1 * l2()`") from None
    return _value(tree.body, text, names)


def _value(node: ast.expr, text: str, names: Mapping[str, Callable[..., Any]]) -> Any:
    match node:
        case ast.Constant(value=int() | float() | str()):
            return node.value
        case ast.UnaryOp(op=ast.USub()):
            return -1 * _value(node.operand, text, names)
        case ast.UnaryOp(op=ast.UAdd()):
            return _value(node.operand, text, names)
        case ast.BinOp() if type(node.op) in _BINARY:
            left, right = _value(node.left, text, names), _value(node.right, text, names)
            return _combined(_BINARY[type(node.op)], left, right, text)
        case ast.Call(func=ast.Name()):
            return _called(node, text, names)
    found = ast.get_source_segment(text.strip(), node) or type(node).__name__
    raise ProbeError(f"read `{text}`", f"`{found}` is not understood", ", ".join(sorted(names)))


def _combined(operation: Callable[[Any, Any], Any], a: Any, b: Any, text: str) -> Any:
    try:
        return operation(a, b)
    except (TypeError, ValueError, ZeroDivisionError) as cause:
        raise ProbeError(f"read `{text}`", str(cause), "numbers and calls") from None


def _called(node: ast.Call, text: str, names: Mapping[str, Callable[..., Any]]) -> Any:
    name = node.func.id  # type: ignore[attr-defined]  # the caller matched a Name
    if name not in names:
        raise ProbeError(f"read `{text}`", f"no `{name}`", nearest(name, names))
    arguments = [_value(part, text, names) for part in node.args]
    named = {k.arg: _value(k.value, text, names) for k in node.keywords if k.arg}
    try:
        return names[name](*arguments, **named)
    except (TypeError, ValueError) as cause:
        said = str(cause).replace("__init__", name)
        raise ProbeError(f"read `{text}`", said, f"{name} with other arguments") from None
