"""The `dream` probe: a photo through octaves, as a state machine."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from surgeon.errors import ProbeError
from surgeon.imaging.ascent import between
from surgeon.imaging.metrics import finite
from surgeon.imaging.objectives import Objective, see
from surgeon.imaging.photos import Photo, load_photo
from surgeon.imaging.transformations import resized
from surgeon.labels import class_name, labels_of
from surgeon.probe import Inputs, Result, State, Step
from surgeon.randomness import stream
from surgeon.subject import Subject
from surgeon_dream.octaves import Octave, Way, covered, shift_of, tiles_of, way_of
from surgeon_dream.picture import draw
from surgeon_dream.settings import DreamSettings
from surgeon_dream.wishes import sites_of, wish_of


class Dream:
    """Raises what a site shows for a photo, from a small picture to a large one.

    Mordvintsev, Olah and Tyka, "Inceptionism" (2015): the change made at one size is enlarged and
    added to the photo at the next, so that the photo's own detail stays.
    """

    Settings: ClassVar[type[DreamSettings]] = DreamSettings

    def __init__(self) -> None:
        self._wish: Objective | None = None
        self._ways: dict[str, Way] = {}
        self._bases: dict[tuple[str, int], Tensor] = {}

    def start(self, subject: Subject, inputs: Inputs, settings: DreamSettings) -> State:
        if not inputs.photos:
            raise ProbeError("dream", "no image was given", 'image = "surgeon:chelsea", or a file')
        subject = _as_asked(subject, settings)
        for photo in inputs.photos:
            self._way(subject, photo, settings)
        return {"photo": 0, "octave": 0, "step": 0}

    def step(self, subject: Subject, inputs: Inputs, settings: DreamSettings, state: State) -> Step:
        subject = _as_asked(subject, settings)
        photo = inputs.photos[state["photo"]]
        way, wish = self._way(subject, photo, settings), self._wish_of(subject, settings)
        octave = way.octaves[state["octave"]]
        generator = stream(f"dream/{photo.name}", settings.seed)
        if "random" in state:
            generator.set_state(state["random"])
        following = dict(state)
        image = self._entered(subject, photo, settings, way, state)
        gradient, value = gradient_of(subject, wish, image, way, generator)
        image = _moved(image, gradient, octave, state["step"], settings)
        following |= {"image": image, "random": generator.get_state(), "step": state["step"] + 1}
        if following["step"] >= octave.steps:
            shown = self._at(subject, photo, settings, way, state["octave"], -1, image)
            following = _next(following, image, activation(subject, wish, shown, way), way)
        total = sum(o.steps for o in way.octaves)
        done = sum(o.steps for o in way.octaves[: state["octave"]]) + state["step"] + 1
        log = {"photo": photo.name, "step": done, "objective": finite(value)}
        return Step(
            following,
            log if done % settings.log_every == 0 else None,
            done=following["photo"] >= len(inputs.photos),
            progress=min((state["photo"] + done / total) / len(inputs.photos), 1.0),
            text=f"{photo.name}  {octave.width}x{octave.height}  objective {value:.4g}",
        )

    def finish(
        self, subject: Subject, inputs: Inputs, settings: DreamSettings, state: State
    ) -> Result:
        subject = _as_asked(subject, settings)
        result = Result(draw=draw)
        names = " + ".join(sites_of(subject, settings))
        for number, photo in enumerate(inputs.photos):
            way, image = self._way(subject, photo, settings), state[f"image/{number}"]
            label = names if len(inputs.photos) == 1 else f"{names}, {photo.name}"
            last = len(way.octaves) - 1
            base = self._base(subject, photo, way.octaves[last])
            result.images[label] = image
            result.tensors[f"photo/{label}"] = base
            reached = [activation(subject, self._wish_of(subject, settings), base, way)]
            reached += [state[f"activation/{number}/{i}"] for i in range(last + 1)]
            result.figures[label] = {
                "activation_photo": reached[0],
                "activation": reached[-1],
                "activation_ratio": reached[-1] / reached[0] if reached[0] else None,
                "octaves": last + 1,
                "rises": all(b > a for a, b in pairwise(reached)),
                "height": image.shape[2],
                "width": image.shape[3],
                **_answers(subject, base, image),
            }
            result.curves[label] = [(float(i), value) for i, value in enumerate(reached)]
            result.notes.append(f"{photo.name}: {_said(way, subject)}")
        return result

    def glimpse(
        self, subject: Subject, inputs: Inputs, settings: DreamSettings, state: State
    ) -> Result:
        """The pictures dreamt, and the one at hand at the octave that it has come to."""
        result = Result()
        for number, photo in enumerate(inputs.photos[: state["photo"] + 1]):
            image = state.get(f"image/{number}", state.get("image"))
            if image is not None:
                result.images[photo.name] = image
        return result

    # --- what it works on

    def _wish_of(self, subject: Subject, settings: DreamSettings) -> Objective:
        if self._wish is None:
            self._wish = wish_of(subject, settings)
        return self._wish

    def _way(self, subject: Subject, photo: Photo, settings: DreamSettings) -> Way:
        if photo.name not in self._ways:
            size = photo_size(photo)
            self._ways[photo.name] = way_of(settings, subject, size)
        return self._ways[photo.name]

    def _base(self, subject: Subject, photo: Photo, octave: Octave) -> Tensor:
        """The photo at an octave's size: from its file where there is one."""
        key = (photo.name, octave.height)
        if key not in self._bases:
            size = (octave.height, octave.width)
            if photo.path:
                channels = subject.preprocessing.input_size[0]
                wanted = replace(subject.preprocessing, input_size=(channels, *size), resize=0)
                pixels = load_photo(photo.path, wanted).pixels
            else:
                pixels = resized(photo.pixels, size)
            self._bases[key] = pixels.to(device=subject.device, dtype=subject.dtype)
        return self._bases[key]

    def _entered(
        self, subject: Subject, photo: Photo, settings: DreamSettings, way: Way, state: State
    ) -> Tensor:
        """The picture a step begins with: at the first of an octave, the last one's enlarged."""
        if state["step"]:
            kept: Tensor = state["image"]
            return kept
        octave = way.octaves[state["octave"]]
        base = self._base(subject, photo, octave)
        if state["octave"] == 0:
            return base
        number = state["octave"]
        return self._at(subject, photo, settings, way, number - 1, number, state["image"])

    def _at(
        self,
        subject: Subject,
        photo: Photo,
        settings: DreamSettings,
        way: Way,
        made: int,
        shown: int,
        image: Tensor,
    ) -> Tensor:
        """A picture made at one octave, at the size of another: the photo and the enlarged change.

        In the post it is the picture itself that is enlarged.
        """
        octave = way.octaves[shown]
        size = (octave.height, octave.width)
        if octave == way.octaves[made]:
            return image
        if settings.preset == "post":
            return resized(image, size)
        change = image - self._base(subject, photo, way.octaves[made])
        return (self._base(subject, photo, octave) + resized(change, size)).clamp(0, 1)


