"""only: the stem feeds this block alone, and its output is the output."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from surgeon.anatomist import roles
from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.site import Site
from surgeon.errors import PlanError
from surgeon.operations.base import STRICT, Donors, SiteOperation, single
from surgeon.operations.bypass import bypass_site
from surgeon.surgery.edits import Edit, Stop


@dataclass(frozen=True, config=STRICT)
class Only(SiteOperation):
    """Every other block is bypassed, then the model is truncated at the site.

    Class token and position embedding stay, unless bypassed.

    >>> Only("blocks[3]").op
    'only'
    """

    op: ClassVar[str] = "only"

    def resolve(self, anatomy: Anatomy, donors: Donors) -> list[Edit]:
        site = single(self.selection(anatomy), "only")
        home = block_of(anatomy, site)
        edits: list[Edit] = []
        for index, block in enumerate(anatomy.blocks[:home]):
            other = roles.module_site(anatomy.graph, block.call, f"blocks[{index}]")
            edits += bypass_site(anatomy, other)
        return [*edits, Stop(site)]


def block_of(anatomy: Anatomy, site: Site) -> int:
    """The number of the block a site is, or lies in.

    Raises:
        PlanError: it lies in none.
    """
    for index, block in enumerate(anatomy.blocks):
        if block.call.start < site.order <= block.call.end:
            return index
    raise PlanError(
        f"only {site.name}",
        f"it lies in none of the {len(anatomy.blocks)} blocks",
        "a block: blocks[0]",
    )
