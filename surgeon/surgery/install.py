"""Carrying a program out on a model: hooks, layered forwards, and the mode that catches adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.anatomist.graph import Leaf, Structure
from surgeon.anatomist.record import rebuilt, tensors_in
from surgeon.errors import AnatomyError
from surgeon.surgery.catching import Gap, catch, mark_ours, mode_off
from surgeon.surgery.handles import Handle
from surgeon.surgery.layers import add_layer
from surgeon.surgery.program import Program
from surgeon.surgery.taps import OwnOp, Tap


class StopForward(Exception):  # noqa: N818  a signal, not an error
    """Everything wanted is there."""

    def __init__(self, token: object, value: Any) -> None:
        super().__init__("the forward stopped at a site, as it was told to")
        self.token = token
        self.value = value


@dataclass
class Exchange:
    """Tensors going into and out of a program, by value number.

    Attributes:
        injected: put in place of what would be computed.
        captured: filled in as the forward runs; clones, since later functions may work in place.
    """

    injected: Mapping[int, Tensor] = field(default_factory=dict)
    captured: dict[int, Tensor] = field(default_factory=dict)


def install(model: nn.Module, program: Program, exchange: Exchange | None = None) -> Installation:
    """Put a program on a model. All or nothing: on failure nothing stays.

    Returns:
        The handle that takes it off.
    """
    installation = Installation(model, program, exchange or Exchange())
    try:
        installation.put_on()
    except BaseException:
        installation.remove()
        raise
    return installation


class Installation(Handle):
    """A program on a model.

    Attributes:
        stopping: whether its stops stop; a run that looks further mutes them for its time.
    """

    def __init__(self, model: nn.Module, program: Program, exchange: Exchange) -> None:
        super().__init__()
        self.model, self.program, self.exchange = model, program, exchange
        self.graph = program.graph
        self.stopping = True
        self._running = False
        self._reached: set[int] = set()
        self._batch = 1
        self._calls: Counter[str] = Counter()
        self._kept: dict[Any, Tensor] = {}

    def put_on(self) -> None:
        program = self.program
        if not (program.modules or program.ops or program.bypassed or program.dead):
            return
        self.undo_with(add_layer(self.model, self._guard))
        for path in {path for path, _ in (*program.bypassed, *program.dead)}:
            self.undo_with(add_layer(self._module(path), self._skipping(path)))
        for path in {path for path, _ in program.ops}:
            self._catch(path)
        for path in {path for path, _ in program.modules}:
            hook = mark_ours(self._hook(path))
            self.undo_with(self._module(path).register_forward_hook(hook).remove)

    def _module(self, path: str) -> nn.Module:
        """A module; one called several times a forward gets its calls counted."""
        module = self.model.get_submodule(path)
        if self._repeated(path) and path not in self._calls:
            self._calls[path] = 0

            def count(module: nn.Module, args: Any) -> None:
                self._calls[path] += 1

            self.undo_with(module.register_forward_pre_hook(mark_ours(count)).remove)
        return module

    def _repeated(self, path: str) -> bool:
        return len(self.graph.calls_by_path.get(path, ())) > 1

    def _nth(self, path: str) -> int:
        """The number of the call of a module that is running, or has just returned."""
        return self._calls[path] - 1 if path in self._calls else 0

    # --- the root

    def _guard(self, below: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Around the root's forward: turns the stop signal into a result, leaves no mode behind."""
        depth = torch._C._len_torch_function_stack()
        first = next(tensors_in((args, kwargs)), None)
        self._batch = 1 if first is None or first.ndim == 0 else first.shape[0]
        for path in self._calls:
            self._calls[path] = 0
        self._running = True
        self._reached.clear()
        stopped = False
        try:
            out = below(*args, **kwargs)
        except StopForward as stop:
            if stop.token is not self:
                raise
            out, stopped = stop.value, True
        finally:
            while torch._C._len_torch_function_stack() > depth:
                torch._C._pop_torch_function_stack()
            self._running = False
        self._check_reached(stopped)
        return out

    def _check_reached(self, stopped: bool) -> None:
        """See that the forward came to all it had to: else what it returned is wrong.

        Replacements are left out where another surgery is on: it may have taken their place out.
        """
        alone = len(self.model.__dict__["forward"].layers) == 1
        passed = {tap.value for _, tap in self.program.taps if tap.stops} if not stopped else set()
        missed = [
            path
            for path, tap in self.program.taps
            if (self.stopping and tap.value in passed)
            or (tap.value not in self._reached and (alone or tap.captured))
        ]
        if missed:
            raise AnatomyError(
                f"run the operated {type(self.model).__name__}",
                f"its forward never came to places in {', '.join(dict.fromkeys(missed))[:200]},"
                " or caught the signal that ends it there",
                "an input of the size it was looked at with; undo the surgery that ends it earlier",
            )

    # --- module calls

    def _skipping(self, path: str) -> Callable[..., Any]:
        """Around a module some or all of whose calls need not run."""
        program = self.program
        calls = {c.nth: c for c in self.graph.calls_by_path[path]}

        def skip(below: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            nth = self._nth(path)
            call = calls.get(nth)
            position = program.bypassed.get((path, nth))
            if call is None or (position is None and (path, nth) not in program.dead):
                return below(*args, **kwargs)
            if position is not None:
                given = list(tensors_in((args, kwargs)))[position]
                return self._fill(call.structure, {call.outputs[0]: given}, given)
            like = args[0] if args and isinstance(args[0], Tensor) else None
            return self._fill(call.structure, self.exchange.injected, like)

        return skip

    def _fill(self, structure: Structure, known: Mapping[int, Tensor], like: Tensor | None) -> Any:
        """What a call would have returned: known tensors in place, zeros where nobody looks."""
        if isinstance(structure, Leaf):
            if structure.value in known:
                return known[structure.value]
            return self._zeros(structure.value, like)
        if isinstance(structure, dict):
            filled = {key: self._fill(item, known, like) for key, item in structure.items()}
            return rebuilt(structure, filled)
        if isinstance(structure, (tuple, list)):
            return rebuilt(structure, [self._fill(item, known, like) for item in structure])
        return structure

    def _zeros(self, value: int, like: Tensor | None) -> Tensor:
        key = (value, self._batch, like is not None and (like.dtype, like.device))
        kept = self._kept.get(key)
        if kept is not None and not kept.requires_grad:  # true if worked on in place
            return kept
        recorded = self.graph.values[value]
        shape = list(recorded.shape)
        if value in self.graph.live and shape:
            shape[0] *= self._batch  # recorded with a batch of one
        dtype = getattr(torch, recorded.dtype)
        if dtype.is_floating_point and like is not None and like.is_floating_point():
            dtype = like.dtype
        device = None if like is None else like.device
        self._kept[key] = torch.zeros(shape, dtype=dtype, device=device)
        return self._kept[key]

    def _hook(self, path: str) -> Callable[..., Any]:
        taps = {nth: tap for (p, nth), tap in self.program.modules.items() if p == path}

        def on_output(module: nn.Module, args: Any, out: Any) -> Any:
            tap = taps.get(self._nth(path))
            if tap is None:
                return None
            before = next(tensors_in(out))
            value = self.at_tap(tap, lambda: before)
            return None if value is before else _with_first_tensor(out, value)

        return on_output

    # --- functions

    def _catch(self, path: str) -> None:
        patch = _OwnFunctions(self, path)
        gaps = list(dict.fromkeys(gap for taps in patch.by_call.values() for gap in taps))
        self.undo_with(catch(self._module(path), gaps, patch))

    def at_tap(self, tap: Tap, compute: Callable[[], Tensor]) -> Tensor:
        """The value at a tap: injected or computed, replaced, captured; the stop is raised here."""
        self._reached.add(tap.value)
        if tap.injected:
            value = self.exchange.injected[tap.value]
        else:
            value = compute()
            if tap.functions:
                with mode_off():
                    for function in tap.functions:
                        value = function(value)
        if tap.captured:
            self.exchange.captured[tap.value] = value.clone()
        if tap.stops and self.stopping and self._running:
            raise StopForward(self, value)
        return value


class _OwnFunctions:
    """What an installation does to the functions that one module runs itself."""

    def __init__(self, installation: Installation, path: str) -> None:
        self.installation, self.path = installation, path
        self.by_call: dict[int, dict[Gap, dict[tuple[str, int], Tap]]] = {}
        for (owner, nth), taps in installation.program.ops.items():
            if owner == path:
                gaps = self.by_call.setdefault(nth, {})
                for own, tap in taps.items():
                    gaps.setdefault(self._gap(own, nth), {})[own.name, own.nth] = tap

    def _gap(self, own: OwnOp, nth: int) -> Gap:
        graph = self.installation.graph
        owner = next(c for c in graph.calls_by_path[self.path] if c.nth == nth)
        ends = {graph.calls[call].path for call in (own.after, own.before) if call is not None}
        veils = [
            call.index
            for call in graph.inner_calls.get(owner.index, ())
            if any(inner.path in ends for inner in graph.descendants(call))
        ]
        modules = dict.fromkeys(m for i in veils if (m := self._module(i)) is not None)
        return Gap(self._module(own.after), own.turn, self._module(own.before), tuple(modules))

    def _module(self, call: int | None) -> nn.Module | None:
        if call is None:
            return None
        path = self.installation.graph.calls[call].path
        return self.installation.model.get_submodule(path)

    def taps(self, gap: Gap) -> Mapping[tuple[str, int], Tap]:
        return self.by_call.get(self.installation._nth(self.path), {}).get(gap, {})

    def settle(self, tap: Tap, function: Any, args: Any, kwargs: Any) -> Tensor:
        value = self.installation.at_tap(tap, lambda: _operated(tap, function, args, kwargs))
        if _in_place(function) and value is not args[0] and value.shape == args[0].shape:
            # Which of the two the model goes on with can't be seen from here. What is returned
            # keeps its memory layout, on which torch's kernels depend, and memory of its own.
            args[0].copy_(value)
            return value.clone()
        return value


def _operated(tap: Tap, function: Any, args: Any, kwargs: Any) -> Tensor:
    """A function with its operands as the tap wants them."""
    if tap.skip_position is None:
        result: Tensor = function(*args, **kwargs)
        return result
    operands: list[Tensor] = list(args[:2]) if len(args) > 1 else [args[0], kwargs["other"]]
    for position, changes in tap.operand_functions.items():
        for change in changes:
            operands[position] = change(operands[position])
    if tap.drops_branch:
        return operands[tap.skip_position]
    if tap.drops_skip:
        return operands[1 - tap.skip_position]
    rest = {key: item for key, item in kwargs.items() if key != "other"}
    return function(*operands, *args[2:], **rest)  # type: ignore[no-any-return]


def _in_place(function: Any) -> bool:
    name = getattr(function, "__name__", "")
    return name == "__iadd__" or (name.endswith("_") and not name.endswith("__"))


def _with_first_tensor(out: Any, value: Tensor) -> Any:
    """The structure a module returned, its first tensor replaced."""
    if isinstance(out, Tensor):
        return value
    if isinstance(out, dict):
        key = next(k for k, item in out.items() if next(tensors_in(item), None) is not None)
        return rebuilt(out, {**out, key: _with_first_tensor(out[key], value)})
    items = list(out)
    position = next(i for i, item in enumerate(items) if next(tensors_in(item), None) is not None)
    items[position] = _with_first_tensor(items[position], value)
    return rebuilt(out, items)
