"""Looking at a model: one forward without its values, then the reading of what it showed."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.graph import Graph
from surgeon.anatomist.reading import read
from surgeon.anatomist.record import record
from surgeon.anatomist.wrapped import refuse_several_inputs, refuse_wrapped
from surgeon.errors import AnatomyError
from surgeon.registry import registry
from surgeon.surgery.layers import LayeredForward, fast_path_off

_seen: WeakKeyDictionary[nn.Module, dict[Any, Anatomy]] = WeakKeyDictionary()


def look(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> Anatomy:
    """The anatomy of any model, from one forward on the meta device.

    Args:
        model: takes images (batch, channels, height, width), on any device, operated on or not: its
            anatomy is that of the model as it was built.
        input_size: (channels, height, width); found from the model where it says so itself.

    Returns:
        Roles, sites, shapes, order of execution.

    Raises:
        AnatomyError: the model's forward fails on such an input, needs several, or runs where hooks
            don't see it (compiled, scripted, wrapped or quantised models).

    >>> from surgeon.testing import tiny_vit
    >>> len(look(tiny_vit(), (3, 16, 16)).blocks)
    2
    """
    refuse_wrapped(model)
    refuse_several_inputs(model)
    size = tuple(input_size) if input_size else guess_input_size(model)
    key = (size, _signature(model))
    known = _seen.setdefault(model, {})
    if key not in known:
        graph = _record(model, size)
        reading = read(graph)
        name = type(model).__name__
        for entry in registry().all("adapter"):
            if entry.name == name:
                reading = entry.load()(graph, reading)
        known.clear()
        known[key] = Anatomy(name, graph, reading, size)
    return known[key]


def _signature(model: nn.Module) -> int:
    """Changes when modules or shapes do; a model may be altered between two looks."""
    parts = [(name, type(module)) for name, module in model.named_modules()]
    shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    return hash((tuple(parts), tuple(shapes)))


def guess_input_size(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) as a model's own config has it, else 224 pixels square."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    if "input_size" in config:
        channels, height, width = config["input_size"]
        return int(channels), int(height), int(width)
    weights = [p for p in model.parameters() if p.ndim == 4]
    channels = int(weights[0].shape[1]) if weights else 3
    side = getattr(model, "image_size", 224)
    side = side if isinstance(side, int) else 224
    return channels if channels in (1, 3, 4) else 3, side, side


def _record(model: nn.Module, size: tuple[int, ...]) -> Graph:
    release = fast_path_off()
    try:
        try:
            return record(meta_copy(model), torch.empty(1, *size, device="meta"))
        except Exception:  # values are needed after all
            return _record_values(model, size)
    finally:
        release()


def _record_values(model: nn.Module, size: tuple[int, ...]) -> Graph:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    try:
        double = _double(model, {})
        return record(double, torch.zeros(1, *size, device=like.device, dtype=like.dtype))
    except Exception as cause:
        raise AnatomyError(
            f"look at {type(model).__name__} with an input of {'x'.join(map(str, size))}",
            f"its forward fails: {type(cause).__name__}: {cause}"[:300],
            "input_size=(channels, height, width), as the model takes it",
        ) from cause


def meta_copy(model: nn.Module) -> nn.Module:
    """The model's structure on the meta device, un-operated, in evaluation mode."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return _double(model, memo)


def _double(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy without surgeries and without hooks of the user's, which must not see a look."""
    for module in model.modules():
        forward = module.__dict__.get("forward")
        if isinstance(forward, LayeredForward):
            memo[id(forward)] = _OPERATED
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            if not _belongs_to_torch(hook):
                memo[id(hook)] = _LEFT_OUT
    double: nn.Module = copy.deepcopy(model, memo)
    for module in double.modules():
        if module.__dict__.get("forward") is _OPERATED:
            del module.__dict__["forward"]
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for number in [k for k, hook in hooks.items() if hook is _LEFT_OUT]:
                del hooks[number]
    return double.eval()


def _belongs_to_torch(hook: object) -> bool:
    """Torch's own hooks are part of what a model computes: weight norms, spectral norms."""
    return type(hook).__module__.startswith("torch.")


def _left_out(*_: object) -> None:
    """Stands in for a hook that a look leaves out."""


_LEFT_OUT = _left_out
_OPERATED = "operated"
