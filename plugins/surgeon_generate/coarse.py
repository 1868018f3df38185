"""Whether images begin on half the canvas, where what is large in them is found first."""

from __future__ import annotations

from surgeon.errors import ProbeError
from surgeon.imaging.sizes import refusal
from surgeon.subject import Subject
from surgeon_generate.schedules import PHOTO, half_of, sizes_of
from surgeon_generate.settings import GenerateSettings
from surgeon_generate.tasks import held_to_photos


def coarse_first(subject: Subject, settings: GenerateSettings) -> bool:
    """Whether the default does: images held to photos, by a model that takes half its size too.

    Raises:
        ProbeError: coarse steps are asked for, and the model takes its own size only.
    """
    half = half_of(subject.preprocessing)
    natural = held_to_photos(subject, settings) and min(half) >= PHOTO
    if not natural and not settings.coarse:
        return False
    sizes = sizes_of(subject.preprocessing) if natural else (half,)
    refused = ((size, refusal(subject, *size)) for size in sizes)
    found = next(((size, why) for size, why in refused if why is not None), None)
    if settings.coarse and found is not None:
        (height, width), why = found
        raise ProbeError(
            f"coarse = {settings.coarse} on {type(subject.model).__name__}",
            f"it takes no {height} x {width} pixels: {why}",
            "coarse = 0",
        )
    return natural and found is None
