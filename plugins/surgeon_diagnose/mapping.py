"""The work on one photo as a whole: its second image, the map from its pixels, its twin."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from surgeon.anatomist.site import Site
from surgeon.diagnosis.certificates import Certificate
from surgeon.diagnosis.collisions import (
    Pair,
    examine,
    second_image,
    stem_matrix,
    within_rounding,
)
from surgeon.diagnosis.counting import count, narrows, stem_site
from surgeon.diagnosis.searching import Search, first_search, searched
from surgeon.diagnosis.twins import Twin, first_twin, patch_errors, pulled, yardstick
from surgeon.diagnosis.whole import judge_from_pixels, judge_stem
from surgeon.inversion.matching import Matching, score
from surgeon.inversion.row_space import RowSpace, row_space
from surgeon.probe import State
from surgeon.runs.state import pack, unpack
from surgeon.subject import Subject
from surgeon_diagnose.settings import DiagnoseSettings
from surgeon_diagnose.tasks import Task, sites_of

#: Steps of a twin in one step of the probe.
_TWIN = 10
#: Gradient evaluations of a search where nobody said how many: at least, at most, and FLOP of all.
_LEAST, _MOST, _FLOPS = 20, 300, 3e12


def find_pair(
    subject: Subject, settings: DiagnoseSettings, task: Task, state: State
) -> tuple[dict[str, Any], float]:
    """The second image of a photo, put into the state; what to log, and the share that is done."""
    weight = stem_matrix(subject)
    other = None if weight is None else second_image(weight, task.photo.pixels)
    if weight is not None and other is not None:
        sites = sites_of(subject, settings)
        state[f"pair/{task.number}"] = within_rounding(
            subject, sites, task.photo.pixels, other, weight
        )
    if other is not None or settings.collision_budget == 0:
        return {"found": other is not None}, 1.0
    return _searched(subject, settings, task, state)


def _searched(
    subject: Subject, settings: DiagnoseSettings, task: Task, state: State
) -> tuple[dict[str, Any], float]:
    """By search, for the deepest site: what ends there together is not always so before."""
    site = max(sites_of(subject, settings), key=lambda s: s.order)
    kept = unpack(state, "search") if "search" in state else None
    search = Search(**kept) if kept else first_search(task.photo.pixels)
    budget = _budget(subject, site, settings)
    search = searched(subject, site, task.photo.pixels, search, budget)
    state |= pack(vars(search), "search")
    decibels = search.psnr if math.isfinite(search.psnr) else None  # still at the photo
    line = {"residual": search.residual, "psnr": decibels, "spent": search.spent}
    if not search.stopped:
        return line, min(search.spent / budget, 0.99)
    for name in [n for n in state if n == "search" or n.startswith("search/")]:
        del state[name]
    ended = {**line, "site": site.name, "stopped": search.stopped, "budget": budget}
    state |= pack(ended, f"searched/{task.number}")
    state[f"pair/{task.number}"] = search.image
    return {**line, "found": search.stopped == "converged"}, 1.0


def search_text(found: dict[str, Any]) -> str:
    """How a search for a second image ended, and what may be done about it."""
    where = "at the photo" if found["psnr"] is None else f"at a PSNR of {found['psnr']:.1f} dB"
    text = (
        f"a search for a second image with the output of {found['site']} ended {where}, "
        f"outputs {found['residual']:.1e} apart, after {found['spent']:.0f} gradient evaluations: "
        f"{found['stopped']}"
    )
    if found["stopped"] == "budget spent":
        text += f" (collision_budget = {found['budget']})"
    return text


def _budget(subject: Subject, site: Site, settings: DiagnoseSettings) -> int:
    """Gradient evaluations of a search; by default no more than some minutes' worth."""
    if settings.collision_budget is not None:
        return settings.collision_budget
    return int(min(_MOST, max(_LEAST, _FLOPS / (3 * max(subject.flops_to(site), 1)))))


