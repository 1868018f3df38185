"""How long a study would take, measured on a few steps of a few of its cells."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.errors import ProbeError, SurgeonError
from surgeon.imaging.photos import load_photos
from surgeon.operating import operate
from surgeon.probe import Inputs, Probe, Result
from surgeon.recipe_file import checked_settings
from surgeon.registry import registry
from surgeon.studies.addresses import Setup
from surgeon.studies.jobs import Job, Loaded
from surgeon.studies.running import plan_study
from surgeon.studies.study import Study
from surgeon.threads import threads

#: Of one cell: steps until so many seconds have passed, two at least.
_SECONDS = 2.0
#: A probe that doesn't say how far it is runs to its end, if that comes before so many seconds.
_PATIENCE = 15.0
#: Cells measured of those that share model and probe: the first, the middle one, the last.
_SAMPLES = 3


@dataclass(frozen=True)
class Measured:
    """What was measured of the runs that share a model and a probe.

    Attributes:
        model, probe: that they share.
        runs: how many are to be made.
        sampled: how many were measured.
        load: seconds the model took to load, once.
        each: mean seconds of a run, its drawing included where a sample came to its end; None: not
            known.
        trouble: why a sample could not be measured.
    """

    model: str
    probe: str
    runs: int
    sampled: int
    load: float
    each: float | None
    trouble: str | None = None


@dataclass(frozen=True)
class Estimate:
    """What a study would take.

    Attributes:
        cells: that run, in all.
        made: of which are in the store.
        runs: to be made; cells alike share one.
        failed: cells whose model, weights or image is not there.
        groups: what was measured.
        seconds: of one worker for all; None where a group's is not known.
        peak_bytes: the most memory this process held while measuring: what one worker needs at
            least; None where the system doesn't say.
    """

    cells: int
    made: int
    runs: int
    failed: int
    groups: tuple[Measured, ...]
    peak_bytes: int | None

    @property
    def seconds(self) -> float | None:
        total = 0.0
        for group in self.groups:
            if group.each is None:
                return None
            total += group.load + group.runs * group.each
        return total


def estimate(study: Study, store: Path, setup: Setup) -> Estimate:
    """Measure what a study would take: load each of its models, run a few steps of a few cells.

    Nothing is written. The steps measured are a run's first ones; a probe whose steps become
    dearer, or that stops early, takes more or less.

    Raises:
        StudyError, RecipeError: a cell's recipe is wrong.
    """
    planned = plan_study(study, store, setup, remember=False)
    jobs = [job for job, _ in planned.pending()]
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.model, job.probe), []).append(job)
    loaded = Loaded()
    with threads(setup.threads):
        measured = tuple(_group(members, loaded) for members in groups.values())
    states = [record.status for record in planned.records]
    return Estimate(
        len(states) - states.count("skipped"), states.count("done"), len(jobs),
        states.count("failed"), measured, _peak(),
    )  # fmt: skip


def _group(jobs: Sequence[Job], loaded: Loaded) -> Measured:
    """Measure the runs that share a model and a probe."""
    count = len(jobs)
    chosen = sorted({round(i * (count - 1) / (_SAMPLES - 1)) for i in range(_SAMPLES)})
    began, count_before = time.perf_counter(), loaded.count
    load, trouble = 0.0, None
    seconds: list[float | None] = []
    try:
        loaded.get(jobs[0])
        if loaded.count > count_before:
            load = time.perf_counter() - began
        seconds = [_run_seconds(jobs[i], loaded) for i in chosen]
    except SurgeonError as error:
        trouble = f"{error.asked}: {error.found}"
    finally:
        loaded.check()
    known = [s for s in seconds if s is not None]
    each = sum(known) / len(known) if known and len(known) == len(seconds) else None
    return Measured(jobs[0].model.label, jobs[0].probe, count, len(seconds), load, each, trouble)


def _run_seconds(job: Job, loaded: Loaded) -> float | None:
    """Seconds of a whole run, from its first steps; None where the probe doesn't say how far."""
    began = time.perf_counter()
    model = loaded.get(job)
    with operate(model, job.recipe) as subject:
        given = job.recipe.input.image
        photos = load_photos(given, subject.preprocessing) if given is not None else []
        settings = checked_settings(job.probe, dict(job.recipe.probes.get(job.probe, {})))
        probe: Probe = registry().find("probe", job.probe, ProbeError).load()()
        inputs = Inputs(tuple(photos), job.recipe)
        state = probe.start(subject, inputs, settings)
        first: tuple[float, float] | None = None
        while True:
            step = probe.step(subject, inputs, settings, state)
            now, state = time.perf_counter(), step.state
            if step.done:
                _draw(probe.finish(subject, inputs, settings, state), job.probe)
                return time.perf_counter() - began
            if first is None:
                first = (now, step.progress)  # the first step warms up; those after it count
            gained = step.progress - first[1]
            if gained > 0 and now - began > _SECONDS:
                return first[0] - began + (now - first[0]) / gained * (1 - first[1])
            if now - began > _PATIENCE:
                return None


def _draw(result: Result, probe: str) -> None:
    """A run's picture, which takes longer than a short run."""
    result.probe = probe
    result.figure().savefig(io.BytesIO(), format="png")


def _peak() -> int | None:
    """The most memory this process has held, in bytes."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
