"""swap: parameters and buffers come from a donor."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, StrictStr
from pydantic.dataclasses import dataclass

from surgeon.anatomist.anatomy import Anatomy
from surgeon.errors import PlanError
from surgeon.operations.base import STRICT, Donors, SiteOperation
from surgeon.surgery.edits import Edit, SetTensor


@dataclass(frozen=True, config=STRICT)
class Swap(SiteOperation):
    """Each site's parameters and buffers come from a donor model.

    Attributes:
        donor: a donor of the recipe; in Python also "source/name@weights", which becomes one.

    >>> Swap("stem", donor="torchvision/vit_b_32@IMAGENET1K_V1").donor
    'torchvision/vit_b_32@IMAGENET1K_V1'
    """

    op: ClassVar[str] = "swap"
    donor: Annotated[StrictStr, Field(min_length=1)]

    def resolve(self, anatomy: Anatomy, donors: Donors) -> list[Edit]:
        edits: list[Edit] = []
        for site in self.selection(anatomy):
            if not anatomy.parameters_of(site):
                raise PlanError(
                    f"swap {site.name}",
                    f"a {site.kind} without parameters",
                    "a module, a sublayer or a parameter",
                )
            tensors = donors.tensors(self.donor, site, anatomy)
            edits += [SetTensor(path, tensor) for path, tensor in tensors.items()]
        return edits
