"""The `diagnose` probe: pairs, maps from the pixels, sublayers, one after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.site import Site
from surgeon.diagnosis.certificates import Certificate
from surgeon.diagnosis.collisions import Pair, examine, second_image, stem_matrix
from surgeon.diagnosis.counting import count, narrows, stem_site
from surgeon.diagnosis.sublayers import Sublayer, summary, token_row
from surgeon.diagnosis.whole import judge_from_pixels, judge_stem
from surgeon.errors import ProbeError
from surgeon.imaging.photos import Photo
from surgeon.probe import Inputs, Result, State, Step
from surgeon.runs.state import pack, unpack
from surgeon.subject import Subject
from surgeon_diagnose.picture import draw, maps_of
from surgeon_diagnose.settings import DiagnoseSettings


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Attributes:
        kind: "pair": the second image of a photo; "map": from the pixels to a site; "sublayer".
        photo: its number and itself.
        site: None for a pair.
    """

    kind: Literal["pair", "map", "sublayer"]
    number: int
    photo: Photo
    site: Site | None
    label: str


def tasks_of(subject: Subject, inputs: Inputs, settings: DiagnoseSettings) -> list[Task]:
    """All the work of a run, photos outermost.

    Raises:
        ProbeError: no image was given.
    """
    if not inputs.photos:
        raise ProbeError("diagnose", "no image was given", 'image = "surgeon:chelsea", or a file')
    sites, sublayers = _sites(subject, settings), _sublayers(subject, settings)
    tasks: list[Task] = []
    for number, photo in enumerate(inputs.photos):
        tail = f", {photo.name}" if len(inputs.photos) > 1 else ""
        if settings.collision:
            tasks.append(Task("pair", number, photo, None, f"second image{tail}"))
        tasks += [Task("map", number, photo, s, f"pixels to {s.name}{tail}") for s in sites]
        tasks += [Task("sublayer", number, photo, s, f"{s.name}{tail}") for s in sublayers]
    return tasks


def _sites(subject: Subject, settings: DiagnoseSettings) -> list[Site]:
    """The sites asked for; in place of the whole model the place its output is made at, since a
    forward can't be stopped at its own end."""
    found = subject.sites(settings.sites)
    anatomy = subject.anatomy
    made = {s.value: s for s in anatomy.sites if s.kind == "module" and s.path}
    return [s if s.path else made.get(s.value) or _made(anatomy, s) for s in found]


def _made(anatomy: Anatomy, site: Site) -> Site:
    return (anatomy.site_of_value(site.value) if site.value is not None else None) or site


def _sublayers(subject: Subject, settings: DiagnoseSettings) -> list[Site]:
    if settings.sublayers is not None:
        return list(subject.anatomy.select(settings.sublayers)) if settings.sublayers else []
    inside = [s for s in subject.anatomy.sites if s.kind == "sublayer"]
    last = max(site.order for site in _sites(subject, settings))
    first = [s for s in inside if (s.role or "").startswith("blocks[0].")]
    return [s for s in first if not s.blocked and s.order <= last]


class Diagnose:
    """Says whether a map can be inverted at all, and on what evidence."""

    Settings: ClassVar[type[DiagnoseSettings]] = DiagnoseSettings

    def start(self, subject: Subject, inputs: Inputs, settings: DiagnoseSettings) -> State:
        tasks_of(subject, inputs, settings)
        return {"task": 0, **pack([], "rows")}

    def step(
        self, subject: Subject, inputs: Inputs, settings: DiagnoseSettings, state: State
    ) -> Step:
        tasks = tasks_of(subject, inputs, settings)
        task = tasks[state["task"]]
        following, share = dict(state), 1.0
        line: dict[str, Any] = {"task": task.label}
        if task.kind == "pair":
            weight = stem_matrix(subject)
            other = None if weight is None else second_image(weight, task.photo.pixels)
            if other is not None:
                following[f"pair/{task.number}"] = other
            line["found"] = other is not None
        elif task.kind == "map":
            line |= _judge_map(subject, settings, task, following, state["task"])
        else:
            more, share = _judge_sublayer(subject, settings, task, following, state["task"])
            line |= more
        if share >= 1:
            following["task"] = state["task"] + 1
        return Step(
            following, line, done=following["task"] >= len(tasks),
            progress=(state["task"] + min(share, 1.0)) / len(tasks),
            text=f"{task.label}  {line.get('verdict', '')}",
        )  # fmt: skip

    def finish(
        self, subject: Subject, inputs: Inputs, settings: DiagnoseSettings, state: State
    ) -> Result:
        result = Result(draw=draw)
        for index, task in enumerate(tasks_of(subject, inputs, settings)):
            if task.kind == "pair":
                _keep_pair(result, task, state)
                continue
            kept = unpack(state, f"done/{index}")
            result.figures[task.label] = kept["figures"]
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
            maps = maps_of(kept["rows"], _grid(subject))
            result.tensors |= {f"map/{task.label}/{name}": m for name, m in maps.items()}
        return result


