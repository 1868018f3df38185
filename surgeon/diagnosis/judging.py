"""The judge: from a matrix, a Jacobian or a small map to a verdict with its evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.diagnosis import thresholds
from surgeon.diagnosis.certificates import (
    COLLIDES,
    ILL,
    INJECTIVE,
    OPEN,
    PROVED,
    Certificate,
    Evidence,
)
from surgeon.diagnosis.exact_rank import rank_at_least, rational_rank
from surgeon.diagnosis.extremes import Extreme
from surgeon.imaging.metrics import exact, finite


@dataclass(frozen=True)
class Facts:
    """What is known of a map beside its values; each is taken as proved by whoever states it.

    Attributes:
        bounded_branch: why the map is the identity plus a continuous bounded map; empty if it is
            not known to be.
        null_space: what direction it is exactly blind to, and why; empty if none is known.
        null_dimensions: of that direction, at least.
    """

    bounded_branch: str = ""
    null_space: str = ""
    null_dimensions: int = 0


NOTHING = Facts()


@dataclass(frozen=True)
class Spectrum:
    """Singular values and determinant of one Jacobian.

    Attributes:
        values: descending, as many as there are columns (those of a wide matrix end in zeros).
        sign: of the determinant, 0 where it is not square or within the margin.
        rows, columns: its shape.
    """

    values: Tensor
    sign: int
    rows: int
    columns: int

    @property
    def largest(self) -> float:
        return float(self.values[0])

    @property
    def smallest(self) -> float:
        return float(self.values[-1])

    @property
    def condition(self) -> float:
        """Infinite where the smallest singular value is zero."""
        return self.largest / self.smallest if self.smallest > 0 else math.inf

    @property
    def is_rounding(self) -> bool:
        """Whether the smallest singular value can't be told from zero."""
        level = thresholds.ROUNDING * max(self.rows, self.columns)
        return self.smallest <= level * self.largest

    def evidence(self) -> Evidence:
        """Its extremes, condition and effective rank."""
        energy = (self.values / safe_total(self.values)).clamp_min(1e-300)
        rank = math.exp(float(-(energy * energy.log()).sum()))
        text = f"singular values from {self.smallest:.3g} to {self.largest:.3g}"
        if self.is_rounding:
            text += ", the smallest is zero as far as rounding can tell"
        return Evidence("singular values", text, {
            "smallest": finite(self.smallest), "largest": finite(self.largest),
            "condition": finite(self.condition), "effective_rank": finite(rank),
            "determinant_sign": self.sign,
        })  # fmt: skip


def safe_total(values: Tensor) -> Tensor:
    """Their sum, to divide by."""
    return values.sum().clamp_min(1e-300)


def spectra(jacobians: Tensor) -> list[Spectrum]:
    """Singular values and signs of determinants of a batch of matrices.

    Args:
        jacobians: (batch, rows, columns), finite.

    Returns:
        One spectrum each. The sign is that of the LU factorisation, and 0 within
        `thresholds.DETERMINANT_MARGIN`.
    """
    matrices = jacobians.double()
    rows, columns = matrices.shape[1:]
    values = torch.linalg.svdvals(matrices)
    if rows < columns:
        values = torch.cat([values, values.new_zeros(len(values), columns - rows)], 1)
    signs = torch.zeros(len(matrices), dtype=torch.int64)
    if rows == columns:
        clear = values[:, -1] >= thresholds.DETERMINANT_MARGIN * values[:, 0]
        signs = torch.where(clear, torch.linalg.slogdet(matrices)[0], 0.0).long().cpu()
    return [Spectrum(v.cpu(), int(s), rows, columns) for v, s in zip(values, signs, strict=True)]


def counted(elements_in: int, elements_out: int, what: str = "it has") -> Evidence | None:
    """Fewer elements out than in: no continuous map is injective then (invariance of domain)."""
    if elements_out >= elements_in:
        return None
    return Evidence(
        "counting",
        f"{what} {elements_out:,} numbers for {elements_in:,}",
        {"elements_in": elements_in, "elements_out": elements_out},
    )


