"""Reading weights: only the tensors asked for, never a pickle with code in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from surgeon.anatomist.site import shape_text
from surgeon.errors import WeightsError, nearest
from surgeon.surgery.edits import TensorSource
from surgeon.weights_files import SUFFIXES


class TensorStore:
    """Named tensors that are read when asked for.

    Attributes:
        origin: file or tag, for messages.
        shapes: name -> shape, of all of them.
    """

    def __init__(
        self, origin: str, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor]
    ) -> None:
        self.origin, self.shapes, self._read = origin, dict(shapes), read

    def source(self, name: str) -> TensorSource:
        """A tensor as an edit wants it: shape now, values later.

        Raises:
            WeightsError: no such tensor; on loading, one with NaN or infinite values.
        """
        if name not in self.shapes:
            raise WeightsError(
                f"tensor {name} of {self.origin}",
                f"not among its {len(self.shapes)} tensors",
                nearest(name, self.shapes),
            )
        return TensorSource(self.shapes[name], lambda: self.read(name), f"{self.origin}: {name}")

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        tensor = self._read(name)
        check_finite(tensor, f"{name} of {self.origin}")
        return tensor

    def state_dict(self) -> dict[str, Tensor]:
        """All of them."""
        return {name: self.read(name) for name in self.shapes}


def store_of(state: Mapping[str, Tensor], origin: str) -> TensorStore:
    """A store of tensors already in memory."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return TensorStore(origin, shapes, lambda name: state[name])


def open_weights(path: str | Path) -> TensorStore:
    """Open a local weights file.

    Args:
        path: a .safetensors file (only its header is read now), or a .pth file of a state dict
            (plain, or under "state_dict" or "model").

    Raises:
        WeightsError: missing, of another kind, unreadable, or holding anything but tensors.
    """
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise WeightsError(
            f"weights {path}",
            f'files of kind "{file.suffix}" are not read',
            " or ".join(SUFFIXES) + "; nothing that can hold code",
        )
    if not file.is_file():
        near = [p.name for p in file.parent.glob("*") if p.suffix in SUFFIXES]
        raise WeightsError(f"weights {path}", "no such file", nearest(file.name, near) or "a path")
    if file.suffix == ".safetensors":
        return _open_safetensors(file)
    return store_of(_read_pth(file), str(file))


def _open_safetensors(file: Path) -> TensorStore:
    try:
        handle = safe_open(file, framework="pt")
        shapes = {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as cause:
        raise WeightsError(
            f"weights {file}", f"no readable safetensors file: {cause}", "download it again"
        ) from None
    return TensorStore(str(file), shapes, handle.get_tensor)


def _read_pth(file: Path) -> dict[str, Tensor]:
    try:
        loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as cause:  # torch raises a dozen kinds here
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else repr(cause)
        raise WeightsError(
            f"weights {file}",
            f"not a plain state dict: {reason}",
            "save it with torch.save(model.state_dict(), ...), or as .safetensors",
        ) from None
    for key in ("state_dict", "model", "model_state"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise WeightsError(
            f"weights {file}",
            f"it holds a {type(loaded).__name__}, not named tensors alone",
            "a state dict",
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}


def load_into(model: nn.Module, store: TensorStore) -> None:
    """Load every tensor of a store into a model.

    Raises:
        WeightsError: names or shapes differ, or a value is NaN or infinite.
    """
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    asked = f"weights {store.origin} in {type(model).__name__}"
    missing = [name for name in own if name not in store.shapes]
    unknown = [name for name in store.shapes if name not in own]
    if missing or unknown:
        raise WeightsError(
            asked,
            f"{len(missing)} tensors missing ({', '.join(missing[:3])}),"
            f" {len(unknown)} unknown ({', '.join(unknown[:3])})",
            "weights of this architecture with the same options",
        )
    for name, shape in own.items():
        if store.shapes[name] != shape:
            raise WeightsError(
                asked,
                f"{name} is {shape_text(store.shapes[name])} there, {shape_text(shape)} here",
                "the options the weights were made with",
            )
    model.load_state_dict(store.state_dict())


def check_finite(tensor: Tensor, name: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        WeightsError: there are some; how many is said.
    """
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise WeightsError(
            f"weights {name}",
            f"{bad} of {tensor.numel()} values are NaN or infinite",
            "weights of a run that did not diverge",
        )


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, non-persistent ones too, by every name they have."""
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    return {name: tensor.detach() for name, tensor in named}


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in order of name."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
