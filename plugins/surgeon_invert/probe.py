"""The `invert` probe: sites x images x seeds, one inversion after another, as a state machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from surgeon.anatomist.site import Site
from surgeon.errors import ProbeError
from surgeon.imaging.metrics import finite, l2, psnr
from surgeon.imaging.photos import Photo
from surgeon.inversion.matching import Matching, score, start_image
from surgeon.inversion.row_space import row_space
from surgeon.probe import Inputs, Result, State, Step
from surgeon.runs.state import pack, unpack
from surgeon.subject import Subject
from surgeon_invert.methods import Descent, Progress, Schedule, schedule_of
from surgeon_invert.picture import draw
from surgeon_invert.settings import InvertSettings


@dataclass(frozen=True)
class Task:
    """One inversion: its sites, image and seed."""

    sites: tuple[Site, ...]
    photo: Photo
    seed: int
    label: str


def tasks_of(subject: Subject, inputs: Inputs, settings: InvertSettings) -> list[Task]:
    """Every inversion of a run, sites outermost.

    A label is the site's name, with image and seed where there are several.
    """
    if not inputs.photos:
        raise ProbeError("invert", "no image was given", 'image = "surgeon:chelsea", or a file')
    sites = subject.sites(settings.sites)
    groups: Sequence[tuple[Site, ...]] = [(site,) for site in sites]
    if settings.target == "joint":
        groups = [tuple(sites)]
    tasks = []
    for group in groups:
        for photo in inputs.photos:
            for seed in settings.seeds:
                parts = [" + ".join(site.name for site in group)]
                parts += [photo.name] if len(inputs.photos) > 1 else []
                parts += [f"seed {seed}"] if len(settings.seeds) > 1 else []
                tasks.append(Task(group, photo, seed, ", ".join(parts)))
    return tasks


class Invert:
    """Reconstructs an image from its output at a site.

    Mahendran and Vedaldi, "Understanding deep image representations by inverting them" (2015), with
    the constants of the post under `preset = "post"`.
    """

    Settings: ClassVar[type[InvertSettings]] = InvertSettings

    def __init__(self) -> None:
        self._live: tuple[State, Descent] | None = None

    def start(self, subject: Subject, inputs: Inputs, settings: InvertSettings) -> State:
        tasks_of(subject, inputs, settings)
        return {"task": 0, "step": 0, "began": False}

    def step(
        self, subject: Subject, inputs: Inputs, settings: InvertSettings, state: State
    ) -> Step:
        subject = _as_asked(subject, settings)
        tasks = tasks_of(subject, inputs, settings)
        task = tasks[state["task"]]
        schedule = schedule_of(settings, subject.anatomy)
        descent = self._descent(subject, task, schedule, state)
        descent.step()
        progress = descent.progress
        following = {**state, **_packed(descent), "began": True, "step": state["step"] + 1}
        log = _log_line(task, descent, settings, following["step"])
        if progress.stopped:
            following = self._completed(subject, task, descent, following)
        self._live = (following, descent)
        share = min(progress.spent / schedule.steps, 1.0)
        share = 1.0 if progress.stopped else share
        return Step(
            following,
            log,
            done=following["task"] >= len(tasks),
            progress=(state["task"] + share) / len(tasks),
            text=f"{task.label}  loss {progress.loss:.3g}  distance {progress.distance:.3g}",
        )

    def _descent(self, subject: Subject, task: Task, schedule: Schedule, state: State) -> Descent:
        """The descent a state is in: the one at hand, or built from the state."""
        live, self._live = self._live, None  # until the step is whole: it may be interrupted
        if live is not None and live[0] is state and state["began"]:
            return live[1]
        matching = matching_of(subject, task)
        if not state["began"]:
            image = start_image(matching.target.shape, task.seed).to(matching.target)
            return Descent(matching, schedule, Progress(image, image.clone()))
        kept = unpack(state, "descent")
        memory = kept.pop("memory")
        return Descent(matching, schedule, Progress(**kept), memory)

    def _completed(self, subject: Subject, task: Task, descent: Descent, state: State) -> State:
        """The state after one inversion: its image and figures kept, the next one ahead."""
        image, matching = descent.result(), descent.matching
        start = start_image(image.shape, task.seed).to(image)
        figures = score(
            matching, image, start, seed=task.seed,
            entry=subject.anatomy.entry, row_space=row_space(subject),
        )  # fmt: skip
        figures["gradient_evaluations"] = descent.progress.spent
        figures["stopped"] = descent.progress.stopped
        kept = {k: v for k, v in state.items() if not k.startswith("descent")}
        number = state["task"]
        return {
            **kept,
            "task": number + 1,
            "step": 0,
            "began": False,
            f"image/{number}": image,
            **pack(figures, f"figures/{number}"),
        }

    def finish(
        self, subject: Subject, inputs: Inputs, settings: InvertSettings, state: State
    ) -> Result:
        subject = _as_asked(subject, settings)
        result = Result(draw=draw)
        for number, task in enumerate(tasks_of(subject, inputs, settings)):
            result.images[task.label] = state[f"image/{number}"]
            result.figures[task.label] = unpack(state, f"figures/{number}")
            start = start_image(task.photo.pixels.shape, task.seed)
            result.tensors[f"target/{task.photo.name}"] = task.photo.pixels
            result.tensors[f"start/seed {task.seed}"] = start
            if task.photo.notes:
                result.notes.append(f"{task.photo.name}: {', '.join(task.photo.notes)}")
        return result


def _as_asked(subject: Subject, settings: InvertSettings) -> Subject:
    """The post's author fed raw pixels."""
    if settings.preset == "post" and subject.preprocessing.mean:
        raw = subject.preprocessed(subject.preprocessing.raw())
        raw.ledger = subject.ledger
        return raw
    return subject


def matching_of(subject: Subject, task: Task) -> Matching:
    """What a task matches."""
    target = task.photo.pixels.to(device=subject.device, dtype=subject.dtype)
    return Matching(subject, task.sites, target)


def _packed(descent: Descent) -> State:
    progress = descent.progress
    tree = {
        "image": progress.image.detach(),
        "seen": progress.seen,
        "spent": progress.spent,
        "loss": progress.loss,
        "distance": progress.distance,
        "memory": descent.optimizer.state_dict(),
    }
    return pack(tree, "descent")


def _log_line(
    task: Task, descent: Descent, settings: InvertSettings, step: int
) -> dict[str, object] | None:
    progress = descent.progress
    every = settings.log_every or max(1, descent.schedule.steps // 150)
    if step % (1 if descent.lbfgs else every) and step > 1 and not progress.stopped:
        return None
    with torch.no_grad():
        target, image = descent.matching.target, progress.seen
        return {
            "task": task.label,
            "gradient_evaluations": progress.spent,
            "loss": finite(progress.loss),
            "embedding_distance": finite(progress.distance),
            "input_distance": finite(l2(target, image)),
            "psnr": finite(psnr(target, image)),
        }
