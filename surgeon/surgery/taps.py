"""Taps: what happens at one value of a forward, and where that value is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Function = Callable[["Tensor"], "Tensor"]


@dataclass
class Tap:
    """What happens at one value, in this order: injected or computed, replaced, captured, stopped.

    Attributes:
        value: number of the value in the graph.
        skip_position: for an add, which of its two operands is the skip.
        operand_functions: position of an operand -> functions on it.
    """

    value: int
    drops_skip: bool = False
    drops_branch: bool = False
    operand_functions: dict[int, list[Function]] = field(default_factory=dict)
    functions: list[Function] = field(default_factory=list)
    injected: bool = False
    captured: bool = False
    stops: bool = False
    skip_position: int | None = None


CallKey = tuple[str, int]


@dataclass(frozen=True)
class OwnOp:
    """Where a module runs a function itself.

    Attributes:
        after, before: the inner calls on either side, by number in the graph; None at the ends.
        turn: which return of `after`'s module it follows, within this call of the owner.
        name, nth: torch's name, and the number under it in that gap.
    """

    after: int | None
    turn: int
    before: int | None
    name: str
    nth: int
