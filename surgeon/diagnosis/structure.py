"""What the recorded dataflow says of a segment: exact null directions, and bounded branches.

Only what was recognised is claimed. A function that isn't in the lists below, an edit with a user's
own function, or a normalisation without eps makes the answer "not known".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgeon.anatomist import functions
from surgeon.anatomist.graph import Op
from surgeon.diagnosis import thresholds
from surgeon.diagnosis.judging import Facts
from surgeon.inversion.segments import Segment

#: Continuous everywhere, whatever their operands.
_CONTINUOUS = (
    functions.MOVEMENT
    | functions.SELECTION
    | functions.LINEAR
    | functions.CONVOLUTION
    | functions.ACTIVATION
    | functions.ATTENTION
    | {"mul", "add", "sub", "layer_norm", "cat", "stack"}
)


def facts_of(segment: Segment, x: Tensor) -> Facts:
    """What can be proved of a segment from its dataflow.

    Args:
        x: value at its source; (batch, ...), any precision.
    """
    source = segment.source
    if source is None or source.value is None or _edited(segment):
        return Facts()
    readers = _readers(segment, source.value)
    null, dimensions = _null_space(segment, readers, x)
    return Facts(_bounded_branch(segment, readers), null, dimensions)


def _edited(segment: Segment) -> bool:
    """Whether functions of an edit act inside."""
    inside = {v for op in segment.live_ops for v in (*op.inputs, *op.outputs)}
    program = segment.subject.plan.program
    taps = [*program.modules.values(), *(t for ts in program.ops.values() for t in ts.values())]
    return any(
        tap.value in inside and (tap.functions or tap.operand_functions or tap.drops_branch)
        for tap in taps
    )


def _readers(segment: Segment, value: int) -> list[Op]:
    """The functions that read a value, or what a bypassed module makes of it."""
    aliases, names, before = segment.program.aliases, {value}, 0
    while len(names) > before:
        before = len(names)
        names |= {out for out, passed in aliases.items() if passed in names}
    dropped = _dropped(segment)
    return [
        op
        for op in segment.live_ops
        if not names.isdisjoint(op.inputs)
        and (op.outputs[0] not in dropped or _reads_nothing_else(op, names))
    ]


def _dropped(segment: Segment) -> set[int]:
    """Values of the adds that pass their branch alone."""
    program = segment.subject.plan.program
    return {t.value for taps in program.ops.values() for t in taps.values() if t.drops_skip}


def _reads_nothing_else(op: Op, names: set[int]) -> bool:
    """Whether a value is an add's branch too, not its skip alone."""
    return all(v in names for v in op.inputs)


def _norm_module(segment: Segment, op: Op) -> nn.Module | None:
    """The layer normalisation a function belongs to, if it is one with eps."""
    if op.name != "layer_norm":
        return None
    module = segment.subject.model.get_submodule(segment.program.graph.calls[op.call].path)
    eps = getattr(module, "eps", None)
    return module if isinstance(eps, float) and eps > 0 else None


def _null_space(segment: Segment, readers: list[Op], x: Tensor) -> tuple[str, int]:
    if not readers:
        return "", 0
    modules = [_norm_module(segment, op) for op in readers]
    if all(isinstance(m, nn.LayerNorm) for m in modules):
        sizes = {tuple(m.normalized_shape) for m in modules if isinstance(m, nn.LayerNorm)}
        if len(sizes) == 1:
            groups = x[0].numel() // max(1, torch.Size(next(iter(sizes))).numel())
            text = "it reads its input through a layer normalisation alone, which is blind to the "
            return text + f"mean: {groups} directions", groups
    if all(op.name == "relu" for op in readers):
        dead = dead_units(x)
        if dead:
            return f"{dead} of the units it reads are dead here", dead
    if all(op.name == "batch_norm" for op in readers):
        gone = min(_zero_channels(segment, op) for op in readers) if len(readers) == 1 else 0
        if gone:
            return f"{gone} channels are scaled by exactly zero", gone
    return "", 0


def dead_units(x: Tensor) -> int:
    """Entries below zero by more than the margin: a rectifier is constant around them."""
    return int((x < -thresholds.KINK_MARGIN * x.abs().max()).sum())


def _zero_channels(segment: Segment, op: Op) -> int:
    module = segment.subject.model.get_submodule(segment.program.graph.calls[op.call].path)
    weight = getattr(module, "weight", None)
    return int((weight == 0).sum()) if isinstance(weight, Tensor) else 0


def _bounded_branch(segment: Segment, readers: list[Op]) -> str:
    """Why the segment is x plus a bounded continuous map of x; empty if that is not seen."""
    source, target = segment.source, segment.target
    if source is None or source.value is None or source.shape != target.shape:
        return ""
    adds = [op for op in readers if op.name == "add" and target.value in op.outputs]
    norms = [op for op in readers if op not in adds]
    if len(adds) != 1 or not norms or _reads_nothing_else(adds[0], {source.value}):
        return ""
    if any(_norm_module(segment, op) is None for op in norms):
        return ""
    if not all(op.name in _CONTINUOUS for op in segment.live_ops):
        return ""
    return "its branch is bounded: it reads its input through a layer normalisation with eps"
