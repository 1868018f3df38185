"""The `generate` probe: images from noise, batch after batch, as a state machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from surgeon.imaging.metrics import finite
from surgeon.imaging.objectives import see, values_of
from surgeon.imaging.parameterisations import Parameterisation
from surgeon.labels import Labels, labels_of
from surgeon.probe import Inputs, Result, State, Step
from surgeon.randomness import stream
from surgeon.runs.state import pack, unpack
from surgeon.subject import Subject
from surgeon_generate.animation import animated, frame_of
from surgeon_generate.coarse import coarse_first
from surgeon_generate.moves import moved, pictured
from surgeon_generate.picture import draw
from surgeon_generate.schedules import (
    Schedule,
    Stage,
    carried_over,
    parameterisation_of,
    schedule_of,
)
from surgeon_generate.scoring import Judge, scores_of
from surgeon_generate.settings import GenerateSettings
from surgeon_generate.tasks import Task, tasks_of


class Generate:
    """Images that a class, a channel, a token or a site wants.

    Erhan et al. (2009), Simonyan et al. (2014); parameterisations and views after Olah, Mordvintsev
    and Schubert, "Feature visualization" (2017); the author's constants under `preset = "post"`.

    A state holds the parameters of one batch of images, the optimiser's memory, the random state,
    and everything finished. Steps are functions of it.
    """

    Settings: ClassVar[type[GenerateSettings]] = GenerateSettings

    def __init__(self) -> None:
        self._known: tuple[Labels, list[Task]] | None = None
        self._made_of: dict[tuple[int, ...], Parameterisation] = {}
        self._way: Schedule | None = None

    def start(self, subject: Subject, inputs: Inputs, settings: GenerateSettings) -> State:
        subject = _as_asked(subject, settings)
        _, tasks = self._tasks(subject, settings)
        schedule = self._schedule(subject, settings)
        sizes = {s for stage in schedule.stages for s in stage.seen or (schedule.size,)}
        with torch.no_grad():  # a wrong site, channel or class is told before any work
            for size in sorted(sizes, reverse=True):
                blank = torch.full((1, subject.preprocessing.input_size[0], *size), 0.5)
                for task in tasks:
                    values_of([task.objective], see(subject, blank, [task.objective]))
        if settings.judge:
            Judge(settings.judge, subject.device)
        return {"task": 0, "stage": 0, "step": 0, "done": 0}

    def step(
        self, subject: Subject, inputs: Inputs, settings: GenerateSettings, state: State
    ) -> Step:
        subject = _as_asked(subject, settings)
        _, tasks = self._tasks(subject, settings)
        schedule = self._schedule(subject, settings)
        here = tasks[state["task"] : state["task"] + settings.batch]
        stage = schedule.stages[state["stage"]]
        made_of = self._parameterisation(subject, schedule, stage, settings)
        parameters, memory, generator = _entered(state, here, made_of, schedule)
        after, memory, values = moved(
            subject, here, schedule, stage, made_of, parameters, memory, generator, state["step"]
        )
        following = _following(state, after, memory, generator, schedule)
        self._keep(following, after, here, made_of, settings, schedule)
        if following["stage"] >= len(schedule.stages):
            following = _completed(following, here, made_of.image(after).detach())
        spent = len(here) * following["done"] if "done" in following else 0
        share = (state["task"] * schedule.steps + spent) / (len(tasks) * schedule.steps)
        done = following["task"] >= len(tasks)
        mean = float(values.mean())
        return Step(
            following,
            self._log_line(here, values, settings, schedule, state["done"] + 1),
            done=done,
            progress=1.0 if done else min(share, 1.0),
            text=f"{here[0].label}{' ...' if len(here) > 1 else ''}  objective {mean:.4g}",
        )

    def finish(
        self, subject: Subject, inputs: Inputs, settings: GenerateSettings, state: State
    ) -> Result:
        subject = _as_asked(subject, settings)
        labels, tasks = self._tasks(subject, settings)
        judge = Judge(settings.judge, subject.device) if settings.judge else None
        result = Result(draw=draw)
        for first in range(0, len(tasks), settings.batch):
            here = tasks[first : first + settings.batch]
            images = torch.cat([state[f"image/{first + i}"] for i in range(len(here))])
            figures = scores_of(subject, images, here, labels, settings.views)
            if judge is not None:
                for own, other in zip(figures, judge.figures(images, here, labels), strict=True):
                    own |= other
            for i, task in enumerate(here):
                result.images[task.label] = images[i : i + 1]
                result.figures[task.label] = {
                    k: finite(v) if isinstance(v, float) else v for k, v in figures[i].items()
                }
                for step in settings.snapshots:
                    kept = state.get(f"snapshot/{first + i}/{step}")
                    if kept is not None:
                        result.tensors[f"snapshot/{task.label}/{step}"] = kept
        if settings.animation:
            content = animated(_frames(state), settings.animation)
            result.files[f"generate.{settings.animation}"] = content
        return result

    def glimpse(
        self, subject: Subject, inputs: Inputs, settings: GenerateSettings, state: State
    ) -> Result:
        """The images made, and those being made as they are."""
        _, tasks = self._tasks(subject, settings)
        schedule = self._schedule(subject, settings)
        first, stage = state["task"], schedule.stages[state["stage"]]
        here = tasks[first : first + settings.batch]
        made_of = self._parameterisation(subject, schedule, stage, settings)
        parameters = _entered(state, here, made_of, schedule)[0]
        images = pictured(made_of, parameters, stage, state["step"]).detach()
        found = {task.label: state[f"image/{i}"] for i, task in enumerate(tasks[:first])}
        found |= {task.label: images[i : i + 1] for i, task in enumerate(here)}
        return Result(images=found)

    # --- what it works on

    def _tasks(self, subject: Subject, settings: GenerateSettings) -> tuple[Labels, list[Task]]:
        if self._known is None:
            labels = labels_of(subject.plan.recipe.model, subject.model)
            shape = subject.output.shape
            classes = shape[1] if len(shape) == 2 else None
            self._known = (labels, tasks_of(subject, settings, labels, classes))
        return self._known

    def _schedule(self, subject: Subject, settings: GenerateSettings) -> Schedule:
        if self._way is None:
            natural = coarse_first(subject, settings)
            self._way = schedule_of(settings, subject.preprocessing, natural)
        return self._way

    def _parameterisation(
        self, subject: Subject, schedule: Schedule, stage: Stage, settings: GenerateSettings
    ) -> Parameterisation:
        if stage.canvas not in self._made_of:
            channels = subject.preprocessing.input_size[0]
            made_of = parameterisation_of(schedule, stage, channels, settings)
            self._made_of[stage.canvas] = made_of
        return self._made_of[stage.canvas]

    def _keep(
        self,
        state: State,
        moved: Mapping[str, Tensor],
        here: Sequence[Task],
        made_of: Parameterisation,
        settings: GenerateSettings,
        schedule: Schedule,
    ) -> None:
        """Snapshots and frames that fall on this step; adds to a state of ours."""
        done, first = state["done"], state["task"]
        gap = max(schedule.steps // settings.frames, 1)
        wanted = settings.animation and (done % gap == 0 or done == schedule.steps)
        if done not in settings.snapshots and not wanted:
            return
        stage = schedule.stages[min(state["stage"], len(schedule.stages) - 1)]
        images = pictured(made_of, dict(moved), stage, state["step"]).detach()
        for i in range(len(here)):
            if done in settings.snapshots:
                state[f"snapshot/{first + i}/{done}"] = images[i : i + 1].clone()
            if wanted:
                state[f"frame/{done:06d}/{first + i:06d}"] = frame_of(images[i : i + 1])

    def _log_line(
        self,
        here: Sequence[Task],
        values: Tensor,
        settings: GenerateSettings,
        schedule: Schedule,
        done: int,
    ) -> dict[str, Any] | None:
        every = settings.log_every or max(1, schedule.steps // 50)
        if done % every and done not in (1, schedule.steps):
            return None
        named = {task.label: finite(float(v)) for task, v in zip(here, values, strict=True)}
        return {"step": done, "objective": named}


def _as_asked(subject: Subject, settings: GenerateSettings) -> Subject:
    """The post's author fed raw pixels."""
    if settings.preset == "post" and subject.preprocessing.mean:
        return subject.preprocessed(subject.preprocessing.raw())
    return subject


