"""Counting: how many numbers go in, and through how few they all pass on the way."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from surgeon.diagnosis.certificates import Evidence
from surgeon.diagnosis.judging import counted
from surgeon.errors import PlanError
from surgeon.inversion.chain import chain

if TYPE_CHECKING:
    from surgeon.anatomist.anatomy import Anatomy
    from surgeon.anatomist.site import Site
    from surgeon.subject import Subject


@dataclass(frozen=True)
class Count:
    """Elements at one place.

    Attributes:
        site: its name.
        elements_in: of the image.
        elements: at the site, prefix tokens included.
        prefix: of these, in class and register tokens.
    """

    site: str
    elements_in: int
    elements: int
    prefix: int

    def as_row(self) -> dict[str, int | str]:
        """For tables."""
        return asdict(self)


def count(anatomy: Anatomy, site: Site) -> Count:
    """Elements in and at a site, from the anatomy alone; no weights are needed."""
    return Count(
        site.name, math.prod(anatomy.input_size), math.prod(site.shape), _prefix(anatomy, site)
    )


def _prefix(anatomy: Anatomy, site: Site) -> int:
    """What a sequence of tokens has beside those that the stem made."""
    stem = stem_site(anatomy)
    if stem is None or len(site.shape) != 3 or len(stem.shape) != 3 or site == stem:
        return 0
    same = stem.shape[2] == site.shape[2]
    return max(0, math.prod(site.shape) - math.prod(stem.shape)) if same else 0


def stem_site(anatomy: Anatomy) -> Site | None:
    """The stem, as tokens where the model has tokens."""
    return next((s for s in anatomy.sites if s.role == "stem"), None)


def narrows(subject: Subject, site: Site) -> list[Count]:
    """The places on the way to a site that everything passes through, in order; the site last."""
    cuts = [link.segment.target for link in chain(subject, site)]
    stem = stem_site(subject.anatomy)
    if stem is not None and stem.order < min(c.order for c in cuts) and _gate(subject, stem, site):
        cuts.insert(0, stem)
    return [count(subject.anatomy, cut) for cut in cuts]


def _gate(subject: Subject, cut: Site, site: Site) -> bool:
    try:
        subject.segment(cut, site)
    except PlanError:
        return False
    return True


def counting_proof(counts: list[Count]) -> Evidence | None:
    """That a map is not injective because all of it passes through fewer numbers than go in."""
    least = min(counts, key=lambda c: c.elements)
    return counted(least.elements_in, least.elements, f"everything passes through {least.site}:")
