"""The `diagnose` probe: pairs, maps from the pixels, twins, sublayers, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from surgeon.diagnosis.collisions import stem_matrix
from surgeon.probe import Check, Inputs, Kept, Result, State, Step
from surgeon.runs.state import pack, unpack
from surgeon.subject import Subject
from surgeon_diagnose.depth import keep_depth
from surgeon_diagnose.judging import judge_sublayer
from surgeon_diagnose.mapping import find_pair, judge_map, pull_twin, search_text
from surgeon_diagnose.maps import maps_of, prediction
from surgeon_diagnose.picture import draw
from surgeon_diagnose.settings import DiagnoseSettings
from surgeon_diagnose.tasks import Task, tasks_of
from surgeon_diagnose.verifying import verify


class Diagnose:
    """Says whether a map can be inverted at all, and on what evidence."""

    Settings: ClassVar[type[DiagnoseSettings]] = DiagnoseSettings

    def start(self, subject: Subject, inputs: Inputs, settings: DiagnoseSettings) -> State:
        tasks_of(subject, inputs, settings)
        return {"task": 0, **pack([], "rows")}

    def step(
        self, subject: Subject, inputs: Inputs, settings: DiagnoseSettings, state: State
    ) -> Step:
        tasks, index = tasks_of(subject, inputs, settings), state["task"]
        task = tasks[index]
        following, share = dict(state), 1.0
        line: dict[str, Any] = {"task": task.label}
        if task.kind == "pair":
            more, share = find_pair(subject, settings, task, following)
        elif task.kind == "map":
            more = judge_map(subject, settings, task, following, index)
        elif task.kind == "twin":
            more, share = pull_twin(subject, settings, task, following, index)
        else:
            more, share = judge_sublayer(subject, settings, task, following, index)
        line |= more
        if share >= 1:
            following["task"] = index + 1
        return Step(
            following, line, done=following["task"] >= len(tasks),
            progress=(index + min(share, 1.0)) / len(tasks),
            text=f"{task.label}  {line.get('verdict', '')}",
        )  # fmt: skip

    def finish(
        self, subject: Subject, inputs: Inputs, settings: DiagnoseSettings, state: State
    ) -> Result:
        result = Result(draw=draw)
        tasks, grid = tasks_of(subject, inputs, settings), _grid(subject)
        for photo in inputs.photos:
            result.images[f"photo {photo.name}"] = photo.pixels
        errors: dict[int, torch.Tensor] = {}
        for index, task in enumerate(tasks):
            if task.kind == "pair":
                _keep_pair(result, task, state)
                continue
            kept = unpack(state, f"done/{index}")
            result.figures[task.label] = kept["figures"]
            if task.kind == "twin":
                _keep_twin(result, task, kept)
                if kept["errors"] is not None:
                    errors.setdefault(task.number, kept["errors"])
                continue
            _keep_judged(result, task, kept, state, index)
            maps = {} if task.far else maps_of(kept["rows"], grid)
            if maps and task.number in errors:
                maps["error"] = errors[task.number].reshape(maps["std"].shape).clone()
                result.figures[task.label] |= prediction(maps)
            result.tensors |= {f"map/{task.label}/{name}": m for name, m in maps.items()}
        keep_depth(result, _sublayers_of(tasks, len(inputs.photos)))
        return result

    def verify(
        self, subject: Subject, inputs: Inputs, settings: DiagnoseSettings, kept: Kept
    ) -> Iterator[Check]:
        return verify(subject, inputs, settings, kept)


def _sublayers_of(tasks: list[Task], photos: int) -> dict[str, list[str]]:
    """The labels of each photo's sublayers."""
    groups: dict[str, list[str]] = {}
    for task in tasks:
        if task.kind == "sublayer":
            name = task.photo.name if photos > 1 else ""
            groups.setdefault(name, []).append(task.label)
    return groups


def _keep_judged(
    result: Result, task: Task, kept: dict[str, Any], state: State, index: int
) -> None:
    result.tables[task.label] = kept["rows"]
    if kept.get("spectrum") is not None:
        values = kept["spectrum"].tolist()
        result.curves[f"spectrum/{task.label}"] = list(enumerate(values, 1))
        result.tensors[f"spectrum/{task.label}"] = kept["spectrum"]
    for piece in kept["evidence"]:
        result.notes.append(f"{task.label}: {kept['figures']['verdict']}: {piece}")
    start = f"preimage/{index}/"
    others = {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}
    result.tensors |= {f"preimage/{task.label}/{n}": t for n, t in others.items()}


def _keep_twin(result: Result, task: Task, kept: dict[str, Any]) -> None:
    for name in ("embedding", "pixels"):
        curve = [(float(i), float(d)) for i, d in enumerate(kept[name], 1)]
        result.curves[f"{task.label}/{name}"] = curve
    result.figures[task.label] |= {"yardstick": kept["yardstick"]}
    result.images[task.label] = kept["image"]


def _grid(subject: Subject) -> tuple[int, int] | None:
    """Patches down and across, where the stem makes tokens of them."""
    weight, size = stem_matrix(subject), subject.anatomy.input_size
    if weight is None:
        return None
    return size[1] // weight.shape[2], size[2] // weight.shape[3]


def _keep_pair(result: Result, task: Task, state: State) -> None:
    name, second = task.photo.name, state.get(f"pair/{task.number}")
    if f"searched/{task.number}" in state:
        text = search_text(unpack(state, f"searched/{task.number}"))
        result.notes.append(f"{name}: no null space of the stem is free to use; {text}")
    if second is None:
        result.notes.append(f"{name}: the stem has no null space that is free to use")
        return
    result.images[f"second {name}"] = second.float()
    result.tensors[f"pair/{name}/first"] = task.photo.pixels.double()
    result.tensors[f"pair/{name}/second"] = second
