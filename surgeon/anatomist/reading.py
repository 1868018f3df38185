"""A graph read as a model: stem, tokens, positions, blocks and sublayers, final norm, head.

Plain data about values, ops and calls; `roles` gives it names, adapters may correct it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from surgeon.anatomist import functions
from surgeon.anatomist.blocks import find_blocks, parent_of
from surgeon.anatomist.graph import Call, Graph, Op
from surgeon.anatomist.mixing import mixes_tokens
from surgeon.anatomist.residuals import Residual, find_residuals


@dataclass(frozen=True)
class Sublayer:
    """One branch with its residual.

    Attributes:
        mixes: whether it is the token mixer ("attention") or works token by token ("mlp").
        body: the call of its main module, None where functions alone make the branch.
        parameters: paths of what it owns: mixer or mlp with its layer scale, norms left out.
    """

    residual: Residual
    mixes: bool
    body: Call | None
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """One block: its call, sublayers and norms in order of execution, and the stage it is in."""

    call: Call
    stage: int
    sublayers: tuple[Sublayer, ...]
    norms: tuple[Call, ...]


@dataclass(frozen=True)
class Position:
    """A position embedding: the add that brings it in, and the parameter or module it is from."""

    op: Op
    path: str
    is_parameter: bool


@dataclass(frozen=True)
class Reading:
    """Everything found, any of it possibly missing.

    Attributes:
        stem: the patch projection or first convolution stage.
        stem_value: its output, as tokens where the blocks work on tokens.
        tokens: parameters joined to the sequence (class token first), with the joining op.
    """

    stem: Call | None
    stem_value: int | None
    positions: tuple[Position, ...]
    tokens: tuple[tuple[str, Op], ...]
    blocks: tuple[Block, ...]
    residuals: tuple[Residual, ...]
    final_norm: Call | None
    head: tuple[Call, ...]


def read(graph: Graph, blocks: str | None = None) -> Reading:
    """Read a recorded graph by its dataflow alone; see `design` in the docs for the rules.

    Args:
        blocks: an adapter's way to say which modules are blocks: a regular expression of paths.
    """
    residuals = find_residuals(graph)
    calls = find_blocks(graph, residuals) if blocks is None else _calls_at(graph, blocks)
    first = _first_layer(graph)
    if first is not None and len(calls) > 1 and calls[0].start <= first.index < calls[0].end:
        calls = calls[1:]  # the first layer of all is the stem, whatever it is built of
    norms = [call for call in graph.calls if _is_norm(graph, call)]
    found = _blocks(graph, calls, residuals, norms)
    positions = tuple(_positions(graph, calls))
    tokens = tuple(_tokens(graph))
    stem = _stem(graph, first, calls, [p.op for p in positions] + [op for _, op in tokens])
    end = calls[-1].end if calls else 0
    head = tuple(_head(graph, calls, {residual.op.index for residual in residuals}))
    last = head[0].start if head else len(graph.ops)
    closing = [n for n in norms if end <= n.start and n.end <= last and n.start in _live(graph)]
    return Reading(
        stem,
        None if stem is None else _stem_value(graph, stem, calls),
        positions,
        tokens,
        found,
        tuple(residuals),
        closing[-1] if closing else None,
        head,
    )


def _calls_at(graph: Graph, pattern: str) -> list[Call]:
    found = [call for call in graph.calls if re.fullmatch(pattern, call.path)]
    return sorted(found, key=lambda call: (call.start, call.index))


def _live(graph: Graph) -> frozenset[int]:
    return frozenset(op.index for op in graph.ops if not graph.live.isdisjoint(op.inputs))


def _first_layer(graph: Graph) -> Op | None:
    live = _live(graph)
    layers = functions.CONVOLUTION | {"linear"}
    return next((op for op in graph.ops if op.name in layers and op.index in live), None)


def _is_norm(graph: Graph, call: Call) -> bool:
    """A module that runs a normalisation itself, or scales and shifts by channel and no more."""
    own = graph.own_ops(call)
    if not own:
        return False
    if any(op.name in functions.NORMALISATION for op in own):
        return not any(op.name in functions.WORK for op in graph.ops[call.start : call.end])
    return [op.name for op in own] == ["addcmul"] and not graph.inner_calls.get(call.index)


# --- blocks


def _blocks(
    graph: Graph, calls: list[Call], residuals: list[Residual], norms: list[Call]
) -> tuple[Block, ...]:
    found: list[Block] = []
    stage, home = -1, None
    for call in calls:
        parent = parent_of(call.path)
        if parent != home:
            stage, home = stage + 1, parent
        inside = [r for r in residuals if call.start <= r.op.index < call.end]
        own_norms = tuple(
            n
            for n in norms
            if call.start <= n.start
            and n.end <= call.end
            and _at_block_level(graph, call, n, inside)
        )
        sublayers = tuple(_sublayer(graph, call, r, norms) for r in inside)
        found.append(Block(call, stage, sublayers, own_norms))
    return tuple(found)


def _at_block_level(graph: Graph, block: Call, norm: Call, residuals: list[Residual]) -> bool:
    """Whether a norm is the block's own, and not inside a mixer or an mlp."""
    for around in graph.ancestors(norm):
        if around.index == block.index:
            return True
        if graph.modules[around.path] == "Sequential" or _holds_branch(around, residuals):
            continue
        ops = graph.ops[around.start : around.end]
        if sum(op.name in functions.LAYER for op in ops) > 1:
            return False
    return norm.index == block.index


