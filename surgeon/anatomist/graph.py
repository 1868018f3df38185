"""The dataflow of one forward: values, the functions that made them, the module calls around them.

Plain data, torch-free. Numbers index: a value is an index into `Graph.values`, and so on. Values
are single-assignment: a function that changes a tensor in place makes a new value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

#: What a call returned: a `Leaf`, a number or text as it was, None for anything else, or tuples,
#: lists and dicts of these.
Structure = object


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor's place in the structure a call returned."""

    value: int


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor at one moment.

    Attributes:
        shape: as recorded, batch of one image.
        dtype: torch's name of it, such as "float32".
        origin: where it came from.
        name: of a parameter or buffer its path, else empty.
    """

    shape: tuple[int, ...]
    dtype: str
    origin: Literal["input", "parameter", "constant", "op"]
    name: str = ""

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class Op:
    """One torch function call.

    Attributes:
        name: torch's name of the function ("add", "linear"); in-place forms share the plain name.
        call: the innermost module call it ran in.
        after: the last inner call of that call to return before it, None if there was none.
        nth: its number among functions of that name that the call itself ran since then.
        inputs, outputs: values.
        flops: multiply-adds times two, matrix products and convolutions only.
        inplace: whether its output is its first input, changed.
        notes: its integer arguments, where it moves data (dims of a transpose, say).
    """

    index: int
    name: str
    call: int
    after: int | None
    nth: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    flops: int = 0
    inplace: bool = False
    notes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module.

    Attributes:
        path: dotted name in `named_modules()`, "" for the root.
        nth: its number among the calls of that module.
        parent: the call around it, None for the root's.
        start, end: its functions are `ops[start:end]`, those of inner calls included.
        kind: class name.
        inputs, outputs: values, in order of appearance.
        structure: what it returned.
    """

    index: int
    path: str
    nth: int
    parent: int | None
    start: int
    end: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    structure: Structure = None


@dataclass(frozen=True)
class Graph:
    """Everything one forward showed, in order of execution.

    Attributes:
        parameters: path of each parameter and buffer -> shape.
        modules: path of each module -> class name, in `named_modules()` order.
        buffers: which of the parameters are buffers.
        derived: buffers that follow from the model's geometry and are never learned or saved.
    """

    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    calls: tuple[Call, ...]
    parameters: dict[str, tuple[int, ...]]
    modules: dict[str, str]
    buffers: frozenset[str] = frozenset()
    derived: frozenset[str] = frozenset()

    @cached_property
    def producer(self) -> dict[int, Op]:
        """The function that made a value; inputs, parameters and constants have none."""
        return {value: op for op in self.ops for value in op.outputs}

    @cached_property
    def consumers(self) -> dict[int, tuple[Op, ...]]:
        """The functions that read a value, in order."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.inputs):
                found.setdefault(value, []).append(op)
        return {value: tuple(ops) for value, ops in found.items()}

    @cached_property
    def live(self) -> frozenset[int]:
        """Values that depend on the model's input."""
        alive = {i for i, value in enumerate(self.values) if value.origin == "input"}
        for op in self.ops:
            if not alive.isdisjoint(op.inputs):
                alive.update(op.outputs)
        return frozenset(alive)

    @cached_property
    def calls_by_path(self) -> dict[str, tuple[Call, ...]]:
        found: dict[str, list[Call]] = {}
        for call in self.calls:
            found.setdefault(call.path, []).append(call)
        return {path: tuple(calls) for path, calls in found.items()}

    @cached_property
    def inner_calls(self) -> dict[int | None, tuple[Call, ...]]:
        """Calls made directly by a call, in order."""
        found: dict[int | None, list[Call]] = {}
        for call in self.calls:
            found.setdefault(call.parent, []).append(call)
        return {parent: tuple(calls) for parent, calls in found.items()}

    @cached_property
    def call_outputs(self) -> dict[int, tuple[Call, ...]]:
        """Calls that returned a value, innermost first."""
        found: dict[int, list[Call]] = {}
        for call in sorted(self.calls, key=lambda c: -self.depth(c)):
            for value in dict.fromkeys(call.outputs):
                found.setdefault(value, []).append(call)
        return {value: tuple(calls) for value, calls in found.items()}

    def depth(self, call: Call) -> int:
        return sum(1 for _ in self.ancestors(call))

    def ancestors(self, call: Call) -> Iterator[Call]:
        """The calls around a call, innermost first."""
        while call.parent is not None:
            call = self.calls[call.parent]
            yield call

    def descendants(self, call: Call) -> Iterator[Call]:
        """The calls made within a call, at any depth, in order."""
        for other in self.calls[call.index + 1 :]:
            if other.parent is None or other.parent < call.index:
                return
            yield other

    def own_ops(self, call: Call) -> list[Op]:
        """Functions run by the call itself, not by a call inside it."""
        return [op for op in self.ops[call.start : call.end] if op.call == call.index]

    def live_inputs(self, op: Op) -> list[int]:
        return [value for value in dict.fromkeys(op.inputs) if value in self.live]

    def upstream(self, targets: Iterable[int], stop: Iterable[int] = ()) -> set[int]:
        """Values that the targets depend on, themselves included, not looking beyond `stop`."""
        stops, seen, todo = set(stop), set[int](), list(targets)
        while todo:
            value = todo.pop()
            if value in seen:
                continue
            seen.add(value)
            op = self.producer.get(value)
            if op is not None and value not in stops:
                todo.extend(op.inputs)
        return seen

    def flops(self, ops: Iterable[Op] | None = None) -> int:
        return sum(op.flops for op in (self.ops if ops is None else ops))
