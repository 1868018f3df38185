"""One step of a batch of images: a view, its gradient, and where that leads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from surgeon.imaging.ascent import adam, between, plain
from surgeon.imaging.objectives import see, values_of
from surgeon.imaging.parameterisations import Parameterisation
from surgeon.imaging.transformations import blurred, resized, view
from surgeon.subject import Subject
from surgeon_generate.focus import focused, held, radius_of
from surgeon_generate.schedules import Schedule, Stage
from surgeon_generate.tasks import Task


def pictured(
    made_of: Parameterisation, parameters: dict[str, Tensor], stage: Stage, step: int
) -> Tensor:
    """The images that views are taken of: in a stage with a focus sharp in their middle."""
    return focused(made_of.image(parameters), _radius(stage, step))


def _radius(stage: Stage, step: int) -> float:
    return radius_of(step / stage.steps, stage.focus)


def moved(
    subject: Subject,
    here: Sequence[Task],
    schedule: Schedule,
    stage: Stage,
    made_of: Parameterisation,
    parameters: dict[str, Tensor],
    memory: dict[str, Tensor],
    generator: torch.Generator,
    step: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Parameters and memory after a step, and the objectives' values before it."""
    objectives = [task.objective for task in here]
    rate = between(stage.rate, step, stage.steps)
    if schedule.by == "descent":
        pixels, values = _descended(
            subject, objectives, schedule, stage, parameters["pixels"], generator, step, rate
        )
        return {"pixels": pixels}, {}, values
    leaves = {name: x.detach().requires_grad_(True) for name, x in parameters.items()}
    images = pictured(made_of, leaves, stage, step)
    views = view(stage.pieces, images, schedule.size, generator, step, stage.steps)
    views = resized(views, stage.seen[step % len(stage.seen)]) if stage.seen else views
    # Channels last: a fifth faster on convolutions, the same elsewhere.
    seen = see(subject, views.contiguous(memory_format=torch.channels_last), objectives)
    if stage.focus and seen.strangeness is not None:
        seen = replace(seen, strangeness=held(_radius(stage, step)) * seen.strangeness)
    values = values_of(objectives, seen)
    gradients = torch.autograd.grad(values.sum(), list(leaves.values()))
    named = dict(zip(leaves, gradients, strict=True))
    with torch.no_grad():
        after, kept = adam(parameters, named, memory, step, rate)
        if stage.fade:
            after = {name: x * (1 - rate * stage.fade) for name, x in after.items()}
    return after, kept, values.detach()


def _descended(
    subject: Subject,
    objectives: Sequence[Any],
    schedule: Schedule,
    stage: Stage,
    pixels: Tensor,
    generator: torch.Generator,
    step: int,
    rate: float,
) -> tuple[Tensor, Tensor]:
    """A step as the post's author did: rate times gradient, then the blur, within one crop."""
    height, width = schedule.size
    tops = [int(torch.randint(n - m + 1, (), generator=generator)) if stage.cropped else 0
            for n, m in ((pixels.shape[2], height), (pixels.shape[3], width))]  # fmt: skip
    rows, columns = slice(tops[0], tops[0] + height), slice(tops[1], tops[1] + width)
    crop = pixels[:, :, rows, columns].detach().clone().requires_grad_(True)
    values = values_of(objectives, see(subject, crop, objectives))
    (gradient,) = torch.autograd.grad(schedule.gain * values.sum(), crop)
    with torch.no_grad():
        crop = plain({"x": crop}, {"x": gradient}, rate)["x"]
        if stage.blur is not None:
            sigma = between(stage.blur, step, stage.steps)
            crop = blurred(crop, sigma, schedule.blur_kernel)
        after = pixels.clone()
        after[:, :, rows, columns] = crop
    return after, values.detach()
