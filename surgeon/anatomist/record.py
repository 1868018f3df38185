"""One forward, watched: module calls by hooks, torch functions by a mode, into a `Graph`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from surgeon.anatomist.graph import Call, Graph, Leaf, Op, Structure, Value


def record(model: nn.Module, *inputs: Tensor) -> Graph:
    """Run one forward without gradients and return everything it showed.

    Args:
        model: any module, on any device, the meta device included.
        inputs: its positional inputs, batch of one.

    Returns:
        The dataflow in order of execution. Functions hidden from torch's function mode (scripted
        ones, `autograd.Function`) appear as ops named "opaque".

    Raises:
        Whatever the model's forward raises; hooks are off again by then.
    """
    recorder = _Recorder(model)
    with recorder.watching(), torch.no_grad():
        model(*inputs)
    return recorder.graph()


@cache
def plain_name(function: Callable[..., Any]) -> str:
    """A torch function's name with its in-place and operator forms folded: `add_` is "add"."""
    name = getattr(function, "__name__", str(function))
    if name.startswith("__") and name.endswith("__"):
        inner = name.strip("_")
        if inner in _OPERATORS:
            return _OPERATORS[inner]
        return name
    return name.rstrip("_")


_OPERATORS = {
    sign + name: name
    for name in ("add", "sub", "mul", "matmul", "truediv", "pow")
    for sign in ("", "r", "i")
}

#: Name of what a write in place does to other tensors on the same memory: no function of torch's.
SHARED_MEMORY = "shared_memory"
#: Functions whose integer arguments matter to the reading of roles.
_NOTED = {"transpose", "permute", "swapaxes", "movedim", "flatten", "softmax", "roll", "chunk"}


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dicts, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from tensors_in(item)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from tensors_in(item)


def rebuilt(like: Any, items: Any) -> Any:
    """A tuple, list or dict of the same kind, named tuples and dataclass dicts included.

    Args:
        items: a list, or a dict where `like` is one.
    """
    kind = type(like)
    if isinstance(like, dict):
        return kind(**items) if is_dataclass(kind) else kind(items)
    return kind(*items) if hasattr(like, "_fields") else kind(items)


def _integers_in(tree: Any) -> Iterator[int]:
    if isinstance(tree, int) and not isinstance(tree, bool):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _integers_in(item)


