"""Steps of gradient ascent as functions: new parameters and memory from old ones, nothing in place.

So that a probe's state can be kept, saved and gone on from at any step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


def adam(
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    memory: Mapping[str, Tensor],
    step: int,
    rate: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A step of Adam (Kingma and Ba 2015), upwards.

    Args:
        memory: "mean/NAME" and "square/NAME" from the step before; empty at the first.
        step: from 0.

    Returns:
        The parameters and the memory after the step.
    """
    moved, kept = {}, {}
    for name, x in parameters.items():
        gradient = gradients[name]
        mean = memory.get(f"mean/{name}", torch.zeros_like(x))
        square = memory.get(f"square/{name}", torch.zeros_like(x))
        mean = mean.lerp(gradient, 1 - _BETAS[0])
        square = _BETAS[1] * square + (1 - _BETAS[1]) * gradient * gradient
        scale = rate / (1 - _BETAS[0] ** (step + 1))
        root = (square / (1 - _BETAS[1] ** (step + 1))).sqrt() + _EPSILON
        moved[name] = x + scale * mean / root
        kept[f"mean/{name}"], kept[f"square/{name}"] = mean, square
    return moved, kept


def plain(
    parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], rate: float
) -> dict[str, Tensor]:
    """A step along the gradient."""
    return {name: x + rate * gradients[name] for name, x in parameters.items()}


def between(ends: tuple[float, float], step: int, steps: int) -> float:
    """A schedule that falls linearly: a (N - i) / N + b i / N.

    >>> between((2.5, 1.5), 110, 220)
    2.0
    """
    share = step / steps
    return ends[0] * (1 - share) + ends[1] * share
