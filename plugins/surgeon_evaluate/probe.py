"""The `evaluate` probe: the operated model on labelled images, beside the un-operated one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from surgeon.datasets import Dataset, open_dataset
from surgeon.errors import ProbeError
from surgeon.labels import Labels, class_name, labels_of
from surgeon.probe import Inputs, Result, State, Step
from surgeon.subject import Subject
from surgeon_evaluate.picture import draw
from surgeon_evaluate.report import figures_of, table_of
from surgeon_evaluate.settings import EvaluateSettings


class Evaluate:
    """Accuracy with its interval, per class, and how far the un-operated model would agree.

    The state holds the top-1 of each image and model, so that every figure is counted at
    the end from the same numbers, and a run goes on from any batch.
    """

    Settings: ClassVar[type[EvaluateSettings]] = EvaluateSettings

    def __init__(self) -> None:
        self._data: Dataset | None = None
        self._labels: Labels = ()
        self._reference: nn.Module | None = None

    def start(self, subject: Subject, inputs: Inputs, settings: EvaluateSettings) -> State:
        self._open(subject, settings)
        size = len(self._chosen())
        classes = _logits(subject, torch.zeros(1, *subject.preprocessing.input_size)).shape[1]
        count = min(size, settings.limit or size)
        blank = torch.zeros(0, dtype=torch.int64)
        return {
            "seen": 0,
            "count": count,
            "classes": classes,
            "label": blank,
            "top1": blank,
            "top1_before": blank,
            "top5": 0,
            "top5_before": 0,
            "shift": 0.0,
            "norm_before": 0.0,
        }

    def step(
        self, subject: Subject, inputs: Inputs, settings: EvaluateSettings, state: State
    ) -> Step:
        self._open(subject, settings)
        first, last = state["seen"], min(state["seen"] + settings.batch, state["count"])
        images, labels = self._chosen().batch(first, last, subject.preprocessing)
        _check_labels(labels, state["classes"], settings.data)
        with torch.no_grad():
            logits = _logits(subject, images).float().cpu()
            before = self._unoperated(subject, images, settings)
        following = _counted({**state, "seen": last}, labels, logits, before)
        right = int((following["top1"] == following["label"]).sum())
        log = {"images": last, "accuracy": right / last}
        return Step(
            following,
            log,
            done=last >= state["count"],
            progress=last / state["count"],
            text=f"{last} images, accuracy {right / last:.4f}",
        )

    def finish(
        self, subject: Subject, inputs: Inputs, settings: EvaluateSettings, state: State
    ) -> Result:
        self._open(subject, settings)
        data = self._chosen()
        names = [
            data.classes[i] if i < len(data.classes) else class_name(i, self._labels)
            for i in range(state["classes"])
        ]
        result = Result(draw=draw)
        compared = len(state["top1_before"]) > 0
        result.figures[data.name] = figures_of(state, compared)
        result.tables["classes"] = table_of(state, names, compared)
        result.tensors["label"], result.tensors["top1"] = state["label"], state["top1"]
        if compared:
            result.tensors["top1_before"] = state["top1_before"]
        if settings.compare and not compared:
            result.notes.append(_why_alone(subject))
        for i in _changed(state)[: settings.examples]:
            pixels, _ = data.batch(i, i + 1, subject.preprocessing)
            truth, now = (names[int(state[key][i])] for key in ("label", "top1"))
            was = f"was {names[int(state['top1_before'][i])]}, " if compared else ""
            result.images[f"image {i}: {truth}; {was}now {now}"] = pixels
        return result

    # --- what it works on

    def _open(self, subject: Subject, settings: EvaluateSettings) -> None:
        """Find the data and the names of classes; again after a resume."""
        if self._data is None:
            self._labels = labels_of(subject.plan.recipe.model, subject.model)
            self._data = open_dataset(settings.data, self._labels)

    def _chosen(self) -> Dataset:
        assert self._data is not None
        return self._data

    def _unoperated(
        self, subject: Subject, images: Tensor, settings: EvaluateSettings
    ) -> Tensor | None:
        """Logits of a second model, built by the same recipe and not operated."""
        recipe = subject.plan.recipe
        if not settings.compare or not recipe.operations or recipe.model is None:
            return None
        if self._reference is None:
            self._reference = recipe.load(str(subject.device)).to(subject.dtype)
        logits: Tensor = self._reference(subject.normalize(images))
        return logits.float().cpu()


def _logits(subject: Subject, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits = subject(images)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ProbeError(
            "evaluate",
            f"the output at {subject.output.name} is {tuple(logits.shape)}, no (batch, classes)",
            "a recipe that leaves the head on: no truncate",
        )
    return logits


def _check_labels(labels: Tensor, classes: int, data: str) -> None:
    if int(labels.max()) >= classes:
        raise ProbeError(
            f'evaluate on "{data}"',
            f"a label {int(labels.max())}; the model has {classes} classes",
            "data of the model's own classes",
        )


def _counted(state: State, labels: Tensor, logits: Tensor, before: Tensor | None) -> State:
    """The state with one more batch in it."""
    most = min(5, logits.shape[1])
    top = logits.topk(most, dim=1).indices
    state["label"] = torch.cat([state["label"], labels])
    state["top1"] = torch.cat([state["top1"], logits.argmax(1)])
    state["top5"] += int((top == labels[:, None]).any(1).sum())
    if before is not None:
        top = before.topk(most, dim=1).indices
        state["top1_before"] = torch.cat([state["top1_before"], before.argmax(1)])
        state["top5_before"] += int((top == labels[:, None]).any(1).sum())
        state["shift"] += float((logits - before).double().norm(dim=1).sum())
        state["norm_before"] += float(before.double().norm(dim=1).sum())
    return state


def _changed(state: State) -> list[int]:
    """Images that one of the two models has right; without a second one, those it has wrong."""
    label = state["label"]
    before = state["top1_before"] if len(state["top1_before"]) else label
    found: list[int] = ((before == label) != (state["top1"] == label)).nonzero().flatten().tolist()
    return found


def _why_alone(subject: Subject) -> str:
    if subject.plan.recipe.model is None:
        return "a model of your own: no un-operated copy to compare with"
    return "no operations: the model is compared with nothing"
