"""How an image comes about: the presets with every constant filled in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from surgeon.errors import ProbeError
from surgeon.imaging.parameterisations import (
    Fourier,
    Maco,
    Parameterisation,
    Parameters,
    Pixel,
    Size,
    magnitude_of,
)
from surgeon.imaging.photos import load_photos
from surgeon.imaging.transformations import Piece, parse_transformation
from surgeon.preprocessing import Preprocessing
from surgeon.registry import registry
from surgeon_generate.settings import GenerateSettings

#: The post's losses are 10 (200 - logit) and 20 sum(200 - z) over a channel's tokens: their
#: gradients are those of so many times the logit, and the sum.
_POST_GAIN, _POST_CHANNEL_GAIN = 10.0, 20.0
_POST_CANVAS = 600 / 224
#: Of a channel: side at a model size of 224, rates, sigmas; steps and rates are its dream's.
_POST_OCTAVES = (
    (224, (0.5, 0.4), (2.4, 0.8)), (560, (0.4, 0.3), (1.5, 0.4)), (600, (0.3, 0.2), (1.1, 0.3)),
)  # fmt: skip
_POST_OCTAVE_STEPS = 100
_RATES = {"pixel": 0.02, "fourier": 0.1, "maco": 0.5}
_STEPS = 256
#: Of natural images: in all, and the last of them; those before show half the size, at a quarter's
#: cost. Fewer steps than the third are all fine.
_NATURAL_STEPS, _FINE, _LEAST = 320, 32, 128
#: Sizes of the coarse steps, one after another, times the half: what is found at one size alone is
#: no object.
_SIZES = (1.0, 5 / 7, 9 / 7)
#: Of the rate is left at the end of natural images.
_CALM = 0.06
#: Of the coarse steps of natural images: see `fade` and `focus` of a stage.
_FADE, _FOCUS = 0.27, 0.6
#: Least side of a photo in pixels; what is smaller is an icon.
PHOTO = 64


@dataclass(frozen=True)
class Stage:
    """A part of the way, on one canvas.

    Attributes:
        canvas: (height, width) in pixels.
        steps: gradient evaluations.
        rate, blur: (first, last); blur's sigma in pixels, None for none.
        cropped: gradient and blur act in a random crop of the model's size, each step another.
        pieces: of the views.
        seen: (height, width) that views are shrunk to for the model, a step each in turn; none:
            they are not.
        fade: each step takes so many times the rate of every parameter away.
        focus: share of the steps in which the sharp middle grows; 0: all is sharp from the first.
    """

    canvas: tuple[int, int]
    steps: int
    rate: tuple[float, float]
    blur: tuple[float, float] | None = None
    cropped: bool = False
    pieces: tuple[Piece, ...] = ()
    seen: tuple[tuple[int, int], ...] = ()
    fade: float = 0.0
    focus: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """A preset with every constant filled in.

    Attributes:
        by: "adam" on parameters and views, or "descent" on pixels as in the post.
        size: (height, width) of the model's images.
        gain: of the objective, for "descent".
    """

    by: str
    parameterisation: str
    stages: tuple[Stage, ...]
    size: tuple[int, int]
    blur_kernel: int = 17
    gain: float = 1.0

    @property
    def steps(self) -> int:
        """Gradient evaluations in all."""
        return sum(stage.steps for stage in self.stages)


def schedule_of(
    settings: GenerateSettings, preprocessing: Preprocessing, natural: bool = False
) -> Schedule:
    """Fill in what the settings leave open.

    Args:
        natural: the images are held to photos, by a model that takes half its size too.
    """
    _, height, width = preprocessing.input_size
    if settings.preset == "post":
        make = _post_channels if settings.channels else _post
        return make(settings, height, width)
    made_of = settings.parameterisation or "fourier"
    rate = settings.rate or _RATES[made_of]
    last = settings.rate_end or (rate if settings.rate else rate * (_CALM if natural else 0.2))
    steps = settings.steps or (_NATURAL_STEPS if natural else _STEPS)
    coarse = settings.coarse
    if coarse is None:
        free = settings.canvas is None and settings.transformations is None and made_of != "maco"
        coarse = steps - _FINE if natural and free and steps >= _LEAST else 0
    if coarse >= steps:
        raise ProbeError(
            f"coarse = {coarse}", f"there are {steps} steps in all", "fewer, or more steps"
        )
    turn = rate + (last - rate) * coarse / steps
    canvas = (settings.canvas, settings.canvas) if settings.canvas else (height, width)
    pieces = _views(settings, canvas, (height, width))
    stages = [Stage(canvas, steps - coarse, (turn, last), pieces=pieces)]
    if coarse:
        fade, focus = settings.fade, settings.focus
        if fade is None:
            fade = _FADE if natural and made_of == "fourier" else 0.0
        if focus is None:
            focus = _FOCUS if natural else 0.0
        seen = sizes_of(preprocessing) if natural else (half_of(preprocessing),)
        first = Stage(canvas, coarse, (rate, turn), pieces=pieces, seen=seen)
        stages.insert(0, replace(first, fade=fade, focus=focus))
    elif settings.fade or settings.focus:
        raise ProbeError("fade or focus", "they are of coarse steps: there are none", "coarse = 64")
    return Schedule("adam", made_of, tuple(stages), (height, width))


def half_of(preprocessing: Preprocessing) -> tuple[int, int]:
    """(height, width) of what the model sees in the coarse steps."""
    _, height, width = preprocessing.input_size
    return (height + 1) // 2, (width + 1) // 2


def sizes_of(preprocessing: Preprocessing) -> tuple[tuple[int, int], ...]:
    """(height, width) of what the model sees in the coarse steps of natural images, in turn."""
    height, width = half_of(preprocessing)
    return tuple((round(height * times), round(width * times)) for times in _SIZES)


def _views(
    settings: GenerateSettings, canvas: tuple[int, int], size: tuple[int, int]
) -> tuple[Piece, ...]:
    texts = settings.transformations
    if texts is None:
        texts = _default_views(min(size))
        texts = [f"crop({min(size)})", *texts] if canvas > size else texts
    return tuple(parse_transformation(text) for text in texts)


def _default_views(side: int) -> list[str]:
    """Found best on EfficientNet-Lite0, and for icons on the packaged models."""
    if side >= PHOTO:
        return [f"jitter({round(side / 10)})", "scale(0.9, 1.4)", "rotate(5)"]
    return [f"jitter({side / 14:g})", "scale(0.8, 1.2)", "rotate(10)", "noise(0.03)"]


def _post(settings: GenerateSettings, height: int, width: int) -> Schedule:
    """220 steps on the model's size, 500 on 600 / 224 of it in random crops."""
    larger = (round(height * _POST_CANVAS), round(width * _POST_CANVAS))
    first = round(settings.steps * 220 / 720) if settings.steps else 220
    second = settings.steps - first if settings.steps else 500
    stages = (
        Stage((height, width), max(first, 1), (2.5, 1.5), (2.4, 0.8)),
        Stage(larger, max(second, 1), (1.5, 0.3), (1.5, 0.4), cropped=True),
    )
    return Schedule("descent", "pixel", stages, (height, width), settings.blur_kernel, _POST_GAIN)


