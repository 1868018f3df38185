"""Catching the functions a module runs itself: residual adds, the add of a position embedding.

A function is found by the last inner module that returned before it and by its number, under
torch's name, since then. The mode that catches it is on the stack only in that gap: from the return
of that inner module to the call of the next one. All else runs at full speed, out of its sight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from surgeon.anatomist.record import plain_name
from surgeon.surgery.layers import add_layer
from surgeon.surgery.taps import Tap

#: (torch's name, number under it) of a function in a gap.
OpKey = tuple[str, int]


@dataclass(frozen=True)
class Gap:
    """Where a module's own functions run: after one inner module, before the next.

    Attributes:
        after: the inner module that returns before it; None at the start of the forward.
        turn: which return of it within one call of the module; one may be called several times.
        before: the inner module called next, None at the end.
        veils: inner modules that call `after` or `before` themselves: what they do doesn't count.
    """

    after: nn.Module | None
    turn: int
    before: nn.Module | None
    veils: tuple[nn.Module, ...] = ()


class FunctionPatch(Protocol):
    """What one surgery does to one module's own functions."""

    def taps(self, gap: Gap) -> Mapping[OpKey, Tap]:
        """Taps in a gap, for the call that is running."""

    def settle(self, tap: Tap, function: Any, args: Any, kwargs: Any) -> Tensor:
        """The function's result under the surgery."""


class _Catcher(TorchFunctionMode):
    """One for a module, however many surgeries want something of it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.patches: list[FunctionPatch] = []
        self.gaps: list[Gap] = []
        self.armed: list[tuple[FunctionPatch, Mapping[OpKey, Tap]]] = []
        self.seen: Counter[str] = Counter()
        self.returns: Counter[nn.Module] = Counter()
        self.hooks: dict[tuple[str, nn.Module], RemovableHandle] = {}
        self.running = False
        self.veiled = 0
        self.off = add_layer(module, self.around)

    def around(self, below: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Around the module's forward: whatever happens, the mode is off after it."""
        depth = torch._C._len_torch_function_stack()
        self.returns.clear()
        self.running, self.veiled = True, 0
        self.keep_order()
        try:
            self.arm(None)
            return below(*args, **kwargs)
        finally:
            while torch._C._len_torch_function_stack() > depth:
                torch._C._pop_torch_function_stack()
            self.armed, self.running = [], False

    def keep_order(self) -> None:
        """A user's hook, added since, must not run while the mode is on."""
        for (where, module), handle in self.hooks.items():
            if where == "after":
                _put_at_end(module._forward_hooks, handle.id, last=True)
            elif where == "before":
                _put_at_end(module._forward_pre_hooks, handle.id, last=False)

    def arm(self, after: nn.Module | None) -> None:
        """An inner module has returned, or the forward begins: on, if a gap begins."""
        if not self.running or self.veiled:
            return  # another module called it: it is shared
        turn = 0
        if after is not None:
            turn = self.returns[after]
            self.returns[after] += 1
        found = [
            (patch, taps)
            for gap in self.gaps
            if gap.after is after and gap.turn == turn
            for patch in self.patches
            if (taps := patch.taps(gap))
        ]
        if found:
            torch._C._push_on_torch_function_stack(self)
            self.armed = found
            self.seen.clear()

    def disarm(self) -> None:
        """The next inner module is called: off."""
        if self.armed and _top() is self:
            torch._C._pop_torch_function_stack()
        self.armed = []

    def watch(self, gap: Gap) -> None:
        """Watch a gap from now on."""
        self.gaps.append(gap)
        for veil in gap.veils:
            if ("veil", veil) not in self.hooks:
                down = mark_ours(lambda *_: self.veil(1))
                up = mark_ours(lambda *_: self.veil(-1))
                self.hooks["veil", veil] = veil.register_forward_pre_hook(down)
                self.hooks["unveil", veil] = veil.register_forward_hook(up)
        if gap.after is not None and ("after", gap.after) not in self.hooks:
            hook = mark_ours(lambda module, *_: self.arm(module))
            self.hooks["after", gap.after] = gap.after.register_forward_hook(hook)
        if gap.before is not None and ("before", gap.before) not in self.hooks:
            hook = mark_ours(lambda *_: self.disarm())
            handle = gap.before.register_forward_pre_hook(hook, prepend=True)
            self.hooks["before", gap.before] = handle

    def veil(self, change: int) -> None:
        """An inner module begins or ends that calls a watched one itself."""
        if self.running:
            self.veiled += change

    def close(self) -> None:
        """Nothing is wanted any more."""
        for handle in self.hooks.values():
            handle.remove()
        self.off()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = plain_name(func)
        key = (name, self.seen[name])
        self.seen[name] += 1
        for patch, taps in self.armed:
            tap = taps.get(key)
            if tap is not None:
                func = _wrapped(patch, tap, func)
        return func(*args, **(kwargs or {}))


def _wrapped(patch: FunctionPatch, tap: Tap, function: Any) -> Any:
    def operated(*args: Any, **kwargs: Any) -> Tensor:
        return patch.settle(tap, function, args, kwargs)

    operated.__name__ = getattr(function, "__name__", "")
    return operated


def _top() -> Any:
    depth = torch._C._len_torch_function_stack()
    return torch._C._get_function_stack_at(depth - 1) if depth else None


def mark_ours(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a hook as Surgeon's: a look at an operated model leaves it out."""
    hook.of_surgeon = True  # type: ignore[attr-defined]
    return hook


def _put_at_end(hooks: Any, number: int, *, last: bool) -> None:
    """Move a hook behind, or before, all others, unless one of Surgeon's is there already."""
    end = next(reversed(hooks) if last else iter(hooks))
    if not getattr(hooks[end], "of_surgeon", False):
        hooks.move_to_end(number, last=last)


@contextmanager
def mode_off() -> Iterator[None]:
    """Functions run here are not caught: for what a patch does between a module's functions."""
    catcher = _top()
    if not isinstance(catcher, _Catcher):
        yield
        return
    torch._C._pop_torch_function_stack()
    try:
        yield
    finally:
        torch._C._push_on_torch_function_stack(catcher)


_catchers: WeakKeyDictionary[nn.Module, _Catcher] = WeakKeyDictionary()


def catch(module: nn.Module, gaps: list[Gap], patch: FunctionPatch) -> Callable[[], None]:
    """Catch functions of a module for one surgery; returns what lets them go.

    Args:
        module: whose own functions.
        gaps: where they run.
        patch: what to do at which function.
    """
    catcher = _catchers.get(module)
    if catcher is None:
        catcher = _catchers[module] = _Catcher(module)
    catcher.patches.append(patch)
    for gap in gaps:
        if gap not in catcher.gaps:
            catcher.watch(gap)

    def release() -> None:
        catcher.patches.remove(patch)
        if not catcher.patches:
            del _catchers[module]
            catcher.close()

    return release
