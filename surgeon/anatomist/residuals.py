"""Residual adds: adds whose operands share an ancestor, the shorter way being the skip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from surgeon.anatomist import functions
from surgeon.anatomist.graph import Call, Graph, Op


@dataclass(frozen=True, slots=True)
class Residual:
    """One residual add, `skip + branch`.

    Attributes:
        op: the add.
        call: the module call that runs it.
        source: the value both operands come from: the stream before the sublayer's norm.
        skip, branch: the add's operands.
        projected: whether the skip changes the stream on its way (a ResNet's `downsample`).
        ops: the functions of the branch, the first after `source` to the one that makes `branch`.
    """

    op: Op
    call: Call
    source: int
    skip: int
    branch: int
    projected: bool
    ops: tuple[Op, ...]


def find_residuals(graph: Graph) -> list[Residual]:
    """Every residual add of a graph, in order of execution."""
    return [found for op in graph.ops if op.name == "add" and (found := _read(graph, op))]


def _read(graph: Graph, op: Op) -> Residual | None:
    operands = [v for v in dict.fromkeys(op.inputs) if graph.values[v].origin != "constant"]
    if len(operands) != 2 or not graph.live_inputs(op):
        return None
    left, right = operands
    if graph.values[left].shape != graph.values[right].shape:
        return None
    call = graph.calls[op.call]
    for scope in (call, *graph.ancestors(call)):
        found = [
            reading
            for skip, branch in ((left, right), (right, left))
            if (reading := _as_skip(graph, op, scope, skip, branch))
        ]
        if found:
            return min(found, key=lambda item: item[0])[1]
        if _rooted(graph, scope, left) and _rooted(graph, scope, right):
            return None
    return None


def _rooted(graph: Graph, scope: Call, value: int) -> bool:
    """Whether a value was made inside the scope; if neither operand was, look further out."""
    op = graph.producer.get(value)
    return op is not None and op.index >= scope.start


def _as_skip(
    graph: Graph, op: Op, scope: Call, skip: int, branch: int
) -> tuple[int, Residual] | None:
    boundary = _boundary(graph, scope)
    above = graph.upstream([branch], boundary)
    if skip in graph.live:
        above &= graph.live  # a learned token may be a stream too, but only as itself
    for value, cost, selected in _skip_way(graph, scope, skip):
        if value not in above:
            continue
        between = graph.upstream([branch], boundary | {value}) & graph.live
        ops = _ops_between(graph, scope, value, branch)
        if not any(o.name in functions.WORK for o in ops):
            return None
        dominates = not any(
            v != value and (v in boundary or graph.producer.get(v) is None) for v in between
        )
        if selected and not dominates:
            return None
        if cost and not (dominates and _heavier(graph, ops, value, skip, scope)):
            return None
        call = graph.calls[op.call]
        return cost, Residual(op, call, value, skip, branch, cost > 0, tuple(ops))
    return None


def _heavier(graph: Graph, branch: list[Op], source: int, skip: int, scope: Call) -> bool:
    """Whether the branch does more than a projecting skip: bends, and has more layers."""
    way = _ops_between(graph, scope, source, skip)
    return any(o.name in functions.NONLINEAR for o in branch) and sum(
        o.name in functions.LAYER for o in branch
    ) > sum(o.name in functions.LAYER for o in way)


def _boundary(graph: Graph, scope: Call) -> frozenset[int]:
    return frozenset(
        v for v in scope.inputs if (p := graph.producer.get(v)) is None or p.index < scope.start
    )


def _skip_way(graph: Graph, scope: Call, value: int) -> Iterator[tuple[int, int, bool]]:
    """Values met on the way back along a skip, each with the work done since, and whether a part
    was taken."""
    cost, selected = 0, False
    while True:
        yield value, cost, selected
        op = graph.producer.get(value)
        if op is None or op.index < scope.start:
            return
        live = graph.live_inputs(op)
        if op.name == "cat" and len(live) > 1:
            # Parts handled apart (class token, patches) come together: go on where they parted.
            ways = [{v: c for v, c, _ in _skip_way(graph, scope, part)} for part in live]
            shared = [v for v in ways[0] if all(v in way for way in ways)]
            if not shared:
                return
            value = shared[0]
            cost += max(way[value] for way in ways)
        elif op.name in functions.SKIP and len(live) == 1:
            selected |= op.name in functions.SELECTION
            cost += op.name not in functions.FREE
            value = live[0]
        else:
            return


def _ops_between(graph: Graph, scope: Call, source: int, target: int) -> list[Op]:
    """Functions on a way from source to target."""
    below = {source}
    ops = []
    for op in graph.ops[scope.start :]:
        if not below.isdisjoint(op.inputs):
            below.update(op.outputs)
            ops.append(op)
        if target in op.outputs:
            break
    needed = graph.upstream([target], [source])
    return [op for op in ops if not needed.isdisjoint(op.outputs)]
