"""Does a branch mix tokens, or does each token go its own way?"""

from __future__ import annotations

from collections.abc import Sequence

from surgeon.anatomist import functions
from surgeon.anatomist.graph import Graph, Op
from surgeon.anatomist.residuals import Residual

_CHANNELS_SECOND = functions.CONVOLUTION | {"batch_norm", "group_norm"}
_CHANNELS_LAST = {"linear", "layer_norm", "rms_norm"}
_ALWAYS = functions.ATTENTION | functions.POOLING | functions.FOURIER | {"opaque", "lstm"}


def mixes_tokens(graph: Graph, residual: Residual) -> bool:
    """Whether an output token of the branch can depend on another input token."""
    rank = len(graph.values[residual.source].shape)
    return ops_mix_tokens(graph, residual.source, residual.ops, rank)


def ops_mix_tokens(graph: Graph, source: int, ops: Sequence[Op], rank: int) -> bool:
    """Whether functions on the way from a value mix its tokens.

    Attention, spatial convolution, pooling, Fourier transforms, products of two activations, and
    linear maps over an axis other than the channels mix; all else works token by token.
    """
    axis = {source: _channel_axis(graph, ops, rank)}
    for op in ops:
        if op.name in _ALWAYS or _spatial(graph, op):
            return True
        live = graph.live_inputs(op)
        if op.name in functions.LINEAR:
            if len(live) > 1:
                return True
            channel = axis.get(live[0]) if live else None
            if op.name == "linear" and channel not in (None, _last(graph, live[0])):
                return True
        for value in op.outputs:
            axis[value] = _follow(graph, op, live, axis, value)
    return False


def _last(graph: Graph, value: int) -> int:
    return len(graph.values[value].shape) - 1


def _spatial(graph: Graph, op: Op) -> bool:
    """A convolution whose kernel reaches beyond its own position."""
    if op.name not in functions.CONVOLUTION:
        return False
    kernels = [s for v in op.inputs if v not in graph.live and len(s := graph.values[v].shape) > 2]
    return any(size > 1 for kernel in kernels for size in kernel[2:])


def _channel_axis(graph: Graph, ops: Sequence[Op], rank: int) -> int | None:
    """Which axis of the stream holds channels: last, but second where convolutions read it so."""
    if rank != 4:
        return rank - 1
    order = list(range(rank))  # where each axis of the stream is now
    for op in ops:
        if op.name in _CHANNELS_SECOND:
            return order[1]
        if op.name in _CHANNELS_LAST:
            return order[-1]
        moved = _permutation(op, rank)
        order = [order[i] for i in moved] if moved else order
    return 1


def _permutation(op: Op, rank: int) -> list[int] | None:
    """New axis -> old axis, for the functions that only reorder axes."""
    notes = [n % rank for n in op.notes]
    if op.name == "permute" and sorted(notes) == list(range(rank)):
        return notes
    if op.name in ("transpose", "swapaxes") and len(notes) == 2:
        order = list(range(rank))
        order[notes[0]], order[notes[1]] = order[notes[1]], order[notes[0]]
        return order
    return None


def _follow(
    graph: Graph, op: Op, live: list[int], axis: dict[int, int | None], out: int
) -> int | None:
    """The channel axis after an op, None where it is lost."""
    if not live:
        return None
    source, before = live[0], axis.get(live[0])
    if op.name in functions.CONVOLUTION:
        return 1
    if op.name == "linear":
        return _last(graph, out)
    if before is None:
        return None
    old, new = graph.values[source].shape, graph.values[out].shape
    moved = _permutation(op, len(old))
    if moved:
        return moved.index(before)
    if len(old) == len(new) and old[before] == new[before]:
        return before
    if before == len(old) - 1 and new and new[-1] == old[-1]:
        return len(new) - 1
    return before if before == 1 and len(new) > 1 and new[1] == old[1] else None
