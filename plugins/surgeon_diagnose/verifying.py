"""Every verdict of a run worked out again, from its own pairs and pre-images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from surgeon.diagnosis import thresholds
from surgeon.diagnosis.certificates import PROVED
from surgeon.diagnosis.sublayers import Sublayer
from surgeon.imaging.metrics import relative
from surgeon.probe import Check, Inputs, Kept
from surgeon.subject import Subject
from surgeon_diagnose.judging import (
    by_tokens,
    floor_of_rest,
    looked_for,
    mixing_certificate,
    mixing_figures,
    rows_of,
    sublayer_figures,
)
from surgeon_diagnose.mapping import map_figures
from surgeon_diagnose.maps import maps_of, prediction
from surgeon_diagnose.settings import DiagnoseSettings
from surgeon_diagnose.tasks import Task, tasks_of

#: Figures that are rounding, or chance: a verdict holds by their threshold, not by their value.
_NOISE = (
    "pair_output", "residual", "margin", "radius", "contraction", "_error", "left_out", "preimages",
    "searched", "chance", "gain_of",
)  # fmt: skip
#: What a saved value may be away from the photo's own, relative.
_SAME = 1e-9


def verify(
    subject: Subject, inputs: Inputs, settings: DiagnoseSettings, kept: Kept
) -> Iterator[Check]:
    """A check for each map and each sublayer that the run judged."""
    for task in tasks_of(subject, inputs, settings):
        if task.kind not in ("map", "sublayer"):
            continue
        said = kept.figures.get(task.label)
        if said is None:
            yield Check(task.label, "-", "the run says nothing of it", confirmed=False)
        elif task.kind == "map":
            yield _map(subject, settings, task, kept, said)
        else:
            yield _sublayer(subject, settings, task, kept, said)


def _map(
    subject: Subject, settings: DiagnoseSettings, task: Task, kept: Kept, said: dict[str, Any]
) -> Check:
    photo, name = task.photo.pixels.double(), f"pair/{task.photo.name}"
    first, second = (kept.tensors.get(f"{name}/{n}") for n in ("first", "second"))
    if ("pair_verified" in said) != (second is not None):
        return Check(task.label, said["verdict"], "its pair is missing", confirmed=False)
    if first is not None and not torch.equal(first, photo):
        return Check(task.label, said["verdict"], "its pair is of another photo", confirmed=False)
    figures = map_figures(subject, settings, task, second)[1]
    return _check(task.label, said, figures, "")


def _sublayer(
    subject: Subject, settings: DiagnoseSettings, task: Task, kept: Kept, said: dict[str, Any]
) -> Check:
    assert task.site is not None
    sublayer = Sublayer(subject, task.site, task.photo.pixels)
    pairs = _pairs(kept, task.label)
    if not by_tokens(sublayer, settings):
        figures = mixing_figures(sublayer, mixing_certificate(sublayer, settings, task))
        trouble = "its other pre-image is missing" if said.get("preimages") and not pairs else ""
        for name, pair in pairs.items():
            trouble = trouble or _recheck(sublayer, name, pair, figures, said)
        return _check(task.label, said, figures, trouble)
    rows = kept.tables.get(task.label, [])
    tokens = [int(row["token"]) for row in rows]
    found: list[dict[str, Any]] = []
    for start in range(0, len(tokens), settings.batch):
        found += rows_of(sublayer, tokens[start : start + settings.batch])
    trouble = ""
    for was, row in zip(rows, found, strict=True):
        name = f"token {row['token']}"
        if name in pairs:
            trouble = trouble or _recheck(sublayer, name, pairs[name], row, was)
        elif was.get("preimages"):
            trouble = trouble or f"{name}: its other pre-image is missing"
        trouble = trouble or _differs(was, row, f"{name}: ")
    rest = floor_of_rest(sublayer, found) if task.far else None
    figures = sublayer_figures(sublayer, found, rest)
    error = kept.tensors.get(f"map/{task.label}/error")
    if error is not None:
        maps = maps_of(found, (error.shape[0], error.shape[1]))
        figures |= prediction({**maps, "error": error})
    return _check(task.label, said, figures, trouble)


def _pairs(kept: Kept, label: str) -> dict[str, torch.Tensor]:
    start = f"preimage/{label}/"
    return {n.removeprefix(start): t for n, t in kept.tensors.items() if n.startswith(start)}


def _recheck(
    sublayer: Sublayer, name: str, pair: torch.Tensor, row: dict[str, Any], said: dict[str, Any]
) -> str:
    """What is wrong with a saved value and its other; the row gets what it proves again."""
    token = None if name == "whole" else int(name.removeprefix("token "))
    x = sublayer.x if token is None else sublayer.x[:, [token]]
    if relative(x, pair[:1]) > _SAME:
        return f"{name}: the saved value is not the photo's"
    found = sublayer.compared(pair[:1], pair[1:])
    if not found.near:
        return f"{name}: the saved pair is {found.residual:.1e} apart in its output"
    if said.get("certified") and found.balls is None:
        return f"{name}: the saved pair is not certified"
    row |= looked_for(row, [found])
    return ""


def _check(name: str, said: dict[str, Any], found: dict[str, Any], trouble: str) -> Check:
    trouble = trouble or _differs(said, found)
    before = f"{said['verdict']} ({said.get('by', 'its tokens')})"
    now = f"{found['verdict']} ({found.get('by', 'its tokens')})"
    return Check(name, before, f"{now}: {trouble}" if trouble else now, confirmed=not trouble)


def _differs(said: dict[str, Any], found: dict[str, Any], where: str = "") -> str:
    """The first figure that is another now; empty if all are as they were."""
    for key, value in said.items():
        now = found.get(key)
        if key in ("statement",) or any(word in key for word in _NOISE):
            continue
        if isinstance(value, float) and isinstance(now, (int, float)):
            if not math.isclose(value, now, rel_tol=thresholds.ROOM, abs_tol=1e-12):
                return f"{where}{key} was {value:.4g} and is {now:.4g}"
        elif value != now:
            return f"{where}{key} was {value} and is {now}"
    if found["verdict"] == PROVED != said["verdict"]:
        return f"{where}it is proved now"
    return ""