def map_figures(
    subject: Subject, settings: DiagnoseSettings, task: Task, second: Tensor | None
) -> tuple[Certificate, dict[str, Any], Tensor | None]:
    """The verdict on one map from the pixels, its figures, and singular values if worked out.

    Args:
        second: the other image of a pair.
    """
    assert task.site is not None
    pair = None
    if second is not None:
        pair = examine(subject, task.site, task.photo.pixels.double(), second)
    certificate, values = judge_from_pixels(
        subject, task.site, task.photo.pixels, dense=settings.dense, stem=judge_stem(subject),
        pair=pair,
    )  # fmt: skip
    counts = narrows(subject, task.site)
    here, stem = count(subject.anatomy, task.site), stem_site(subject.anatomy)
    figures = {
        **short_figures(certificate),
        "elements_in": here.elements_in, "elements_out": here.elements,
        "elements_prefix": here.prefix,
        "elements_stem": count(subject.anatomy, stem).elements if stem else None,
        "elements_least": min(c.elements for c in counts),
        **_pair_figures(pair),
    }  # fmt: skip
    return certificate, figures, values


def judge_map(
    subject: Subject, settings: DiagnoseSettings, task: Task, state: State, index: int
) -> dict[str, Any]:
    """The verdict on one map from the pixels, put into the state."""
    second = state.get(f"pair/{task.number}")
    certificate, figures, values = map_figures(subject, settings, task, second)
    assert task.site is not None
    rows = [c.as_row() for c in narrows(subject, task.site)]
    said = [e.statement for e in certificate.evidence]
    if f"searched/{task.number}" in state and not figures["pair_verified"]:
        said[0] += f"; {search_text(unpack(state, f'searched/{task.number}'))}"
    kept = {"figures": figures, "rows": rows, "spectrum": values, "evidence": said}
    state |= pack(kept, f"done/{index}")
    return {"verdict": certificate.verdict}


def _pair_figures(pair: Pair | None) -> dict[str, Any]:
    if pair is None:
        return {}
    return {
        "pair_verified": pair.verified, "pair_psnr": pair.psnr, "pair_apart": pair.apart,
        "pair_output_float32": pair.output_single, "pair_output_float64": pair.output_double,
        "pair_output_float32_fast": pair.output_fast,
    }  # fmt: skip


def short_figures(certificate: Certificate) -> dict[str, Any]:
    """Of a certificate, what stands in `figures`."""
    numbers = certificate.numbers
    names = ("smallest", "largest", "condition", "effective_rank", "determinant_sign",
             "determinant_margin", "null_dimensions", "smallest_beside_null",
             "condition_beside_null", "lipschitz_branch", "spectral_radius", "smallest_error",
             "largest_error", "determinant_sign_probable", "determinant_chance",
             "left_out", "lipschitz_bound", "gain_of_means", "gain_of_scales",
             "largest_beside_null", "smallest_beside_null_at_most",
             "condition_beside_null_at_least")  # fmt: skip
    by = certificate.evidence[0].kind
    known = {name: numbers[name] for name in names if name in numbers}
    return {"verdict": certificate.verdict, "by": by, **known}


def pull_twin(
    subject: Subject, settings: DiagnoseSettings, task: Task, state: State, index: int
) -> tuple[dict[str, Any], float]:
    """Some steps of a plain inversion; at its end figures, curves and each patch's error."""
    assert task.site is not None
    photo = task.photo.pixels
    twin = Twin(**unpack(state, "twin")) if "twin" in state else first_twin(photo)
    twin = pulled(subject, task.site, photo, twin, _TWIN, settings.twin_steps)
    line = {"embedding_distance": twin.embedding[-1], "input_distance": twin.pixels[-1]}
    share = twin.steps / settings.twin_steps
    if share < 1:
        state |= pack(vars(twin), "twin")
        return line, share
    for name in [n for n in state if n == "twin" or n.startswith("twin/")]:
        del state[name]
    space = row_space(subject)
    target = photo.to(device=subject.device, dtype=subject.dtype)
    figures = score(
        Matching(subject, (task.site,), target), twin.image.to(target),
        first_twin(photo).image.to(target), entry=subject.anatomy.entry, row_space=space,
    )  # fmt: skip
    figures |= {"gradient_evaluations": float(twin.steps), "stopped": "steps spent"}
    kept = {
        "figures": figures, "rows": [], "evidence": [],
        "embedding": twin.embedding, "pixels": twin.pixels,
        "yardstick": yardstick(subject, task.site, photo), "image": twin.image.cpu(),
        "errors": _errors(space, photo, twin.image),
    }  # fmt: skip
    state |= pack(kept, f"done/{index}")
    return line, 1.0


def _errors(space: RowSpace | None, photo: Tensor, image: Tensor) -> Tensor | None:
    return None if space is None else patch_errors(space, photo, image).to(torch.float32)
