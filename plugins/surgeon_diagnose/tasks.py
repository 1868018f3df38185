"""What a run has to do: pairs, maps from the pixels, sublayers, one after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from surgeon.anatomist.site import Site
from surgeon.errors import PlanError, ProbeError
from surgeon.imaging.photos import Photo
from surgeon.inversion.chain import chain
from surgeon.probe import Inputs
from surgeon.subject import Subject
from surgeon_diagnose.settings import DiagnoseSettings


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Attributes:
        kind: "pair": the second image of a photo; "map": from the pixels to a site; "twin": a plain
            inversion from a site; "sublayer".
        photo: its number and itself.
        site: None for a pair.
        label: what its figures are called.
        far: whether it is a sublayer that nobody named, beyond the first block: judged cheaply.
    """

    kind: Literal["pair", "map", "twin", "sublayer"]
    number: int
    photo: Photo
    site: Site | None
    label: str
    far: bool = False


def tasks_of(subject: Subject, inputs: Inputs, settings: DiagnoseSettings) -> list[Task]:
    """All the work of a run, photos outermost.

    Raises:
        ProbeError: no image was given.
    """
    if not inputs.photos:
        raise ProbeError("diagnose", "no image was given", 'image = "surgeon:chelsea", or a file')
    sites, sublayers = sites_of(subject, settings), _sublayers(subject, settings)
    tasks: list[Task] = []
    for number, photo in enumerate(inputs.photos):
        tail = f", {photo.name}" if len(inputs.photos) > 1 else ""
        if settings.collision:
            tasks.append(Task("pair", number, photo, None, f"second image{tail}"))
        tasks += [Task("map", number, photo, s, f"pixels to {s.name}{tail}") for s in sites]
        if settings.twin_steps:
            tasks += [Task("twin", number, photo, s, f"twin of {s.name}{tail}") for s in sites]
        tasks += [
            Task("sublayer", number, photo, s, f"{s.name}{tail}", far) for s, far in sublayers
        ]
    return tasks


def sites_of(subject: Subject, settings: DiagnoseSettings) -> list[Site]:
    """The sites asked for; in place of the whole model the place its output is made at."""
    return [subject.anatomy.where_made(site) for site in subject.sites(settings.sites)]


def _sublayers(subject: Subject, settings: DiagnoseSettings) -> list[tuple[Site, bool]]:
    """Those to judge alone, and whether each is far."""
    if settings.sublayers is not None:
        named = subject.anatomy.select(settings.sublayers) if settings.sublayers else []
        return [(site, False) for site in named]
    last = max(site.order for site in sites_of(subject, settings))
    inside = [
        s for s in subject.anatomy.sites
        if s.kind == "sublayer" and s.role and not s.blocked and s.order <= last
        and _is_judged(subject, s)
    ]  # fmt: skip
    return [(s, _block(s) != _block(inside[0])) for s in inside]


def _block(site: Site) -> str:
    """ "blocks[3]" of "blocks[3].mlp"."""
    return (site.role or "").rpartition(".")[0]


def _is_judged(subject: Subject, site: Site) -> bool:
    """Whether it does anything to the value before it: else it is bypassed."""
    try:
        return chain(subject, site)[-1].kind != "identity"
    except PlanError:
        return False
