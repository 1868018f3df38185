"""Layers around a module's forward, and held settings: each can be taken off in any order.

A hook can't keep a forward from running, so skips, guards and the add-catching mode live in an
instance-level `forward`. Several surgeries share it: each adds its layer and removes only that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

import torch
from torch import nn

#: A layer gets what lies below it and the call's arguments, and returns the call's result.
Layer = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

_MISSING = object()


class LayeredForward:
    """Stands in for `module.forward` while any layer is on; the last one added runs outermost."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.layers: list[Layer] = []
        self.before = module.__dict__.get("forward", _MISSING)
        self.below: Callable[..., Any] = module.forward
        self.stack: Callable[..., Any] = self.below

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.stack(*args, **kwargs)

    def add(self, layer: Layer) -> None:
        self.layers.append(layer)
        self.stack = _around(layer, self.stack)

    def remove(self, layer: Layer) -> None:
        self.layers.remove(layer)
        self.stack = self.below
        for other in self.layers:
            self.stack = _around(other, self.stack)
        if self.layers or self.module.__dict__.get("forward") is not self:
            return
        if self.before is _MISSING:
            del self.module.__dict__["forward"]
        else:
            self.module.__dict__["forward"] = self.before


def _around(layer: Layer, below: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: layer(below, args, kwargs)


def add_layer(module: nn.Module, layer: Layer) -> Callable[[], None]:
    """Put a layer around a module's forward; returns what takes it off again."""
    forward = module.__dict__.get("forward")
    if not isinstance(forward, LayeredForward):
        forward = LayeredForward(module)
        module.__dict__["forward"] = forward
    forward.add(layer)
    return lambda: forward.remove(layer)


class Holds:
    """Settings held at a value by several holders; the newest holder's value is in force.

    When the last holder lets go, the value found before the first one is put back.
    """

    def __init__(self) -> None:
        self._held: dict[Hashable, tuple[Any, list[tuple[object, Any]]]] = {}
        self._lock = Lock()  # models of several threads share torch's flags

    def hold(
        self, key: Hashable, value: Any, get: Callable[[], Any], put: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Hold a setting; returns what lets go of it.

        Args:
            key: names the setting, for instance `("training", id(module))`.
            get, put: read and write it.
        """
        token = object()
        with self._lock:
            _, holders = self._held.setdefault(key, (get(), []))
            holders.append((token, value))
            put(value)

        def release() -> None:
            with self._lock:
                original, holders = self._held[key]
                holders[:] = [held for held in holders if held[0] is not token]
                put(holders[-1][1] if holders else original)
                if not holders:
                    del self._held[key]

        return release


#: One for the process: surgeries of one model, or of one global flag, must know of each other.
holds = Holds()


def fast_path_off() -> Callable[[], None]:
    """Keep torch's fused attention kernel off: it hides functions and rounds otherwise.

    Returns:
        What lets go of it.
    """
    mha = torch.backends.mha
    return holds.hold("mha", False, mha.get_fastpath_enabled, mha.set_fastpath_enabled)
