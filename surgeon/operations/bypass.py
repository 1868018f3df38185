"""bypass: the site is taken out, what came in goes on."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from surgeon.anatomist import roles
from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.site import Site, shape_text
from surgeon.errors import PlanError
from surgeon.operations.base import STRICT, Donors, SiteOperation
from surgeon.surgery.edits import Edit, Replace, Skip
from surgeon.surgery.program import hookable, passing_input


@dataclass(frozen=True, config=STRICT)
class Bypass(SiteOperation):
    """What came into each site goes on; its compute is saved.

    A sublayer: the stream flows past branch and norm, whether or not its residual is dropped. A
    module: it returns its input. `pos_embed`: it is not added. A block that changes the shape
    passes what its skips' projections give.

    >>> Bypass("blocks[4:8].attention").expect is None
    True
    """

    op: ClassVar[str] = "bypass"

    def resolve(self, anatomy: Anatomy, donors: Donors) -> list[Edit]:
        return [edit for site in self.selection(anatomy) for edit in bypass_site(anatomy, site)]


def bypass_site(anatomy: Anatomy, site: Site) -> list[Edit]:
    """The edits that take one site out."""
    hookable(site)
    if site.kind in ("add", "sublayer") or (site.role == "pos_embed" and site.op is not None):
        return [Replace(site, None, "branch")]
    call = anatomy.call_of(site)
    if call is not None and passing_input(anatomy.graph, call) is not None:
        return [Skip(site)]
    residuals = anatomy.residuals_in(site)
    if call is None or not residuals:
        given = [shape_text(anatomy.graph.values[v].shape) for v in (call.inputs if call else ())]
        raise PlanError(
            f"bypass {site.name}",
            f"it would change the shape from {', '.join(given)} to {shape_text(site.shape)},"
            " and there is no skip to pass instead",
            "a site that keeps the shape, or a sublayer",
        )
    adds = [roles.add_site(anatomy.graph, residual, None) for residual in residuals]
    return [Replace(anatomy.named(add), None, "branch") for add in adds]
