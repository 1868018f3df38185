"""truncate: the site's output is the model's."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from surgeon.anatomist.anatomy import Anatomy
from surgeon.operations.base import STRICT, Donors, SiteOperation, single
from surgeon.surgery.edits import Edit, Stop
from surgeon.surgery.program import hookable


@dataclass(frozen=True, config=STRICT)
class Truncate(SiteOperation):
    """The site's output becomes the model's, the site included; nothing after it is computed.

    >>> Truncate("blocks[3]").site
    'blocks[3]'
    """

    op: ClassVar[str] = "truncate"

    def resolve(self, anatomy: Anatomy, donors: Donors) -> list[Edit]:
        site = single(self.selection(anatomy), "truncate")
        hookable(site)
        return [Stop(site)]
