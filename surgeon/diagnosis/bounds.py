"""Bounds on a token-wise segment near a point, on its second derivative and on rounding.

They follow the recorded dataflow from the source on: each function bounds what it gives by what
it gets. All norms are Euclidean; rounding is float64's by the standard model (Higham, "Accuracy
and Stability of Numerical Algorithms", chapter 3), elementary functions within 16 units in the last
place. Only what was recognised has a bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.anatomist.graph import Op
from surgeon.inversion.segments import Segment

#: float64's unit roundoff.
UNIT = 2.0**-53
#: What a spectral norm by SVD is multiplied by, to be above the true one.
_ABOVE = 1 + 1e-9
#: Largest |first| and |second| derivative, with room, of activations that are 0 at 0. Both forms of
#: GELU: 1.13 and .80; SiLU: 1.10 and .50; tanh: 1 and .77.
CURVATURE = {"gelu": (1.2, 1.0), "silu": (1.2, 0.6), "tanh": (1.0, 0.8)}
_MOVES = {"dropout", "contiguous", "clone", "detach", "to", "float", "double"}


@dataclass(frozen=True)
class Bound:
    """What is known of a value z(x) of one token over a ball around the point.

    Attributes:
        size: of z at the point.
        rounding: of the computed z there.
        first, second: of dz/dx and of its derivative, everywhere in the ball; operator norms.
        derivative_rounding: of the computed dz/dx at the point, all columns together (Frobenius).
    """

    size: float
    rounding: float
    first: float
    second: float
    derivative_rounding: float


def gamma(count: int) -> float:
    """The bound on the relative error of so many roundings."""
    return count * UNIT / (1 - count * UNIT)


class Bounds:
    """Bounds on a token-wise segment; norms of weights are worked out once.

    Args:
        segment: its weights in float64 while this is used.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._norms: dict[str, tuple[float, float]] = {}

    def at(self, x: Tensor, radius: float) -> Bound | None:
        """The bound on the segment's value; None where a function has none.

        Args:
            x: (width,), the token, float64.
            radius: of the ball.
        """
        segment, source = self.segment, self.segment.source
        if source is None or source.value is None or not segment.tokenwise:
            return None
        known = {source.value: Bound(float(x.norm()) * _ABOVE, 0.0, 1.0, 0.0, 0.0)}
        for op in segment.live_ops:
            inputs = [self._through(v) for v in op.inputs]
            found = self._of(op, inputs, known, x, radius)
            if found is None:
                return None
            known |= dict.fromkeys(op.outputs, found)
        target = segment.target.value
        return None if target is None else known.get(self._through(target))

    def _through(self, value: int) -> int:
        """What a bypassed module handed on."""
        while value in self.segment.program.aliases:
            value = self.segment.program.aliases[value]
        return value

    def _of(
        self, op: Op, inputs: list[int], known: dict[int, Bound], x: Tensor, radius: float
    ) -> Bound | None:
        given = [known[v] for v in inputs if v in known]
        rest = [self._name(v) for v in inputs if v not in known]
        if not given or not all(rest):
            return None
        if op.name in ("add", "sub") and not rest and len(given) == 2:
            return _sum(given[0], given[1], x.numel())
        if len(given) != 1:
            return None
        if op.name == "layer_norm" and self._is_source(inputs[0]):
            return self._layer_norm(op, rest, x, radius)
        if op.name == "linear" and rest:
            return self._linear(given[0], rest, x.numel())
        if op.name == "mul" and len(rest) == 1:
            return self._scaled(given[0], rest[0], x.numel())
        if op.name in CURVATURE and not rest:
            return _curved(given[0], *CURVATURE[op.name], x.numel())
        return given[0] if op.name in _MOVES and not rest else None

    def _is_source(self, value: int) -> bool:
        source = self.segment.source
        return source is not None and value == source.value

    def _name(self, value: int) -> str:
        return self.segment.program.graph.values[value].name

    def _tensor(self, name: str) -> Tensor:
        owner, _, last = name.rpartition(".")
        tensor: Tensor = getattr(self.segment.subject.model.get_submodule(owner), last)
        return tensor.detach().double()

    def _norm(self, name: str) -> tuple[float, float]:
        """Spectral and Frobenius norm of a matrix; largest entry and norm of a vector."""
        if name not in self._norms:
            tensor = self._tensor(name)
            whole = float(torch.linalg.vector_norm(tensor)) * _ABOVE
            if tensor.ndim == 2:
                whole_or_most = float(torch.linalg.matrix_norm(tensor, 2)) * _ABOVE
            else:
                whole_or_most = float(tensor.abs().max())
            self._norms[name] = (whole_or_most, whole)
        return self._norms[name]

    def _layer_norm(self, op: Op, names: list[str], x: Tensor, radius: float) -> Bound | None:
        call = self.segment.program.graph.calls[op.call]
        module = self.segment.subject.model.get_submodule(call.path)
        eps, shape = getattr(module, "eps", None), getattr(module, "normalized_shape", None)
        n = x.numel()
        if not isinstance(eps, float) or shape is None or tuple(shape) != (n,):
            return None
        weight = [self._norm(name) for name in names]
        scale = weight[0][0] if weight else 1.0
        shift = weight[1][1] if len(weight) > 1 else 0.0
        here = math.sqrt(float(x.var(correction=0)) + eps) * (1 - 1e-9)
        # The deviation changes by at most |step| / sqrt(n).
        s = here - radius / math.sqrt(n)
        if s <= 0:
            return None
        size = float(x.norm()) * _ABOVE
        centre = 4 * gamma(n + 8) * size
        deviation = 2 * gamma(n + 8) * (1 + size**2 / (n * here**2))
        relative = deviation + centre / (math.sqrt(n) * here)
        rounding = scale * math.sqrt(n) * 4 * (relative + gamma(16)) + shift * UNIT
        slope = math.sqrt(n) / here * 32 * (relative + gamma(n + 16))
        return Bound(
            scale * math.sqrt(n) + shift, rounding, scale / s,
            scale * 6 / (math.sqrt(n) * s**2), scale * slope,
        )  # fmt: skip

    def _linear(self, z: Bound, names: list[str], columns: int) -> Bound | None:
        matrix = self._tensor(names[0])
        if matrix.ndim != 2:
            return None
        spectral, frobenius = self._norm(names[0])
        bias = self._norm(names[1])[1] if len(names) > 1 else 0.0
        k = gamma(matrix.shape[1] + 4)
        tangents = math.sqrt(columns) * z.first + z.derivative_rounding
        return Bound(
            spectral * z.size + bias,
            spectral * z.rounding + k * (frobenius * (z.size + z.rounding) + bias),
            spectral * z.first, spectral * z.second,
            spectral * z.derivative_rounding + k * frobenius * tangents,
        )  # fmt: skip

    def _scaled(self, z: Bound, name: str, columns: int) -> Bound | None:
        if self._tensor(name).ndim != 1:
            return None
        most = self._norm(name)[0]
        tangents = math.sqrt(columns) * z.first + z.derivative_rounding
        return Bound(
            most * z.size, most * (z.rounding + 4 * UNIT * (z.size + z.rounding)),
            most * z.first, most * z.second,
            most * (z.derivative_rounding + 4 * UNIT * tangents),
        )  # fmt: skip


def _sum(a: Bound, b: Bound, columns: int) -> Bound:
    size, first = a.size + b.size, a.first + b.first
    rounding, slope = a.rounding + b.rounding, a.derivative_rounding + b.derivative_rounding
    return Bound(
        size, rounding + 4 * UNIT * (size + rounding), first, a.second + b.second,
        slope + 4 * UNIT * (math.sqrt(columns) * first + slope),
    )  # fmt: skip


def _curved(z: Bound, first: float, second: float, columns: int) -> Bound:
    """A smooth activation, entry by entry."""
    tangents = math.sqrt(columns) * z.first + z.derivative_rounding
    return Bound(
        first * z.size,
        first * z.rounding + 64 * UNIT * (z.size + z.rounding),
        first * z.first, second * z.first**2 + first * z.second,
        first * z.derivative_rounding + (second * z.rounding + 64 * UNIT) * tangents,
    )  # fmt: skip
