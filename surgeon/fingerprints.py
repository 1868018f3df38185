"""What "restored" means: everything about a model that a surgery could have left changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_state_dict_hooks", "_load_state_dict_pre_hooks",
)  # fmt: skip
_TENSORS = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Fingerprint:
    """A model's state, comparable with `==`; `difference` says what changed.

    Attributes:
        facts: name of a fact -> its value.
    """

    facts: tuple[tuple[str, object], ...]

    def difference(self, other: Fingerprint) -> list[str]:
        """Names of the facts that differ, with both values."""
        mine, theirs = dict(self.facts), dict(other.facts)
        names = dict.fromkeys([*mine, *theirs])
        return [
            f"{name}: {mine.get(name)!r} -> {theirs.get(name)!r}"
            for name in names
            if mine.get(name) != theirs.get(name)
        ]


def fingerprint(model: nn.Module, *, full: bool = False) -> Fingerprint:
    """Everything a surgery could leave changed in a model and in torch.

    Identity, version and flags of parameters and buffers, instance attributes, hooks, class and
    training mode of each module, state-dict key order, the depth of torch's mode stacks, and
    torch's global flags.

    Args:
        full: also hash the bytes of every tensor (exact, but reads all of the weights).

    >>> from surgeon.testing import tiny_vit
    >>> model = tiny_vit()
    >>> fingerprint(model) == fingerprint(model)
    True
    """
    facts: dict[str, object] = {"state_dict keys": tuple(model.state_dict())}
    facts.update(_globals())
    for path, module in model.named_modules(remove_duplicate=False):
        facts.update((f"{path}: {name}", fact) for name, fact in _module_facts(module))
        for name, tensor in _own_tensors(module):
            facts[f"{path}.{name}"] = _tensor_facts(tensor, full)
    return Fingerprint(tuple(facts.items()))


def _module_facts(module: nn.Module) -> Iterator[tuple[str, object]]:
    yield "class", f"{type(module).__module__}.{type(module).__qualname__}"
    yield "identity", id(module)
    yield "training", module.training
    for name in _HOOKS:
        yield name, tuple(id(hook) for hook in getattr(module, name).values())
    for name in _TENSORS:
        yield name, tuple((key, id(item)) for key, item in getattr(module, name).items())
    for name, value in vars(module).items():
        if name not in (*_HOOKS, *_TENSORS, "training"):
            yield f"attribute {name}", _plain(value)


def _plain(value: object) -> object:
    """Plain values by value, all else by identity."""
    if isinstance(value, (int, float, str, bool, bytes, type(None), torch.dtype, torch.device)):
        return value
    if isinstance(value, (tuple, list)) and len(value) < 100:
        return tuple(_plain(item) for item in value)
    return type(value).__name__, id(value), len(value) if isinstance(value, (dict, set)) else 0


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for items in (module._parameters, module._buffers):
        for name, tensor in items.items():
            if tensor is not None:
                yield name, tensor


def _tensor_facts(tensor: Tensor, full: bool) -> tuple[object, ...]:
    grad = None if tensor.grad is None else id(tensor.grad)
    version = -1 if tensor.is_inference() else tensor._version
    facts = (
        id(tensor), version, tuple(tensor.shape), str(tensor.dtype), str(tensor.device),
        tensor.requires_grad, grad, tensor.data_ptr() if not tensor.is_meta else 0,
    )  # fmt: skip
    return (*facts, _digest(tensor)) if full and not tensor.is_meta else facts


def _digest(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(raw.tobytes()).hexdigest()


def _globals() -> dict[str, Any]:
    """torch's flags and stacks that a surgery could touch."""
    return {
        "torch function modes": torch._C._len_torch_function_stack(),
        "torch dispatch modes": torch._C._len_torch_dispatch_stack(),
        "gradients enabled": torch.is_grad_enabled(),
        "default dtype": str(torch.get_default_dtype()),
        "mha fast path": torch.backends.mha.get_fastpath_enabled(),
        "flash sdp": torch.backends.cuda.flash_sdp_enabled(),
        "memory-efficient sdp": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "math sdp": torch.backends.cuda.math_sdp_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "global forward hooks": len(torch.nn.modules.module._global_forward_hooks),
        "global forward pre-hooks": len(torch.nn.modules.module._global_forward_pre_hooks),
    }
