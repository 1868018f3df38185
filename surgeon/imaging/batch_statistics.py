"""How far a batch is from the photos a model was trained on, by what its batch norms remember.

Yin et al., "Dreaming to distill: data-free knowledge transfer via DeepInversion" (2020): the
running mean and variance of each BatchNorm say what photos look like at its input; images whose own
statistics agree look like photos.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: The first layer's share against another's: it sees the pixels (the paper's multiplier).
_FIRST = 10.0


def remembering(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms that keep running statistics, in the order of the model's modules."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within it each forward adds, for each batch norm that runs, how far its input is off.

    Yields:
        A list of scalars, in the order of execution: the squared distance of the batch's mean from
        the running one, in running standard deviations, and of the ratio of standard deviations
        from 1, each a mean over channels.
    """
    found: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(_distance(inputs[0], module))

    handles = [module.register_forward_pre_hook(look) for module in remembering(model)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def distance(parts: list[Tensor]) -> Tensor:
    """A weighted mean of what `recorded` gives; the first layer counts ten times."""
    weights = torch.ones(len(parts))
    weights[0] = _FIRST
    stacked = torch.stack(parts)
    return torch.dot(weights.to(stacked), stacked) / float(weights.sum())


def _distance(x: Tensor, norm: Any) -> Tensor:
    axes = [0, *range(2, x.ndim)]
    spread = (norm.running_var + norm.eps).sqrt()
    mean, variance = x.mean(axes), x.var(axes, unbiased=False)
    shifted = ((mean - norm.running_mean) / spread) ** 2
    widened = ((variance + 1e-6).sqrt() / spread - 1) ** 2
    return torch.add(shifted.mean(), widened.mean())