def _next(state: State, image: Tensor, reached: float, way: Way) -> State:
    """The state after an octave: the next one ahead, or the next photo."""
    number, octave = state["photo"], state["octave"]
    state = {**state, f"activation/{number}/{octave}": reached, "step": 0}
    if octave + 1 < len(way.octaves):
        return {**state, "octave": octave + 1}
    kept = {k: v for k, v in state.items() if k not in ("image", "random")}
    return {**kept, f"image/{number}": image, "photo": number + 1, "octave": 0}


def photo_size(photo: Photo) -> tuple[int, int]:
    """(height, width) of the photo's file, or of its pixels where it came from none."""
    if not photo.path:
        return photo.pixels.shape[2], photo.pixels.shape[3]
    from PIL import Image, ImageOps

    with Image.open(photo.path) as image:
        width, height = ImageOps.exif_transpose(image).size
    return height, width


def gradient_of(
    subject: Subject,
    wish: Objective,
    image: Tensor,
    way: Way,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """The gradient of the mean over tiles of a rolled picture, and that mean.

    Rolled by another amount at each step, so that no edge of a tile stays in place. One tile is in
    memory at a time.
    """
    height, width = image.shape[2:]
    shift = shift_of(generator, height, width)
    rolled = torch.roll(image, shift, (2, 3))
    tiles = tiles_of(height, width, way.tile)
    total, mean = torch.zeros_like(image), 0.0
    for rows, columns in tiles:
        tile = rolled[:, :, rows, columns].detach().clone().requires_grad_(True)
        value = wish(see(subject, tile, [wish])).sum()
        (gradient,) = torch.autograd.grad(value, tile)
        total[:, :, rows, columns] += gradient
        mean += float(value.detach()) / len(tiles)
    total = total / covered(height, width, tiles).to(total)
    return torch.roll(total, (-shift[0], -shift[1]), (2, 3)), mean


def activation(subject: Subject, wish: Objective, image: Tensor, way: Way) -> float:
    """The objective's mean over the tiles of a picture."""
    tiles = tiles_of(image.shape[2], image.shape[3], way.tile)
    with torch.no_grad():
        values = [float(wish(see(subject, image[:, :, r, c], [wish])).sum()) for r, c in tiles]
    return sum(values) / len(values)


def _moved(
    image: Tensor, gradient: Tensor, octave: Octave, step: int, settings: DreamSettings
) -> Tensor:
    """The picture after a step: a step of fixed mean size; in the post, rate times gradient."""
    rate = between(octave.rate, step, octave.steps)
    if settings.preset == "post":
        return image + rate * gradient
    moved: Tensor = image + rate * gradient / (gradient.abs().mean() + 1e-12)
    return moved.clamp(0, 1)


def _as_asked(subject: Subject, settings: DreamSettings) -> Subject:
    """The post's author fed raw pixels."""
    if settings.preset == "post" and subject.preprocessing.mean:
        return subject.preprocessed(subject.preprocessing.raw())
    return subject


def _answers(subject: Subject, before: Tensor, after: Tensor) -> dict[str, Any]:
    """What the model calls the photo and the dream, where it calls images anything."""
    labels = labels_of(subject.plan.recipe.model, subject.model)
    size = (subject.preprocessing.input_size[1], subject.preprocessing.input_size[2])
    with torch.no_grad():
        output = subject(torch.cat([resized(x, size) for x in (before, after)]))
    if output.ndim != 2:
        return {}
    tops = output.argmax(1).tolist()
    return {"top1_photo": class_name(tops[0], labels), "top1": class_name(tops[1], labels)}


def _said(way: Way, subject: Subject) -> str:
    """How the model was given pictures larger than its own size."""
    sizes = ", ".join(f"{o.width}x{o.height}" for o in way.octaves)
    height, width = way.tile
    if way.crops:
        return f"octaves {sizes}; crops of {width}x{height}, the only size the model takes"
    return f"octaves {sizes}; whole, in tiles of at most {width}x{height}"