def judge_spectrum(spectrum: Spectrum | None, facts: Facts = NOTHING) -> Certificate:
    """The verdict on a continuous map at a point, from its Jacobian there and what is known of it.

    Args:
        spectrum: of the Jacobian in float64; None if it is not finite.
    """
    found = [] if spectrum is None else [spectrum.evidence()]
    if facts.null_space:
        null = Evidence(
            "exact null space", facts.null_space, {"null_dimensions": facts.null_dimensions}
        )
        return Certificate(PROVED, (null, *found))
    if spectrum is None:
        nothing = Evidence("none", "values or derivatives are not finite")
        return Certificate(OPEN, (nothing,))
    count = counted(spectrum.columns, spectrum.rows)
    if count is not None:
        return Certificate(PROVED, (count, *found))
    if spectrum.sign < 0 and facts.bounded_branch:
        return Certificate(PROVED, (_folded(spectrum, facts), *found))
    if thresholds.is_ill_conditioned(spectrum.condition):
        return Certificate(ILL, tuple(found))
    return Certificate(INJECTIVE, tuple(found))


def judge_extremes(
    columns: int, most: Extreme, least: Extreme | None, facts: Facts = NOTHING
) -> Certificate:
    """The verdict on a square map at a point, from the extremes of its Jacobian alone.

    Args:
        most: the largest singular value.
        least: the smallest; None if it was not found.
    """
    numbers: dict[str, float | int | str | None] = {
        "largest": finite(most.value), "largest_error": most.error, "columns": columns,
    }  # fmt: skip
    text = f"largest singular value {most.value:.4g}, by iteration"
    if least is not None:
        condition = most.value / least.value
        numbers |= {"smallest": least.value, "smallest_error": least.error, "condition": condition}
        text = f"singular values from {least.value:.3g} to {most.value:.3g}, by iteration"
    found = Evidence("singular values", text, numbers)
    if facts.null_space:
        null = Evidence(
            "exact null space", facts.null_space, {"null_dimensions": facts.null_dimensions}
        )
        return Certificate(PROVED, (null, found))
    if least is None:
        text = f"the smallest of {columns:,} singular values was not found"
        return Certificate(OPEN, (Evidence("none", text, {"columns": columns}), found))
    error, condition = most.error + least.error, most.value / least.value
    sides = {thresholds.is_ill_conditioned(condition * (1 + e)) for e in (-error, error)}
    if len(sides) > 1 and error > thresholds.ROOM:
        text = f"a condition of {condition:.3g} is too near the threshold to tell"
        return Certificate(OPEN, (Evidence("none", text), found))
    ill = thresholds.is_ill_conditioned(condition)
    return Certificate(ILL if ill else INJECTIVE, (found,))


def branch_evidence(steepest: float, radius: float | None = None) -> Evidence:
    """The local Lipschitz constant of a branch, and its Jacobian's spectral radius."""
    text = f"the branch changes by at most {steepest:.3g} times what its input does, here"
    numbers: dict[str, float | int | str | None] = {"lipschitz_branch": steepest}
    if radius is not None:
        numbers["spectral_radius"] = radius
    return Evidence("singular values", text, numbers)


def _folded(spectrum: Spectrum, facts: Facts) -> Evidence:
    """The identity plus a bounded continuous map has degree 1; here its index is -1, so the index
    of the other pre-images adds up to 2: there is one more, and two where the value is regular."""
    margin = spectrum.smallest / spectrum.largest
    text = (
        f"det(I + J) < 0 by a margin of {margin:.1e} and {facts.bounded_branch}: at least one more "
        "pre-image, two where the value is regular"
    )
    return Evidence("determinant", text, {"determinant_margin": margin})