class _FlopCounter(TorchDispatchMode):
    """Sums torch's own FLOP formulas over everything below the function mode."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.values: list[Value] = []
        self.ops: list[Op] = []
        self.calls: list[Call] = []
        self.stack: list[int] = []
        self.open: dict[int, tuple[str, int, int | None, int, str, tuple[int, ...]]] = {}
        self.known: dict[int, int] = {}  # id of a tensor -> its value now
        self.versions: dict[int, int] = {}
        self.kept: list[Tensor] = []  # an id means something only while its tensor lives
        self.nth_call: Counter[str] = Counter()
        self.since: dict[int, Counter[str]] = {}  # own functions since the last inner call
        self.last_inner: dict[int, int] = {}
        self.flops = _FlopCounter()  # type: ignore[no-untyped-call]
        self.constants: set[int] = set()

    # --- values

    def new_value(self, tensor: Tensor, origin: Any, name: str = "") -> int:
        dtype = str(tensor.dtype).removeprefix("torch.")
        self.values.append(Value(tuple(tensor.shape), dtype, origin, name))
        number = len(self.values) - 1
        self.known[id(tensor)] = number
        self.versions[id(tensor)] = _version(tensor)
        self.kept.append(tensor)
        return number

    def value_of(self, tensor: Tensor) -> int:
        number = self.known.get(id(tensor))
        if number is not None:
            return number
        if id(tensor) in self.constants or not self.stack:
            return self.new_value(tensor, "constant")
        # Made by something the mode can't see: it may depend on all that its caller was given.
        return self.new_op("opaque", self.open[self.stack[-1]][5], [tensor])[0]

    def new_op(
        self,
        name: str,
        inputs: Iterable[int],
        outputs: list[Tensor],
        *,
        flops: int = 0,
        nth: int = 0,
        inplace: bool = False,
        notes: tuple[int, ...] = (),
    ) -> list[int]:
        call = self.stack[-1]
        numbers = [self.new_value(tensor, "op") for tensor in outputs]
        op = Op(
            len(self.ops), name, call, self.last_inner.get(call), nth, tuple(inputs),
            tuple(numbers), flops, inplace, notes,
        )  # fmt: skip
        self.ops.append(op)
        return numbers

    # --- functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.stack:
            return func(*args, **kwargs)
        name = plain_name(func)
        nth = self.since[self.stack[-1]][name]
        self.since[self.stack[-1]][name] += 1
        given = [(t, self.value_of(t)) for t in tensors_in((args, kwargs))]
        before = self.flops.total
        out = func(*args, **kwargs)
        changed = [t for t, _ in given if _version(t) != self.versions[id(t)]]
        fresh = [
            t
            for t in dict.fromkeys(tensors_in(out))
            if id(t) not in self.known or any(t is c for c in changed)
        ]
        fresh += [c for c in changed if not any(c is t for t in fresh)]
        if fresh:
            results = self.new_op(
                name,
                [number for _, number in given],
                fresh,
                flops=self.flops.total - before,
                nth=nth,
                inplace=bool(changed),
                notes=tuple(_integers_in((args, tuple(kwargs.values())))) if name in _NOTED else (),
            )
            if changed:
                self.renew_others(results[0])
        return out

    def renew_others(self, written: int) -> None:
        """After a write in place: tensors that look at the same memory have new values too."""
        for tensor in list(self.kept):
            number = self.known.get(id(tensor))
            if number is not None and _version(tensor) != self.versions[id(tensor)]:
                self.new_op(SHARED_MEMORY, [number, written], [tensor])

    # --- module calls

    def enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self.stack:
            for tensor in tensors_in((args, kwargs)):
                if id(tensor) not in self.known:
                    self.new_value(tensor, "input")
        inputs = tuple(self.value_of(t) for t in tensors_in((args, kwargs)))
        parent = self.stack[-1] if self.stack else None
        index = len(self.calls)
        self.calls.append(None)  # type: ignore[arg-type]  # filled in when the call returns
        self.open[index] = (
            path, self.nth_call[path], parent, len(self.ops), type(module).__name__, inputs,
        )  # fmt: skip
        self.nth_call[path] += 1
        self.since[index] = Counter()
        self.stack.append(index)

    def leave(self, out: Any) -> None:
        index = self.stack[-1]
        path, nth, parent, start, kind, inputs = self.open[index]
        outputs = tuple(self.value_of(t) for t in tensors_in(out))
        structure = self.structure_of(out)
        self.stack.pop()
        end = len(self.ops)
        self.calls[index] = Call(
            index, path, nth, parent, start, end, kind, inputs, outputs, structure
        )
        if parent is not None:
            self.since[parent].clear()
            self.last_inner[parent] = index

    def structure_of(self, out: Any) -> Structure:
        if isinstance(out, Tensor):
            return Leaf(self.value_of(out))
        if isinstance(out, dict):
            return rebuilt(out, {key: self.structure_of(item) for key, item in out.items()})
        if isinstance(out, (tuple, list)):
            return rebuilt(out, [self.structure_of(item) for item in out])
        return out if isinstance(out, (int, float, bool, str)) else None

    # --- the whole

    @contextmanager
    def watching(self) -> Iterator[None]:
        for name, tensor in _named_tensors(self.model):
            if id(tensor) not in self.known:
                self.new_value(tensor, "parameter", name)
        for module in self.model.modules():
            for item in vars(module).values():
                for tensor in tensors_in(item):
                    self.constants.add(id(tensor))
                    self.kept.append(tensor)
        with ExitStack() as stack:
            for path, module in self.model.named_modules():
                stack.callback(
                    module.register_forward_pre_hook(
                        lambda m, args, kwargs, path=path: self.enter(path, m, args, kwargs),
                        with_kwargs=True,
                    ).remove
                )
                stack.callback(
                    module.register_forward_hook(lambda m, args, out: self.leave(out)).remove
                )
            stack.enter_context(self.flops)
            stack.enter_context(self)
            yield

    def graph(self) -> Graph:
        return Graph(
            tuple(self.values),
            tuple(self.ops),
            tuple(self.calls),
            {name: tuple(t.shape) for name, t in _named_tensors(self.model)},
            {path: type(module).__name__ for path, module in self.model.named_modules()},
            frozenset(name for name, _ in self.model.named_buffers(remove_duplicate=False)),
            frozenset(_derived(self.model)),
        )


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _derived(model: nn.Module) -> Iterator[str]:
    """Buffers kept out of state dicts, and tables of indices: the constructor computes them."""
    for path, module in model.named_modules(remove_duplicate=False):
        for name, buffer in module._buffers.items():
            if buffer is None:
                continue
            table = buffer.ndim > 0 and not (buffer.is_floating_point() or buffer.is_complex())
            if name in module._non_persistent_buffers_set or table:
                yield f"{path}.{name}" if path else name


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