def _holds_branch(call: Call, residuals: list[Residual]) -> bool:
    return any(
        call.start <= r.ops[0].index and r.ops[-1].index < call.end and r.op.index < call.end
        for r in residuals
    )


def _sublayer(graph: Graph, block: Call, residual: Residual, norms: list[Call]) -> Sublayer:
    return Sublayer(
        residual,
        mixes_tokens(graph, residual),
        _body(graph, block, residual, norms),
        _parameters(graph, block, residual, norms),
    )


def branch_calls(graph: Graph, residual: Residual) -> list[Call]:
    """The outermost module calls that run wholly inside a branch, in order."""
    span = {op.index for op in residual.ops}
    first, last = residual.ops[0].index, residual.op.index
    inside = [
        call
        for call in graph.calls
        if first <= call.start
        and call.end <= last
        and call.end > call.start
        and any(i in span for i in range(call.start, call.end))
        and not (call.start <= residual.op.index < call.end)
    ]
    chosen = {call.index for call in inside}
    return [c for c in inside if c.parent is None or c.parent not in chosen]


def _body(graph: Graph, block: Call, residual: Residual, norms: list[Call]) -> Call | None:
    """The one module of the branch that does work; a branch of many working modules has none."""
    body = None
    calls = branch_calls(graph, residual)
    while len(heavy := [c for c in calls if _works(graph, c)]) == 1:
        body = heavy[0]
        if not any(body.start <= n.start and n.end <= body.end for n in norms):
            break
        calls = list(graph.inner_calls.get(body.index, ()))  # a norm is in it: look inside
        if _working_ops(graph, calls) != _working_ops(graph, [body]):
            break
    return body


def _works(graph: Graph, call: Call) -> bool:
    return _working_ops(graph, [call]) > 0


def _working_ops(graph: Graph, calls: list[Call]) -> int:
    return sum(op.name in functions.WORK for c in calls for op in graph.ops[c.start : c.end])


def _parameters(
    graph: Graph, block: Call, residual: Residual, norms: list[Call]
) -> tuple[str, ...]:
    above = graph.upstream([residual.branch], [residual.source])
    around = block.path + "." if block.path else ""
    heads = {n.path for n in norms if _at_block_level(graph, block, n, [residual])}
    names = {graph.values[v].name for v in above if graph.values[v].origin == "parameter"}
    # What a mixer owns goes with it, used or not: buffers, weights of fused paths.
    body = _body(graph, block, residual, norms)
    if body is not None:
        names |= {n for n in graph.parameters if n.startswith(body.path + ".")}
    return tuple(
        name
        for name in graph.parameters
        if name in names and name.startswith(around) and parent_of(name) not in heads
    )


# --- before the blocks


def _derived_from(graph: Graph, value: int) -> list[str]:
    """Parameters and buffers that a value is made of, without the input; in order of definition."""
    if value in graph.live:
        return []
    above = graph.upstream([value])
    names = {graph.values[v].name for v in above if graph.values[v].origin == "parameter"}
    return [name for name in graph.parameters if name in names]


def _inside(calls: list[Call], op: Op) -> bool:
    return any(call.start <= op.index < call.end for call in calls)


def _positions(graph: Graph, blocks: list[Call]) -> list[Position]:
    """Adds, outside the blocks, of something learned or computed that differs between tokens."""
    found = []
    for op in graph.ops:
        live = graph.live_inputs(op)
        if op.name != "add" or len(live) != 1 or _inside(blocks, op):
            continue
        for value in op.inputs:
            names = _derived_from(graph, value)
            shape, stream = graph.values[value].shape, graph.values[live[0]].shape
            if names and len(shape) > 1 and _varies(shape, stream):
                found.append(_position(graph, op, value, names))
    return found


