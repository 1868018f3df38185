"""Putting resolved edits on a model: tensors, flags, then the forward. All or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from surgeon.errors import PlanError
from surgeon.surgery.edits import Edit, SetTensor
from surgeon.surgery.handles import Handle
from surgeon.surgery.install import Exchange, Installation, install
from surgeon.surgery.layers import fast_path_off, holds
from surgeon.surgery.program import Program


class Applied(Handle):
    """A surgery on a model.

    Attributes:
        installation: the part of it in the forward.
        edits: what was applied.
    """

    installation: Installation

    def __init__(self, edits: Sequence[Edit]) -> None:
        super().__init__()
        self.edits = tuple(edits)


def apply_edits(
    model: nn.Module, edits: Sequence[Edit], program: Program, *, trainable: bool = False
) -> Applied:
    """Apply edits whose program is worked out.

    Args:
        trainable: leave `requires_grad` and training modes alone.

    Returns:
        The handle that undoes all of it.

    Raises:
        WeightsError: a donor's tensor can't be read; nothing stays applied.
    """
    handle = Applied(edits)
    try:
        handle.undo_with(lambda: _freeze_returned(model, handle))
        handle.undo_with(fast_path_off())
        for path, edit in {e.path: e for e in edits if isinstance(e, SetTensor)}.items():
            _set_tensor(model, path, edit, handle)
        if not trainable:
            _freezing.setdefault(model, []).append(handle)
            handle.undo_with(lambda: _freezing[model].remove(handle))
            _freeze(model, handle)
        handle.installation = install(model, program, Exchange())
        handle.undo_with(handle.installation.remove)
    except BaseException:
        handle.remove()
        raise
    return handle


#: The surgeries on each model that keep its weights frozen.
_freezing: WeakKeyDictionary[nn.Module, list[Handle]] = WeakKeyDictionary()


def _freeze_returned(model: nn.Module, gone: Handle) -> None:
    """A surgery has put back what it had swapped: frozen too, if another keeps the model so."""
    for other in _freezing.get(model, ()):
        if other is not gone:
            _freeze(model, other)
            return


def _freeze(model: nn.Module, handle: Handle) -> None:
    for module in model.modules():
        _hold(handle, module, "training", False)
    for parameter in model.parameters():
        _hold(handle, parameter, "requires_grad", False)


def _hold(handle: Handle, owner: nn.Module | Tensor, name: str, value: bool) -> None:
    release = holds.hold(
        (name, id(owner)),
        value,
        lambda: getattr(owner, name),
        lambda now: setattr(owner, name, now),
    )
    handle.undo_with(release)


def _set_tensor(model: nn.Module, path: str, edit: SetTensor, handle: Handle) -> None:
    """Put another tensor in a parameter's or buffer's place; the first one is kept as it is."""
    owner_path, _, name = path.rpartition(".")
    owner = model.get_submodule(owner_path)
    table: dict[str, Any] = owner._parameters if name in owner._parameters else owner._buffers
    now = table[name]
    values = edit.tensor.load()
    if now is None or values.shape != now.shape:
        raise PlanError(
            f"set {path}",
            f"{tuple(values.shape)} from {edit.tensor.origin},"
            f" {None if now is None else tuple(now.shape)} here",
            "plan again: the model has changed",
        )
    fresh: Tensor = values.detach().to(device=now.device, dtype=now.dtype, copy=True)
    if isinstance(now, nn.Parameter):
        fresh = nn.Parameter(fresh, requires_grad=now.requires_grad)
    put: Callable[[Tensor], None] = lambda tensor: table.__setitem__(name, tensor)  # noqa: E731
    handle.undo_with(holds.hold((id(table), name), fresh, lambda: table[name], put))
