"""The `invert` probe: sites x images x seeds, one inversion after another, as a state machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surgeon.anatomist.site import Site
from surgeon.errors import ProbeError
from surgeon.imaging.metrics import finite, l2, psnr
from surgeon.imaging.photos import Photo
from surgeon.inversion.matching import Matching, score, start_image
from surgeon.inversion.row_space import row_space
from surgeon.probe import Inputs, Result, State, Step
from surgeon.runs.state import pack, unpack
from surgeon.subject import Subject
from surgeon_invert.exact import ExactRun, another, choose, finding
from surgeon_invert.methods import Descent, Progress, schedule_of
from surgeon_invert.picture import draw
from surgeon_invert.settings import InvertSettings
from surgeon_invert.snapshots import as_kept, due, marks


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
        self._live: tuple[State, Descent | ExactRun] | None = None

    def start(self, subject: Subject, inputs: Inputs, settings: InvertSettings) -> State:
        tasks_of(subject, inputs, settings)
        return {"task": 0, "step": 0, "began": False}

    def step(
        self, subject: Subject, inputs: Inputs, settings: InvertSettings, state: State
    ) -> Step:
        subject = _as_asked(subject, settings)
        tasks = tasks_of(subject, inputs, settings)
        task = tasks[state["task"]]
        run, chosen = self._run(subject, task, settings, state)
        before = run.progress.spent
        run.step()
        progress = run.progress
        following = {
            **state, **chosen, **run.packed(), "began": True, "step": state["step"] + 1,
            **_snapshots(run, settings, state["task"], before),
        }  # fmt: skip
        log = _log_line(task, run, settings, following["step"])
        if progress.stopped:
            following = self._completed(subject, task, run, following)
        self._live = (following, run)
        share = 1.0 if progress.stopped else run.share
        return Step(
            following,
            log,
            done=following["task"] >= len(tasks),
            progress=(state["task"] + share) / len(tasks),
            text=f"{task.label}  {_short(run)}",
        )

    def _run(
        self, subject: Subject, task: Task, settings: InvertSettings, state: State
    ) -> tuple[Descent | ExactRun, State]:
        """The inversion a state is in: the one at hand, or built from the state; its method."""
        live, self._live = self._live, None  # until the step is whole: it may be interrupted
        if live is not None and live[0] is state and state["began"]:
            return live[1], {}
        matching = matching_of(subject, task)
        if state["began"]:
            method, chosen = state["method"], {}
        else:
            method, why = choose(settings, matching)
            chosen = {"method": method, "why": why}
        schedule = schedule_of(settings, subject.anatomy, method)
        if method == "exact":
            walk = unpack(state, "exact") if state["began"] else None
            return ExactRun(matching, schedule, task.seed, walk), chosen
        at = marks(settings.snapshots, schedule.steps)
        if not state["began"]:
            image = start_image(matching.target.shape, task.seed).to(matching.target)
            progress = Progress(image, image.clone())
            return Descent(matching, schedule, progress, marks=at), chosen
        fields = unpack(state, "descent")
        memory = fields.pop("memory")
        return Descent(matching, schedule, Progress(**fields), memory, at), chosen

    def _completed(
        self, subject: Subject, task: Task, run: Descent | ExactRun, state: State
    ) -> State:
        """The state after one inversion: its image and figures kept, the next one ahead."""
        image, number = run.result(), state["task"]
        start = start_image(image.shape, task.seed).to(image)
        exact = isinstance(run, ExactRun)
        with subject.in_dtype(image.dtype) if exact else nullcontext():
            figures = score(
                matching_of(subject, task), image, start, seed=task.seed,
                entry=subject.anatomy.entry, row_space=row_space(subject),
            )  # fmt: skip
        figures["gradient_evaluations"] = run.progress.spent
        figures["stopped"] = run.progress.stopped
        figures["method"] = state["method"]
        kept = {k: v for k, v in state.items() if not k.startswith(("descent", "exact"))}
        rows = run.walk.records if isinstance(run, ExactRun) else []
        return {
            **kept,
            "task": number + 1,
            "step": 0,
            "began": False,
            f"image/{number}": image.to(subject.dtype),
            **({f"other/{number}": image} if exact and another(figures) else {}),
            f"why/{number}": state["why"],
            **pack(rows, f"links/{number}"),
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
            if f"other/{number}" in state:
                result.tensors[f"preimage/{task.label}"] = state[f"other/{number}"]
                result.notes.append(f"{task.label}: {finding(result.figures[task.label])}")
            rows = unpack(state, f"links/{number}")
            if rows:
                result.tables[task.label] = rows
            method = result.figures[task.label]["method"]
            result.notes.append(f"{task.label}: {method}, {state[f'why/{number}']}")
            result.tensors[f"target/{task.photo.name}"] = task.photo.pixels
            result.tensors[f"start/seed {task.seed}"] = start
            for name in [n for n in state if n.startswith(f"snapshot/{number}/")]:
                result.tensors[f"snapshot/{task.label}/{name.rpartition('/')[2]}"] = state[name]
            if task.photo.notes:
                result.notes.append(f"{task.photo.name}: {', '.join(task.photo.notes)}")
        result.notes = list(dict.fromkeys(result.notes))
        return result

    def glimpse(
        self, subject: Subject, inputs: Inputs, settings: InvertSettings, state: State
    ) -> Result:
        """The images of the inversions done, and of the one at hand as it is."""
        result = Result(draw=draw)
        for number, task in enumerate(tasks_of(subject, inputs, settings)[: state["task"] + 1]):
            if f"image/{number}" in state:
                result.images[task.label] = state[f"image/{number}"]
                result.figures[task.label] = unpack(state, f"figures/{number}")
            elif state["began"]:
                exact = state["method"] == "exact"
                kept = unpack(state, "exact" if exact else "descent")
                result.images[task.label] = kept["image" if exact else "seen"].detach()
                spent = round(kept["spent"])
                result.notes.append(f"{task.label}: after {spent} gradient evaluations")
            result.tensors[f"target/{task.photo.name}"] = task.photo.pixels
            start = start_image(task.photo.pixels.shape, task.seed)
            result.tensors[f"start/seed {task.seed}"] = start
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


def _short(run: Descent | ExactRun) -> str:
    if isinstance(run, ExactRun):
        row = run.log()
        return f"{row['link']}  {row['method']}  residual {row['residual'] or 0:.1e}"
    return f"loss {run.progress.loss:.3g}  distance {run.progress.distance:.3g}"


def _snapshots(
    run: Descent | ExactRun, settings: InvertSettings, number: int, before: float
) -> State:
    """The images of this step that are to be kept; none while no pixels are searched for."""
    found: dict[int, Tensor] = {}
    if isinstance(run, Descent):
        found, run.caught = run.caught, {}
    elif run.walk.stage != "chain":
        spent = run.walk.spent
        if due(marks(settings.snapshots, run.schedule.steps), before, spent):
            found = {round(spent): as_kept(run.walk.image)}
    return {f"snapshot/{number}/{spent}": image for spent, image in found.items()}


def _log_line(
    task: Task, run: Descent | ExactRun, settings: InvertSettings, step: int
) -> dict[str, object] | None:
    progress = run.progress
    every = settings.log_every or max(1, run.schedule.steps // 150)
    often = run.schedule.method in ("lbfgs", "exact")
    if step % (1 if often else every) and step > 1 and not progress.stopped:
        return None
    line: dict[str, object] = {
        "task": task.label, "gradient_evaluations": progress.spent, **run.log()
    }  # fmt: skip
    if isinstance(run, Descent) or run.walk.stage != "chain":
        with torch.no_grad():
            target, image = run.matching.target, progress.seen
            line["input_distance"] = finite(l2(target, image))
            line["psnr"] = finite(psnr(target, image))
    return line