def _varies(shape: tuple[int, ...], stream: tuple[int, ...]) -> bool:
    """More than one value a channel: at least two axes longer than one, or a token axis."""
    return len(shape) >= len(stream) - 1 and sum(size > 1 for size in shape) >= 2


def _position(graph: Graph, op: Op, value: int, names: list[str]) -> Position:
    makers = [
        call for call in graph.call_outputs.get(value, ()) if not graph.live & set(call.inputs)
    ]
    above = graph.upstream([value])
    makers += [  # a module that computes positions, reshaped after
        call
        for call in graph.calls
        if call.outputs and call.outputs[0] in above and not graph.live & set(call.outputs)
    ]
    if makers:
        return Position(op, makers[0].path, False)
    named = [n for n in names if "pos" in n.rpartition(".")[2]]
    return Position(op, (named or names)[0], True)


def _tokens(graph: Graph) -> list[tuple[str, Op]]:
    """Parameters joined to the sequence by concatenation: class token, registers."""
    found: dict[str, Op] = {}
    for op in graph.ops:
        if op.name != "cat" or not graph.live_inputs(op):
            continue
        for value in op.inputs:
            shape = graph.values[value].shape
            names = [
                n for n in _derived_from(graph, value) if graph.parameters[n][-1:] == shape[-1:]
            ]
            if names and len(shape) == 3:
                found.setdefault(_token_name(graph, names), op)
    return list(found.items())


def _token_name(graph: Graph, names: list[str]) -> str:
    single = [n for n in names if len(graph.parameters[n]) > 1 and graph.parameters[n][-2] == 1]
    return (single or names)[0]


def _stem(graph: Graph, first: Op | None, blocks: list[Call], joins: list[Op]) -> Call | None:
    """The outermost call that holds the first layer, but no block, position, token or root."""
    if first is None:
        return None
    stem = graph.calls[first.call]
    for around in (stem, *graph.ancestors(stem)):
        crowded = any(around.start <= b.start and b.end <= around.end for b in blocks)
        joined = any(around.start <= op.index < around.end for op in joins)
        if around.parent is None or crowded or joined:
            break
        stem = around
    return stem


def _stem_value(graph: Graph, stem: Call, blocks: list[Call]) -> int:
    value = stem.outputs[0]
    entry = next((v for b in blocks for v in b.inputs if v in graph.live), None)
    if entry is None or len(graph.values[entry].shape) != 3:
        return value
    while len(graph.values[value].shape) != 3 or _transposed(graph, value, entry):
        readers = graph.consumers.get(value, ())
        if len(readers) != 1 or readers[0].name not in functions.MOVEMENT:
            break
        value = readers[0].outputs[0]
    return value if len(graph.values[value].shape) == 3 else stem.outputs[0]


def _transposed(graph: Graph, value: int, entry: int) -> bool:
    """(batch, width, tokens), one transpose away from tokens."""
    readers = graph.consumers.get(value, ())
    turned = readers and readers[0].name in ("permute", "transpose")
    return bool(turned) and graph.values[value].shape[-1] != graph.values[entry].shape[-1]


# --- after the blocks

#: What may lie between the last layer and the output.
_AFTER_HEAD = (
    functions.FREE | functions.POOLING | functions.ACTIVATION | {"cat", "stack", "softmax", "sum"}
)


def _head(graph: Graph, blocks: list[Call], adds: set[int]) -> list[Call]:
    """The layers nearest to the output: one for a classifier, several where their outputs join.

    None lies in a block, and none where the output is tokens or a residual sum: those are features.
    """
    found: dict[int, Call] = {}
    todo = [v for v in graph.calls[0].outputs if v in graph.live and not _is_tokens(graph, v)]
    seen = set[int]()
    while todo:
        value = todo.pop(0)
        op = graph.producer.get(value)
        if op is None or op.index in seen | adds or _inside(blocks, op):
            continue
        seen.add(op.index)
        if op.name in functions.CONVOLUTION | {"linear"}:
            call = graph.calls[op.call]
            found[call.index] = call
        elif op.name in _AFTER_HEAD:
            todo.extend(graph.live_inputs(op))
    return sorted(found.values(), key=lambda call: call.start)


def _is_tokens(graph: Graph, value: int) -> bool:
    return len(graph.values[value].shape) == 3
