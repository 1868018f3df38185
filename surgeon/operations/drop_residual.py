"""drop_residual: the add passes its branch alone."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from surgeon.anatomist import roles
from surgeon.anatomist.anatomy import Anatomy
from surgeon.errors import PlanError
from surgeon.operations.base import STRICT, Donors, SiteOperation
from surgeon.surgery.edits import Edit, Replace


@dataclass(frozen=True, config=STRICT)
class DropResidual(SiteOperation):
    """Each residual add at the sites passes its branch alone, bit for bit.

    A block or a stage means every residual add inside it.

    >>> DropResidual("blocks[*]").site
    'blocks[*]'
    """

    op: ClassVar[str] = "drop_residual"

    def resolve(self, anatomy: Anatomy, donors: Donors) -> list[Edit]:
        selection = self.selection(anatomy)
        found = {r.op.index: r for site in selection for r in anatomy.residuals_in(site)}
        if not found:
            raise PlanError(
                f'drop_residual at "{selection.selector}"',
                f"there is no residual add at its {len(selection)} sites,"
                f" of {len(anatomy.residuals)} in {anatomy.model}",
                "; ".join(s.name for s in anatomy.sites if s.kind == "add") or "another model",
            )
        adds = [roles.add_site(anatomy.graph, found[i], None) for i in sorted(found)]
        return [Replace(anatomy.named(site), None, "skip") for site in adds]