def _entered(
    state: State, here: Sequence[Task], made_of: Parameterisation, schedule: Schedule
) -> tuple[dict[str, Tensor], dict[str, Tensor], torch.Generator]:
    """Parameters, memory and random numbers a step begins with."""
    generator = stream(f"generate/views/{state['task']}", here[0].seed)
    if "random" in state:
        generator.set_state(state["random"])
    if "parameters" in state:
        parameters, memory = unpack(state, "parameters"), unpack(state, "memory")
        if state["step"] == 0:  # another stage, on another canvas
            parameters = carried_over(parameters, made_of, schedule.stages[state["stage"] - 1])
        return parameters, memory, generator
    starts = [made_of.start(stream(f"generate/start/{t.label}", t.seed)) for t in here]
    return {name: torch.cat([s[name] for s in starts]) for name in starts[0]}, {}, generator


def _following(
    state: State,
    moved: Mapping[str, Tensor],
    memory: Mapping[str, Tensor],
    generator: torch.Generator,
    schedule: Schedule,
) -> State:
    """The state after a step, in the next stage if this one ends."""
    kept = {k: v for k, v in state.items() if not k.startswith(("parameters", "memory"))}
    step, stage = state["step"] + 1, state["stage"]
    if step >= schedule.stages[stage].steps:
        step, stage, memory = 0, stage + 1, {}
    return {
        **kept,
        "step": step,
        "stage": stage,
        "done": state["done"] + 1,
        "random": generator.get_state(),
        **pack(dict(moved), "parameters"),
        **pack(dict(memory), "memory"),
    }


def _completed(state: State, here: Sequence[Task], images: Tensor) -> State:
    """The state after a batch: its images kept, the next one ahead."""
    dropped = ("parameters", "memory", "random")
    kept = {k: v for k, v in state.items() if not k.startswith(dropped)}
    first = state["task"]
    finished = {f"image/{first + i}": images[i : i + 1].clone() for i in range(len(here))}
    return {**kept, **finished, "task": first + len(here), "stage": 0, "step": 0, "done": 0}


def _frames(state: State) -> dict[int, list[Tensor]]:
    """Step -> the frames of every task then, in their order."""
    frames: dict[int, list[Tensor]] = {}
    for key in sorted(k for k in state if k.startswith("frame/")):
        frames.setdefault(int(key.split("/")[1]), []).append(state[key])
    return frames
