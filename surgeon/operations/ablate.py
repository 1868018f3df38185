"""ablate: the site's output is zero, or its mean over tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic.dataclasses import dataclass

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.site import Site
from surgeon.operations.base import STRICT, Donors, SiteOperation
from surgeon.surgery.edits import Edit, Part, Replace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, config=STRICT)
class Ablate(SiteOperation):
    """The output of each site is replaced; of a sublayer its branch before the add, of `pos_embed`
    what is added.

    Attributes:
        value: "zero", or "mean" over tokens: each token, or each pixel of a feature map, gets the
            mean of its image's.

    >>> Ablate("blocks[0].mlp", value="mean").value
    'mean'
    """

    op: ClassVar[str] = "ablate"
    value: Literal["zero", "mean"] = "zero"

    def resolve(self, anatomy: Anatomy, donors: Donors) -> list[Edit]:
        function = zero if self.value == "zero" else mean_over_tokens
        return [Replace(site, function, _part(site)) for site in self.selection(anatomy)]


def _part(site: Site) -> Part:
    """Of a sublayer its branch, of a position embedding what is added; else the value."""
    added = site.kind == "sublayer" or (site.role == "pos_embed" and site.op is not None)
    return "branch" if added else "value"


def zero(value: Tensor) -> Tensor:
    """Zeros of the same shape."""
    return value.new_zeros(value.shape)


def mean_over_tokens(value: Tensor) -> Tensor:
    """Each token replaced by the mean of all.

    Args:
        value: (batch, tokens, width), or (batch, channels, height, width).
    """
    axes = (1,) if value.ndim == 3 else tuple(range(2, value.ndim))
    return value.mean(axes, keepdim=True).expand_as(value).clone() if axes else value