def _grid(subject: Subject) -> tuple[int, int] | None:
    """Patches down and across, where the stem makes tokens of them."""
    weight, size = stem_matrix(subject), subject.anatomy.input_size
    if weight is None:
        return None
    return size[1] // weight.shape[2], size[2] // weight.shape[3]


def _keep_pair(result: Result, task: Task, state: State) -> None:
    first = task.photo.pixels.double()
    result.images[f"photo {task.photo.name}"] = task.photo.pixels
    second = state.get(f"pair/{task.number}")
    if second is None:
        result.notes.append(f"{task.photo.name}: the stem has no null space that is free to use")
        return
    result.images[f"second {task.photo.name}"] = second.float()
    result.tensors[f"pair/{task.photo.name}/first"] = first
    result.tensors[f"pair/{task.photo.name}/second"] = second


def _judge_map(
    subject: Subject, settings: DiagnoseSettings, task: Task, state: State, index: int
) -> dict[str, Any]:
    """The verdict on one map from the pixels, put into the state."""
    assert task.site is not None
    second, pair = state.get(f"pair/{task.number}"), None
    if second is not None:
        pair = examine(subject, task.site, task.photo.pixels.double(), second)
    certificate, values = judge_from_pixels(
        subject, task.site, task.photo.pixels, dense=settings.dense, stem=judge_stem(subject),
        pair=pair,
    )  # fmt: skip
    counts = narrows(subject, task.site)
    here, stem = count(subject.anatomy, task.site), stem_site(subject.anatomy)
    figures = {
        **_figures(certificate),
        "elements_in": here.elements_in, "elements_out": here.elements,
        "elements_prefix": here.prefix,
        "elements_stem": count(subject.anatomy, stem).elements if stem else None,
        "elements_least": min(c.elements for c in counts),
        **_pair_figures(pair),
    }  # fmt: skip
    rows = [c.as_row() for c in counts]
    kept = {"figures": figures, "rows": rows, "spectrum": values,
            "evidence": [e.statement for e in certificate.evidence]}  # fmt: skip
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


def _figures(certificate: Certificate) -> dict[str, Any]:
    numbers = certificate.numbers
    names = ("smallest", "largest", "condition", "effective_rank", "determinant_sign",
             "determinant_margin", "null_dimensions", "smallest_beside_null",
             "condition_beside_null")  # fmt: skip
    by = certificate.evidence[0].kind
    known = {name: numbers[name] for name in names if name in numbers}
    return {"verdict": certificate.verdict, "by": by, **known}


