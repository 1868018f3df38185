"""Scores beside the picture: what the model says, what it says of other views, and a judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surgeon.imaging.objectives import see, values_of
from surgeon.imaging.priors import total_variation
from surgeon.imaging.transformations import Jitter, Scale, resized, view
from surgeon.labels import Labels, class_name, labels_of
from surgeon.operating import operate
from surgeon.randomness import stream
from surgeon.recipe import ModelSpec, Recipe
from surgeon.sources import load_model
from surgeon.subject import Subject
from surgeon_generate.tasks import Task


def scores_of(
    subject: Subject, images: Tensor, tasks: Sequence[Task], labels: Labels, views: int
) -> list[dict[str, Any]]:
    """Figures of images, in the order of their tasks.

    Args:
        images: (batch, channels, height, width), resized to what the model takes.
        views: random views for `robust`, the share in which the class stays on top.
    """
    size = (subject.preprocessing.input_size[1], subject.preprocessing.input_size[2])
    with torch.no_grad():
        shown = resized(images, size) if tuple(images.shape[2:]) != size else images
        objectives = [task.objective for task in tasks]
        seen = see(subject, shown, objectives)
        values, rough = values_of(objectives, seen), total_variation(shown)
        output = subject(shown)
        found = [
            {"objective": float(v), **_of_class(output[i : i + 1], task, labels)}
            for i, (task, v) in enumerate(zip(tasks, values, strict=True))
        ]
        if views and output.ndim == 2 and any(task.wanted is not None for task in tasks):
            robust = _robust(subject, images, tasks, views)
            for figures, share, task in zip(found, robust, tasks, strict=True):
                figures["robust"] = share if task.wanted is not None else None
    for figures, value in zip(found, rough, strict=True):
        figures["total_variation"] = float(value)
    return found


def _of_class(output: Tensor, task: Task, labels: Labels) -> dict[str, Any]:
    """Logit and probability of the class wanted, and the class on top."""
    if output.ndim != 2:
        return {}
    top = int(output.argmax())
    index = top if task.wanted is None else task.wanted
    return {
        "logit": float(output[0, index]),
        "softmax": float(output.softmax(1)[0, index]),
        "top1": class_name(top, labels),
        "right": None if task.wanted is None else top == task.wanted,
    }


def _robust(subject: Subject, images: Tensor, tasks: Sequence[Task], views: int) -> list[float]:
    """Share of views, jittered by up to a tenth and scaled by 0.8 to 1.2, with the class on top."""
    _, height, width = subject.preprocessing.input_size
    pieces = (Jitter(max(images.shape[2:]) / 10), Scale(0.8, 1.2))
    wanted = torch.tensor([-1 if t.wanted is None else t.wanted for t in tasks])
    generator, hits = stream("generate/views", 0), torch.zeros(len(tasks))
    for _ in range(views):
        seen = subject(view(pieces, images, (height, width), generator))
        hits += (seen.argmax(1).cpu() == wanted).float()
    return [float(h) / views for h in hits]


class Judge:
    """A second model that is asked what it sees, with its own preprocessing."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.spec = ModelSpec.parse(name)
        recipe = Recipe(self.spec)
        self.model = load_model(self.spec, device=device)
        self.labels = labels_of(self.spec, self.model)
        self.recipe = recipe

    def figures(
        self, images: Tensor, tasks: Sequence[Task], labels: Labels
    ) -> list[dict[str, Any]]:
        """The judge's top-1 and its probability of the wanted class."""
        with operate(self.model, self.recipe) as judge, torch.no_grad():
            channels, height, width = judge.preprocessing.input_size
            shown = images.mean(1, keepdim=True) if channels == 1 else images
            shown = shown.expand(-1, channels, -1, -1).clamp(0, 1)
            output = judge(resized(shown, (height, width)))
        found = []
        for i, task in enumerate(tasks):
            top = int(output[i].argmax())
            figures: dict[str, Any] = {"judge_top1": class_name(top, self.labels or labels)}
            if task.wanted is not None and task.wanted < output.shape[1]:
                figures["judge_right"] = top == task.wanted
                figures["judge_softmax"] = float(output[i].softmax(0)[task.wanted])
            found.append(figures)
        return found
