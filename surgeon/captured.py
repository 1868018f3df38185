"""What a run of a subject gives back: values at sites, and tokens that are known beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.anatomist.site import Site


@dataclass(frozen=True)
class Captured:
    """Values of one run.

    Attributes:
        values: site -> its value.
        output: what the run returned: the stop's value, or the model's output.
    """

    values: Mapping[Site, Tensor]
    output: Tensor

    def __getitem__(self, site: Site | str) -> Tensor:
        """A captured value, by site or by its name."""
        if isinstance(site, Site):
            return self.values[site]
        return next(value for key, value in self.values.items() if key.name == site)


@dataclass(frozen=True)
class Pins:
    """Tokens whose value at a site doesn't depend on the image: class and register tokens.

    Attributes:
        mask: (tokens,) bool, true where known.
        values: (1, tokens, width), meaningful where known.
    """

    mask: Tensor
    values: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """x (batch, tokens, width) with the known tokens in place."""
        return torch.where(self.mask[None, :, None], self.values, x)