def _judge_sublayer(
    subject: Subject, settings: DiagnoseSettings, task: Task, state: State, index: int
) -> tuple[dict[str, Any], float]:
    """A batch of tokens judged, or the sublayer as a whole; the share of it that is done."""
    assert task.site is not None
    sublayer = Sublayer(subject, task.site, task.photo.pixels)
    if sublayer.deviation is None or sublayer.columns > settings.dense:
        return _judge_mixing(sublayer, settings, state, index), 1.0
    rows = unpack(state, "rows")
    order = sublayer.order()[: settings.tokens]
    chosen = order[len(rows) : len(rows) + settings.batch]
    if chosen:
        for token, certificate in zip(chosen, sublayer.judge_tokens(chosen), strict=True):
            rows.append(token_row(token, float(sublayer.deviation[token]), certificate))
    else:
        row = _searchable(rows, settings)[0]
        token = int(row["token"])
        row |= _search(sublayer, token, settings, state, index)
    figures = summary(rows, len(sublayer.deviation))
    left = _searchable(rows, settings)
    share = min(len(rows) / len(order), 0.99) if left or len(rows) < len(order) else 1.0
    if share >= 1:
        rows.sort(key=lambda row: int(row["token"]))
        found = [row["preimages"] for row in rows if "preimages" in row]
        figures |= {
            "bounded_branch": bool(sublayer.facts.bounded_branch),
            "std_least": float(sublayer.deviation.min()),
            "searched": len(found), "preimages_found": sum(n > 0 for n in found),
        }  # fmt: skip
        kept = {"figures": figures, "rows": rows, "evidence": _statements(rows)}
        state |= pack(kept, f"done/{index}")
        rows = []
    state |= pack(rows, "rows")
    return {"verdict": figures["verdict"], "tokens": figures["tokens_judged"]}, share


def _judge_mixing(
    sublayer: Sublayer, settings: DiagnoseSettings, state: State, index: int
) -> dict[str, Any]:
    """The verdict on a sublayer that mixes tokens, as one map."""
    certificate = sublayer.judge_whole(settings.dense)
    figures = {
        **_figures(certificate), "bounded_branch": bool(sublayer.facts.bounded_branch)
    }  # fmt: skip
    if figures["by"] == "determinant" and settings.search:
        figures |= _search(sublayer, None, settings, state, index)
    statements = [e.statement for e in certificate.evidence]
    state |= pack({"figures": figures, "rows": [], "evidence": statements}, f"done/{index}")
    return {"verdict": certificate.verdict}


def _searchable(rows: list[dict[str, Any]], settings: DiagnoseSettings) -> list[dict[str, Any]]:
    """Tokens whose determinant proves other pre-images, and for which none was looked for yet."""
    proved = [row for row in rows if row["by"] == "determinant"][: settings.search]
    return [row for row in proved if "preimages" not in row]


def _search(
    sublayer: Sublayer, token: int | None, settings: DiagnoseSettings, state: State, index: int
) -> dict[str, Any]:
    """Other pre-images; the nearest is kept beside the value itself."""
    found = sublayer.search(token, settings.starts)
    if not found:
        return {"preimages": 0}
    x = sublayer.x if token is None else sublayer.x[:, [token]]
    name = "whole" if token is None else f"token {token}"
    state[f"preimage/{index}/{name}"] = torch.cat([x, found[0].x])
    return {
        "preimages": len(found), "preimage_apart": found[0].apart,
        "preimage_residual": found[0].residual,
    }  # fmt: skip


def _statements(rows: list[dict[str, Any]]) -> list[str]:
    """What the worst tokens rest on: proofs first, then the smallest singular value."""
    proofs = [row for row in rows if row["verdict"] == "not injective: proved"]
    known = [row for row in rows if row.get("smallest") is not None]
    worst = proofs[:3] or sorted(known, key=lambda row: float(row["smallest"]))[:1]
    return [f"token {row['token']}: {row['statement']}{_found(row)}" for row in worst]


def _found(row: dict[str, Any]) -> str:
    """What a search found."""
    if "preimages" not in row:
        return ""
    if not row["preimages"]:
        return "; looked for, none found"
    return (
        f"; {row['preimages']} found, the nearest {row['preimage_apart']:.2g} of the token apart, "
        f"residual {row['preimage_residual']:.0e}, not certified"
    )


def tensor_pair(result: Result, photo: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The pair of a result, float64, to be examined again.

    Raises:
        ProbeError: the run found none.
    """
    names = [f"pair/{photo}/first", f"pair/{photo}/second"]
    if not all(name in result.tensors for name in names):
        raise ProbeError(f"the pair of {photo}", "the run found none", "a photo that has one")
    return result.tensors[names[0]], result.tensors[names[1]]
