"""What is left to compute once edits are in place, and what can be skipped.

The recorded graph with the edits applied to it, walked back from what is wanted: an injected value
needs nothing, an add without its branch doesn't need the branch. A module none of whose functions
is needed is skipped whole. Truncation, bypass, `only`, dropped projections and segments that start
in the middle of a model all save their compute by this one rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from surgeon.anatomist.graph import Call, Graph, Op
from surgeon.anatomist.site import Site


@dataclass
class AddEdit:
    """What becomes of an add's operands."""

    drops_skip: bool = False
    drops_branch: bool = False


@dataclass
class Changes:
    """Edits as the graph sees them.

    Attributes:
        adds: op -> what becomes of its operands; `operands` gives (skip, branch) values.
        injected: values that come from outside.
        bypassed: calls that return an input: call -> the value returned.
    """

    adds: dict[int, AddEdit] = field(default_factory=dict)
    operands: dict[int, tuple[int, int]] = field(default_factory=dict)
    injected: set[int] = field(default_factory=set)
    bypassed: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """What must run.

    Attributes:
        ops: numbers of the functions needed.
        values: values needed.
        dead: outermost calls that need not run, of those before `end`.
        end: number of functions after which everything wanted is there.
    """

    ops: frozenset[int]
    values: frozenset[int]
    dead: tuple[Call, ...]
    end: int

    def flops(self, graph: Graph) -> int:
        """Multiply-adds times two of one forward of one image."""
        return sum(graph.ops[i].flops for i in self.ops)


def needs(graph: Graph, changes: Changes, wanted: Iterable[int]) -> Needs:
    """Walk back from the wanted values."""
    wanted = list(wanted)
    passed = aliases(graph, changes)
    ops, values = set[int](), set[int]()
    todo = list(wanted)
    while todo:
        value = todo.pop()
        if value in values:
            continue
        values.add(value)
        if value in changes.injected:
            continue
        if value in passed:
            todo.append(passed[value])
            continue
        op = graph.producer.get(value)
        if op is not None:
            ops.add(op.index)
            todo.extend(_operands(op, changes))
    end = max((i + 1 for i in ops), default=0)
    dead = _dead(graph, changes, ops, values, end)
    return Needs(frozenset(ops), frozenset(values), dead, end)


def aliases(graph: Graph, changes: Changes) -> dict[int, int]:
    """What each bypassed call returns -> the value it passes."""
    return {graph.calls[call].outputs[0]: value for call, value in changes.bypassed.items()}


def _operands(op: Op, changes: Changes) -> list[int]:
    edit = changes.adds.get(op.index)
    if edit is None:
        return list(op.inputs)
    skip, branch = changes.operands[op.index]
    if edit.drops_branch:
        return [skip]
    return [branch] if edit.drops_skip else list(op.inputs)


def _dead(
    graph: Graph, changes: Changes, ops: set[int], values: set[int], end: int
) -> tuple[Call, ...]:
    found: list[Call] = []
    root = graph.inner_calls[None][0]
    todo = list(graph.inner_calls.get(root.index, ()))
    while todo:
        call = todo.pop(0)
        if call.start >= end or call.end == call.start or call.index in changes.bypassed:
            continue
        passed = (values & set(call.outputs)) - changes.injected
        if passed or any(i in ops for i in range(call.start, call.end)):
            todo = list(graph.inner_calls.get(call.index, ())) + todo
        elif call.outputs:
            found.append(call)
    return tuple(found)


def site_value(site: Site) -> int:
    """The value of a site that has one."""
    if site.value is None:
        raise ValueError(f"{site.name} has no value")
    return site.value
