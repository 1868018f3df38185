"""What a run of `generate` makes: a list of images with their objectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surgeon.imaging.batch_statistics import remembering
from surgeon.imaging.objective_texts import parse_objective
from surgeon.imaging.objectives import (
    BatchStatistics,
    Channel,
    Logit,
    LogSoftmax,
    Objective,
    Token,
    TotalVariation,
    WholeSite,
)
from surgeon.labels import Labels, class_index, class_name
from surgeon.subject import Subject
from surgeon_generate.schedules import PHOTO
from surgeon_generate.settings import GenerateSettings

#: Weights of a class's objective, found on EfficientNet-Lite0.
_LOGIT, _STATISTICS, _VARIATION = 0.2, 40.0, 20.0


@dataclass(frozen=True)
class Task:
    """One image.

    Attributes:
        label: for pictures and records.
        objective: to be raised.
        wanted: the class, if it is one.
        seed: of its start.
    """

    label: str
    objective: Objective
    wanted: int | None
    seed: int


def tasks_of(
    subject: Subject, settings: GenerateSettings, labels: Labels, classes: int | None
) -> list[Task]:
    """Every image of a run: classes, objectives, then sites, each under every seed.

    Args:
        classes: how many the output has; None where it is no vector of classes.
    """
    found: list[tuple[str, Objective, int | None]] = []
    for asked in settings.classes:
        index = class_index(asked, labels, classes)
        found.append((class_name(index, labels), _of_class(index, subject, settings), index))
    found += [(text, parse_objective(text, labels, classes), None) for text in settings.objectives]
    found += [(name, objective, None) for name, objective in _of_sites(subject, settings)]
    plus = parse_objective(settings.plus, labels, classes) if settings.plus else None
    tasks = []
    for seed in settings.seeds:  # outermost: a batch then holds many classes, as photos do
        for name, objective, wanted in _distinct(found):
            whole = objective + plus if plus is not None else objective
            label = f"{name}, seed {seed}" if len(settings.seeds) > 1 else name
            tasks.append(Task(label, whole, wanted, seed))
    return tasks


def _of_photos(subject: Subject) -> bool:
    """Whether the model remembers what photos are like; icons are not judged by crops of them."""
    return min(subject.preprocessing.input_size[1:]) >= PHOTO and bool(remembering(subject.model))


def held_to_photos(subject: Subject, settings: GenerateSettings) -> bool:
    """Whether the images of classes are held to what the model remembers of photos."""
    default = settings.preset == "default" and settings.plus is None
    return bool(settings.classes) and default and _of_photos(subject)


def _of_class(index: int, subject: Subject, settings: GenerateSettings) -> Objective:
    """What the images of a class are raised in.

    Where the model remembers photos, they are held to them: the probability pulls until the class
    is on top, and the logit no harder than leaves an image natural.
    """
    if not held_to_photos(subject, settings):
        return Logit(index)
    wish = LogSoftmax(index) + _LOGIT * Logit(index)
    return wish + _STATISTICS * BatchStatistics() + _VARIATION * TotalVariation()


def _of_sites(subject: Subject, settings: GenerateSettings) -> list[tuple[str, Objective]]:
    if not settings.sites:
        return []
    found: list[tuple[str, Objective]] = []
    for site in subject.sites(settings.sites):
        found += [
            (f"{site.name}, channel {c}", Channel(site.name, c, summed=settings.preset == "post"))
            for c in settings.channels
        ]
        found += [(f"{site.name}, token {t}", Token(site.name, t)) for t in settings.tokens]
        if not settings.channels and not settings.tokens:
            found.append((site.name, WholeSite(site.name)))
    return found


def _distinct(
    found: Sequence[tuple[str, Objective, int | None]],
) -> list[tuple[str, Objective, int | None]]:
    """Two classes of one name (there are two cranes) get their index; repeats go."""
    names = [name for name, _, _ in found]
    told = [
        (f"{name} ({index})" if names.count(name) > 1 and index is not None else name, o, index)
        for name, o, index in found
    ]
    return list({name: (name, o, index) for name, o, index in told}.values())
