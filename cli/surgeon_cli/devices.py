"""--device and --dtype, checked."""

from __future__ import annotations

from typing import Any

from surgeon.errors import DeviceError, nearest

_DTYPES = ("float32", "float64", "bfloat16", "float16")


def checked_device(device: str | None) -> str | None:
    """A device torch can use here.

    Raises:
        DeviceError: it can't.
    """
    if device is None:
        return None
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as cause:
        raise DeviceError(
            f"--device {device}", str(cause).splitlines()[0], "cpu, or leave it out"
        ) from None
    return device


def checked_dtype(dtype: str | None) -> Any:
    """A floating dtype by name, None for none."""
    if dtype is None:
        return None
    import torch

    if dtype not in _DTYPES:
        raise DeviceError(f"--dtype {dtype}", "no such dtype", nearest(dtype, _DTYPES))
    return getattr(torch, dtype)
