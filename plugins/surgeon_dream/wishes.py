"""What a dream raises: whole sites, channels, a guide's features, with a class blended in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.imaging.objective_texts import parse_objective
from surgeon.imaging.objectives import (
    AtSite,
    Channel,
    Objective,
    Seen,
    WholeSite,
    channel_axis,
)
from surgeon.imaging.photos import load_photos
from surgeon.labels import labels_of
from surgeon.subject import Subject
from surgeon_dream.settings import DreamSettings


@dataclass(frozen=True, eq=False)
class Guided(AtSite):
    """Each place's likeness to the most similar place of a guide, by dot product.

    Attributes:
        features: (places, channels) of the guide at the site.
    """

    features: Tensor

    def __call__(self, seen: Seen) -> Tensor:
        places = _places(seen.values[self.site])
        likeness = places @ self.features.T
        return likeness.amax(-1).mean(-1) / self.features.shape[1]


@dataclass(frozen=True)
class Summed(AtSite):
    """The sum of everything at a site: the post's loss is 1e-4 times the sum of 200 - z."""

    def __call__(self, seen: Seen) -> Tensor:
        return 1e-4 * seen.values[self.site].flatten(1).sum(1)


def wish_of(subject: Subject, settings: DreamSettings) -> Objective:
    """The objective of a run, from its settings.

    Raises:
        SelectionError, ProbeError: no such site, class or guide.
    """
    names = sites_of(subject, settings)
    parts: list[Objective] = []
    for name in names:
        if settings.guide:
            parts.append(Guided(name, _guide(subject, name, settings.guide)))
        elif settings.channels:
            parts += [Channel(name, channel) for channel in settings.channels]
        elif settings.preset == "post":
            parts.append(Summed(name))
        else:
            parts.append(WholeSite(name))
    wish = parts[0]
    for part in parts[1:]:
        wish = wish + part
    if settings.plus:
        labels = labels_of(subject.plan.recipe.model, subject.model)
        wish = wish + parse_objective(settings.plus, labels)
    return wish


def sites_of(subject: Subject, settings: DreamSettings) -> list[str]:
    """The sites' names; the middle block where none is asked for."""
    if settings.sites:
        return [site.name for site in subject.sites(settings.sites)]
    blocks = len(subject.anatomy.blocks)
    return [f"blocks[{(blocks - 1) // 2}]"] if blocks else [subject.output.name]


def _guide(subject: Subject, site: str, image: str) -> Tensor:
    photo = load_photos(image, subject.preprocessing)[0]
    with torch.no_grad():
        value = subject.capture(photo.pixels, site)[site]
    return _places(value)[0].detach()


def _places(value: Tensor) -> Tensor:
    """(batch, places, channels) of tokens or feature maps."""
    if value.ndim == 2:
        return value[:, None]
    return value.movedim(channel_axis(value), -1).flatten(1, -2)
