"""Models that can't be looked at as they are: wrapped, compiled, scripted, quantised."""

from __future__ import annotations

import inspect

from torch import nn

from surgeon.errors import AnatomyError

#: Where a class is defined -> what its modules are, and what to do instead. Matched by prefix.
_KINDS = (
    (
        "torch.jit", "scripted: torch runs its submodules where no hook sees them",
        "the model before torch.jit.script or trace",
    ),
    (
        "torch._dynamo", "compiled: torch runs a graph of its own, without hooks",
        "the model before torch.compile (model._orig_mod); compile what is operated if you like",
    ),
    (
        "torch.nn.parallel", "wrapped: copies of it run elsewhere, without hooks",
        "the model inside (model.module)",
    ),
    (
        "torch.distributed", "wrapped: its weights lie in shards",
        "the model before wrapping",
    ),
    (
        "torch.ao.nn.quantized", "quantised: its weights are packed integers without gradients",
        "the float model it was made from",
    ),
    (
        "torch.ao.nn.intrinsic.quantized",
        "quantised: its weights are packed integers without gradients",
        "the float model it was made from",
    ),
)  # fmt: skip

#: At home among the quantised, but of a model that only may be quantised one day.
_FLOATING = ("FloatFunctional", "QuantStub", "DeQuantStub")


def refuse_wrapped(model: nn.Module) -> None:
    """Refuse a model in which hooks would not see what runs.

    Raises:
        AnatomyError: it, or a module in it, is compiled, scripted, wrapped or quantised.
    """
    for path, module in model.named_modules():
        if type(module).__name__ in _FLOATING:
            continue
        home = next((c.__module__ for c in type(module).__mro__ if _kind(c.__module__)), None)
        kind = _kind(home or "")
        if module._compiled_call_impl is not None:
            kind = ("", "compiled: torch runs a graph of its own, without hooks",
                    "operate on it first, then call its compile()")  # fmt: skip
        if kind is not None:
            name = f"{path} of {type(model).__name__}" if path else type(model).__name__
            raise AnatomyError(f"look at {name}", f"it is {kind[1]}", kind[2])


def _kind(home: str) -> tuple[str, str, str] | None:
    return next((k for k in _KINDS if home == k[0] or home.startswith(k[0] + ".")), None)


def refuse_several_inputs(model: nn.Module) -> None:
    """Refuse a model whose forward needs more than the images.

    Raises:
        AnatomyError: it does; the names of its inputs are given.
    """
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in _NAMED]
    if len(needed) > 1:
        raise AnatomyError(
            f"look at {type(model).__name__}",
            f"its forward needs {len(needed)} inputs: {', '.join(needed)}",
            "a module of your own around it that takes images alone and holds the rest",
        )


_NAMED = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)