def _post_channels(settings: GenerateSettings, height: int, width: int) -> Schedule:
    """Feature maps: 100 steps on each of three sizes, from the model's own to 600 / 224 of it."""
    steps = max(settings.steps // len(_POST_OCTAVES), 1) if settings.steps else _POST_OCTAVE_STEPS
    stages = tuple(
        Stage(
            (round(height * side / 224), round(width * side / 224)), steps, rate, blur, side > 224
        )
        for side, rate, blur in _POST_OCTAVES
    )
    return Schedule(
        "descent", "pixel", stages, (height, width), settings.blur_kernel, _POST_CHANNEL_GAIN
    )


def parameterisation_of(
    schedule: Schedule, stage: Stage, channels: int, settings: GenerateSettings
) -> Parameterisation:
    """What the images of a stage are made of."""
    size: Size = (channels, *stage.canvas)
    if schedule.parameterisation == "pixel":
        if schedule.by != "descent":
            return Pixel(size, spread=0.01, level=0.5)
        return Pixel(size, 0.1, 0.5, uniform=True) if settings.channels else Pixel(size)
    if schedule.parameterisation == "fourier":
        return Fourier(size)
    return Maco(size, magnitude_of(spectrum_photos(settings, size), size))


def carried_over(
    parameters: Parameters, made_of: Parameterisation, before: Stage
) -> dict[str, torch.Tensor]:
    """What a stage begins with: the images of the stage before, without what no view showed."""
    assert isinstance(made_of, Fourier | Pixel)  # the others have one stage
    if before.seen:
        shown = replace(made_of, size=(made_of.size[0], *max(before.seen)))
        parameters = shown.fitted(parameters)
    return made_of.fitted(parameters)


def spectrum_photos(settings: GenerateSettings, size: Size) -> list[torch.Tensor]:
    """The photos whose amplitudes are kept, in their own size's middle square."""
    chosen = settings.spectrum or [f"surgeon:{entry.name}" for entry in registry().all("image")]
    channels, height, width = size
    shape = (channels if channels in (1, 3) else 3, height, width)
    return [photo.pixels for photo in load_photos(chosen, Preprocessing(shape))]