def judge_matrix(matrix: Tensor) -> Certificate:
    """The verdict on x -> A x, for A exactly as its numbers are.

    A rank below the columns is a proof when it was found by counting or in rational numbers. A full
    rank modulo a prime is a proof too, of the contrary: a map ever so ill-conditioned is then
    injective, and never called a collision.

    Args:
        matrix: (rows, columns), float32 or float64.
    """
    rows, columns = matrix.shape
    if not bool(torch.isfinite(matrix).all()):
        return judge_spectrum(None)
    spectrum = spectra(exact(matrix)[None])[0]
    count = counted(columns, rows)
    if count is not None:
        return Certificate(PROVED, (count, spectrum.evidence()))
    if rank_at_least(matrix) == columns:
        proof = Evidence("rank", "its rank is full, exactly", {"rank": columns})
        verdict = ILL if thresholds.is_ill_conditioned(spectrum.condition) else INJECTIVE
        return Certificate(verdict, (spectrum.evidence(), proof))
    rank = rational_rank(matrix)
    if rank is not None and rank < columns:
        text = f"its rank is {rank} of {columns}, exactly"
        null = Evidence("exact null space", text, {"null_dimensions": columns - rank})
        return Certificate(PROVED, (null, spectrum.evidence()))
    text = "its rank modulo a prime is not full; too large for rational numbers"
    return Certificate(ILL, (spectrum.evidence(), Evidence("none", text)))


def jacobian_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The dense Jacobian (rows, columns) of a map of single points, by forward mode."""
    n = x.numel()

    def along(v: Tensor) -> Tensor:
        derivative: Tensor = torch.func.jvp(function, (x,), (v.reshape(x.shape),))[1]
        return derivative.flatten()

    columns: Tensor = torch.func.vmap(along)(torch.eye(n, dtype=x.dtype, device=x.device))
    return columns.T


def judge_map(
    function: Callable[[Tensor], Tensor], x: Tensor, facts: Facts = NOTHING
) -> Certificate:
    """The verdict on a small continuous map at a point.

    Args:
        function: a tensor to a tensor, differentiable in forward mode, in x's precision.
        x: the point, float64.
        facts: what is known of it beside its values; "proved" comes from these or from counting.
    """
    with torch.no_grad():  # a module's weights want gradients
        return _judged(function, x, facts)


def _judged(function: Callable[[Tensor], Tensor], x: Tensor, facts: Facts) -> Certificate:
    value = function(x)
    count = counted(x.numel(), value.numel())
    if count is not None:
        return Certificate(PROVED, (count,))
    jacobian = jacobian_of(function, x)
    if not (bool(torch.isfinite(value).all()) and bool(torch.isfinite(jacobian).all())):
        return judge_spectrum(None, facts)
    spectrum = spectra(jacobian[None])[0]
    certificate = judge_spectrum(spectrum, facts)
    if certificate.verdict == ILL and spectrum.smallest <= thresholds.COLLISION * spectrum.largest:
        pair = collide(function, x, jacobian)
        if pair is not None:
            return Certificate(COLLIDES, (pair, *certificate.evidence))
    return certificate


def collide(function: Callable[[Tensor], Tensor], x: Tensor, jacobian: Tensor) -> Evidence | None:
    """Two inputs apart with outputs together, along the direction the Jacobian is blindest to."""
    direction = torch.linalg.svd(jacobian)[2][-1].reshape(x.shape)
    value, length = function(x), x.norm().clamp_min(1e-300)
    for share in (1.0, 0.3, 0.1, 0.03, thresholds.APART):
        for sign in (1, -1):
            other = x + sign * share * length * direction
            left = float((function(other) - value).norm() / value.norm().clamp_min(1e-300))
            if left <= thresholds.COLLISION:
                text = f"inputs {share:.2g} of the first apart, outputs {left:.1e} of the first"
                return Evidence("pair", text, {"apart": share, "output_difference": left})
    return None
