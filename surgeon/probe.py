"""What a probe is: an explicit state machine, which the host draws, logs, stops and resumes."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel

from surgeon.imaging.photos import Photo
from surgeon.notebook import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from surgeon.recipe import Recipe
    from surgeon.subject import Subject

#: Everything a probe needs to go on: tensors, numbers and strings under flat names.
State = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """What a probe is given beside the subject.

    Attributes:
        photos: images in [0, 1].
        recipe: the recipe of the subject.
    """

    photos: tuple[Photo, ...]
    recipe: Recipe


@dataclass(frozen=True)
class Step:
    """What a step did.

    Attributes:
        state: to go on from; a new dict, tensors may be shared.
        log: a line for `metrics.jsonl`, None for none.
        done: nothing is left to do.
        progress: share done, from 0 to 1.
        text: for the progress line: "blocks[3]  loss 0.12".
    """

    state: State
    log: Mapping[str, Any] | None = None
    done: bool = False
    progress: float = 0.0
    text: str = ""


@dataclass
class Result(Shown):
    """What a probe found.

    Attributes:
        figures: site -> name -> number or short text; what `run.json` holds.
        images: name -> (1, channels, height, width) or (channels, height, width) in [0, 1].
        tensors: further tensors to keep.
        curves: name -> (x, y) points to draw.
        tables: name -> rows.
        draw: makes the labelled picture of it: a `surgeon.runs.pictures.Sheet`, or a figure.
        log: the lines of `metrics.jsonl`.
        files: name -> content of further files of the run folder, such as an animation.
        timing: seconds, kept apart from everything that repeats.
    """

    probe: str = ""
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    draw: Any = None

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Site -> its figures."""
        return self.figures

    def figure(self) -> Figure:
        """The labelled picture, a matplotlib figure."""
        from surgeon.runs.pictures import draw_result

        return draw_result(self)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the run folder.

        Raises:
            RunError: it exists and holds a run, or can't be written.
        """
        from surgeon.runs.store import write_run

        return write_run(self, Path(folder), overwrite=overwrite)


@dataclass(frozen=True)
class Kept:
    """What a run's folder says and holds, as `verify` of a probe gets it.

    Attributes:
        figures, tables, notes: of `run.json`.
        tensors: of `result.safetensors`; images are called "image/NAME".
    """

    figures: dict[str, dict[str, Any]]
    tables: dict[str, list[dict[str, Any]]]
    notes: list[str]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Check:
    """One thing that a run says, worked out again.

    Attributes:
        name: of what it is about: a site, a photo, "weights".
        said: by the run.
        found: now.
        confirmed: whether what the run says still holds.
    """

    name: str
    said: str
    found: str
    confirmed: bool


class Probe(Protocol):
    """A probe. Reads a subject and leaves it alone.

    It may also have `verify(subject, inputs, settings, kept)`, an iterator of a `Check` for each
    thing that a run of it says, worked out again from the run's files (`Kept`). The photos must
    then be kept as the images "photo NAME".

    Attributes:
        Settings: a pydantic model, in a module that imports no torch.
        resumable: optional; False where a state is not enough to go on from.

    A method `glimpse(subject, inputs, settings, state) -> Result` is optional too: the images of an
    unfinished state, without scoring them, for a run that is interrupted.
    """

    Settings: ClassVar[type[BaseModel]]

    def start(self, subject: Subject, inputs: Inputs, settings: Any) -> State:
        """The first state: complete, random state included."""

    def step(self, subject: Subject, inputs: Inputs, settings: Any, state: State) -> Step:
        """One step of work, small enough to be interrupted after.

        It leaves `state` as it is, its tensors too: a run interrupted in the middle of a step goes
        on from the state the step was given. `surgeon.runs.state.pack` and `unpack` copy.
        """

    def finish(self, subject: Subject, inputs: Inputs, settings: Any, state: State) -> Result:
        """The result of the last state."""


class GeneratorProbe:
    """Base for simple probes: write `run`, a generator that yields steps and returns the result.

    Drawn and logged like any other, but not resumable: a generator can't be saved.
    """

    Settings: ClassVar[type[BaseModel]] = BaseModel
    resumable: ClassVar[bool] = False

    def run(
        self, subject: Subject, inputs: Inputs, settings: Any
    ) -> Generator[Mapping[str, Any] | None, None, Result]:
        """Yield a log line (or None) after each piece of work; return the result."""
        raise NotImplementedError

    def start(self, subject: Subject, inputs: Inputs, settings: Any) -> State:
        self._running = self.run(subject, inputs, settings)
        return {"step": 0}

    def step(self, subject: Subject, inputs: Inputs, settings: Any, state: State) -> Step:
        following = {"step": state["step"] + 1}
        try:
            log = next(self._running)
        except StopIteration as end:
            self._result: Result = end.value
            return Step(following, done=True, progress=1.0)
        return Step(following, log)

    def finish(self, subject: Subject, inputs: Inputs, settings: Any, state: State) -> Result:
        return self._result
