"""The `layernorm` probe: vectors that layer normalisation maps to one."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from surgeon.diagnosis.judging import Facts, jacobian_of, judge_map, spectra
from surgeon.errors import ProbeError
from surgeon.imaging.metrics import finite, relative
from surgeon.probe import GeneratorProbe, Inputs, Result
from surgeon.runs.pictures import Curves, Sheet
from surgeon.subject import Subject
from surgeon_post.settings import LayerNormSettings


class LayerNormProbe(GeneratorProbe):
    """How far apart the outputs of given vectors are under LayerNorm, for one eps after another.

    The vectors are no image's; the subject is left alone. In float64.
    """

    Settings: ClassVar[type[LayerNormSettings]] = LayerNormSettings

    def run(
        self, subject: Subject, inputs: Inputs, settings: LayerNormSettings
    ) -> Generator[Mapping[str, Any] | None, None, Result]:
        width = len(settings.vectors[0])
        if any(len(v) != width for v in settings.vectors):
            raise ProbeError(
                "layernorm", "the vectors have different lengths", "vectors of one length"
            )
        x = torch.tensor(settings.vectors, dtype=torch.float64)
        result = Result(draw=_draw)
        for eps in settings.eps:
            figures = _figures(x, eps)
            result.figures[f"LayerNorm({width}), eps {eps:g}"] = figures
            result.tables.setdefault("outputs", []).extend(_rows(x, eps))
            yield {"eps": eps, "outputs_apart": figures["outputs_apart"]}
        for number, name in ((0, "outputs apart"), (1, "smallest singular value but one")):
            key = ("outputs_apart", "second_smallest")[number]
            points = [(f["eps"], f[key]) for f in result.figures.values() if f[key] is not None]
            result.curves[name] = sorted(points)
        return result


def _normed(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def _figures(x: Tensor, eps: float) -> dict[str, Any]:
    """Of the vectors under one eps; distances are the largest of a pair, relative."""
    y = _normed(x, eps)
    pairs = list(combinations(range(len(x)), 2))

    def function(v: Tensor) -> Tensor:
        return _normed(v, eps)

    mean = Facts(null_space="it is blind to the mean of a vector", null_dimensions=1)
    certificate = judge_map(function, x[0], mean)
    values = spectra(jacobian_of(function, x[0])[None])[0].values
    return {
        "eps": eps,
        "outputs_apart": max(relative(y[i], y[j]) for i, j in pairs),
        "inputs_apart": min(relative(x[i], x[j]) for i, j in pairs),
        "verdict": certificate.verdict,
        "by": certificate.evidence[0].kind,
        "largest": float(values[0]),
        "second_smallest": finite(float(values[-2])),
        "smallest": finite(float(values[-1])),
    }


def _rows(x: Tensor, eps: float) -> list[dict[str, Any]]:
    """A table's row for each vector: itself and its output."""
    y = _normed(x, eps)
    return [
        {"eps": eps, "vector": str(a.tolist()), "output": ", ".join(f"{v:.9f}" for v in b.tolist())}
        for a, b in zip(x, y, strict=True)
    ]


def _draw(result: Result) -> Sheet:
    lines = {name: points for name, points in result.curves.items() if len(points) > 1}
    chart = Curves(lines, "eps", "relative", "falling with eps", log_x=True)
    vectors = list(dict.fromkeys(row["vector"] for row in result.tables["outputs"]))
    return Sheet(f"layernorm of {', '.join(vectors)}", [], (chart,))
