"""Is a filter a wavelet? Gabor fits of filter banks, and how concentrated their spectra are.

A filter (channels, height, width) is called a wavelet where one Gabor function (a wave under a
Gaussian; Gabor 1946, Daugman 1985) times one colour explains most of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Refinements of the best entry of the dictionary, by gradient.
_REFINE_STEPS, _REFINE_RATE = 30, 0.05
_ORIENTATIONS, _FREQUENCIES, _PLACES = 12, 7, 5
_WIDTHS = (0.12, 0.2, 0.35)
_CHUNK = 256


@dataclass(frozen=True)
class WaveletScores:
    """Scores of a bank of filters; each (filters,), float64 in [0, 1] unless said.

    Attributes:
        score: share of a filter's energy, means of its channels taken out, that one Gabor function
            times one colour explains.
        colour: share that its best single colour explains, whatever the pattern.
        orientation: length of the mean of exp(2 i angle) over the power spectrum; 1: one direction.
        frequency: share of the power within half an octave of the spectrum's peak.
        fits: (filters, height, width), the fitted Gabor functions of norm 1.
        angle: direction of the fitted wave in degrees, [0, 180).
        cycles: its frequency in cycles per pixel.
    """

    score: Tensor
    colour: Tensor
    orientation: Tensor
    frequency: Tensor
    fits: Tensor
    angle: Tensor
    cycles: Tensor


def wavelet_scores(bank: Tensor) -> WaveletScores:
    """Score every filter of a bank.

    Args:
        bank: (filters, channels, height, width), any scale; all but constant filters, whose scores
            are 0.
    """
    parts = [_scores_of(chunk.detach().cpu().double()) for chunk in bank.split(_CHUNK)]
    fields = WaveletScores.__dataclass_fields__
    return WaveletScores(*(torch.cat([getattr(p, name) for p in parts]) for name in fields))


def principal_patterns(bank: Tensor) -> tuple[Tensor, Tensor]:
    """Each filter's pattern in its best colour, and the share of its energy that it holds.

    Args:
        bank: (filters, channels, height, width).

    Returns:
        (filters, height, width) of norm 1, means taken out, and (filters,).
    """
    count, channels, height, width = bank.shape
    flat = bank.reshape(count, channels, -1)
    flat = flat - flat.mean(2, keepdim=True)
    _, values, right = torch.linalg.svd(flat, full_matrices=False)
    energy = (values**2).sum(1)
    share = torch.where(energy > 0, values[:, 0] ** 2 / energy.clamp(min=1e-300), 0.0)
    patterns = right[:, 0].reshape(count, height, width)
    return torch.where(energy[:, None, None] > 0, patterns, 0.0), share


def gabor_pairs(parameters: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine waves under Gaussians, before their means are taken out.

    Args:
        parameters: (many, 6): frequency across and down in cycles per pixel, centre across and down
            in pixels from the middle, log of the Gaussian's width along and across the wave in
            pixels.

    Returns:
        Two of (many, height, width).
    """
    fx, fy, cx, cy, along, across = parameters[..., None, None].unbind(1)
    rows, columns = _grid(height, width)
    x, y = columns - cx, rows - cy
    frequency = (fx**2 + fy**2 + 1e-12).sqrt()
    u, v = (x * fx + y * fy) / frequency, (y * fx - x * fy) / frequency
    envelope = torch.exp(-0.5 * ((u / along.exp()) ** 2 + (v / across.exp()) ** 2))
    wave = 2 * math.pi * (x * fx + y * fy)
    return envelope * wave.cos(), envelope * wave.sin()


def _scores_of(bank: Tensor) -> WaveletScores:
    patterns, colour = principal_patterns(bank)
    starts = (_best_of_dictionary(patterns), _best_at_peak(patterns))
    shares = torch.stack([_explained(patterns, start)[0] for start in starts])
    better = (shares[1] > shares[0])[:, None]
    found = _refined(patterns, torch.where(better, starts[1], starts[0]))
    share, fits = _explained(patterns, found)
    orientation, frequency = _concentrations(patterns)
    angle = torch.rad2deg(torch.atan2(found[:, 1], found[:, 0])) % 180
    cycles = found[:, :2].norm(dim=1)
    return WaveletScores(share * colour, colour, orientation, frequency, fits, angle, cycles)


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    rows = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    return rows[:, None].expand(height, width), columns[None, :].expand(height, width)


def _dictionary(height: int, width: int) -> Tensor:
    """Parameters of many Gabor functions: directions, frequencies, places, widths."""
    side = min(height, width)
    lowest, highest = 0.8 / side, 0.45
    frequencies = torch.logspace(
        math.log10(lowest), math.log10(highest), _FREQUENCIES, dtype=torch.float64
    )
    angles = torch.arange(_ORIENTATIONS, dtype=torch.float64) * math.pi / _ORIENTATIONS
    places = torch.linspace(-0.32, 0.32, _PLACES, dtype=torch.float64)
    widths = torch.tensor(_WIDTHS, dtype=torch.float64) * side
    f, a, x, y, w = torch.meshgrid(
        frequencies, angles, places * width, places * height, widths, indexing="ij"
    )
    parts = (f * a.cos(), f * a.sin(), x, y, w.log(), w.log())
    return torch.stack([p.flatten() for p in parts], dim=1)


def _best_of_dictionary(patterns: Tensor) -> Tensor:
    """For each pattern the entry that explains most of it: (filters, 6)."""
    entries = _dictionary(*patterns.shape[1:])
    flat = patterns.flatten(1)
    best = torch.full((len(patterns),), -1.0, dtype=torch.float64)
    chosen = torch.zeros(len(patterns), dtype=torch.int64)
    for start in range(0, len(entries), 2048):
        first, second = _orthonormal(entries[start : start + 2048], *patterns.shape[1:])
        share = (flat @ first.T) ** 2 + (flat @ second.T) ** 2
        value, index = share.max(1)
        better = value > best
        best = torch.where(better, value, best)
        chosen = torch.where(better, index + start, chosen)
    return entries[chosen]


def _best_at_peak(patterns: Tensor) -> Tensor:
    """For each pattern the best place and width of a wave at its spectrum's peak: (filters, 6).

    The dictionary's steps are too wide for fast waves in large filters.
    """
    count, height, width = patterns.shape
    size = 4 * max(height, width)
    power = torch.fft.rfft2(patterns, s=(size, size)).abs() ** 2
    peak = power.flatten(1).argmax(1)
    row, column = peak // power.shape[2], peak % power.shape[2]
    fy = torch.where(row > size // 2, row - size, row).double() / size
    wave = torch.stack([column.double() / size, fy], dim=1)
    places = _dictionary(height, width)[:, 2:].unique(dim=0)
    best = torch.full((count,), -1.0, dtype=torch.float64)
    kept = torch.zeros(count, 6, dtype=torch.float64)
    for place in places:
        entry = torch.cat([wave, place.expand(count, -1)], dim=1)
        share, _ = _explained(patterns, entry)
        kept = torch.where((share > best)[:, None], entry, kept)
        best = torch.maximum(share, best)
    return kept


def _orthonormal(parameters: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The two waves as an orthonormal pair without means: each (many, height * width)."""
    cosine, sine = (p.flatten(1) for p in gabor_pairs(parameters, height, width))
    cosine, sine = cosine - cosine.mean(1, keepdim=True), sine - sine.mean(1, keepdim=True)
    first = cosine / cosine.norm(dim=1, keepdim=True).clamp(min=1e-9)
    rest = sine - (sine * first).sum(1, keepdim=True) * first
    return first, rest / rest.norm(dim=1, keepdim=True).clamp(min=1e-6)


def _explained(patterns: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each pattern's energy that its Gabor function explains, and the function."""
    first, second = _orthonormal(parameters, *patterns.shape[1:])
    flat = patterns.flatten(1)
    a, b = (flat * first).sum(1, keepdim=True), (flat * second).sum(1, keepdim=True)
    fit = a * first + b * second
    share = (a**2 + b**2).squeeze(1).clamp(0, 1)
    return share, (fit / fit.norm(dim=1, keepdim=True).clamp(min=1e-9)).reshape(patterns.shape)


def _refined(patterns: Tensor, start: Tensor) -> Tensor:
    """The parameters after some steps of Adam, the best of each on the way, kept in bounds."""
    side = min(patterns.shape[1:])
    scale = torch.tensor([1 / side, 1 / side, 0.2 * side, 0.2 * side, 1.0, 1.0]).double()
    moved = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([moved], lr=_REFINE_RATE)
    best, kept = torch.full((len(start),), -1.0, dtype=torch.float64), start.clone()
    with torch.enable_grad():
        for _ in range(_REFINE_STEPS):
            parameters = _bounded(start + moved * scale, patterns.shape[1], patterns.shape[2])
            share, _ = _explained(patterns, parameters)
            better = share.detach() > best
            best = torch.where(better, share.detach(), best)
            kept = torch.where(better[:, None], parameters.detach(), kept)
            optimizer.zero_grad()
            (-share.sum()).backward()
            optimizer.step()
    return kept


def _bounded(parameters: Tensor, height: int, width: int) -> Tensor:
    """Waves of 0.6 cycles a filter to 0.5 a pixel, centred in it, about a pixel wide or more."""
    side = min(height, width)
    frequency = parameters[:, :2]
    norm = frequency.norm(dim=1, keepdim=True).clamp(min=1e-9)
    frequency = frequency / norm * norm.clamp(0.6 / side, 0.5)
    limit = torch.tensor([width / 2, height / 2]).to(parameters)
    centre = torch.minimum(torch.maximum(parameters[:, 2:4], -limit), limit)
    widths = parameters[:, 4:].clamp(math.log(0.7), math.log(0.6 * side + 0.7))
    return torch.cat([frequency, centre, widths], dim=1)


def _concentrations(patterns: Tensor) -> tuple[Tensor, Tensor]:
    """Of the power spectrum: of orientation, and around the peak's frequency."""
    size = 2 * max(patterns.shape[1:])
    power = torch.fft.fft2(patterns, s=(size, size)).abs() ** 2
    fy, fx = torch.meshgrid(*([torch.fft.fftfreq(size).double()] * 2), indexing="ij")
    radius = (fx**2 + fy**2).sqrt()
    inside = (radius > 0) & (radius <= 0.5)  # the corners have fewer directions
    power = torch.where(inside, power, 0.0)
    total = power.sum((1, 2)).clamp(min=1e-300)
    double = torch.polar(torch.ones_like(radius), 2 * torch.atan2(fy, fx))
    orientation = (power * double).sum((1, 2)).abs() / total
    peak = radius.flatten()[power.flatten(1).argmax(1)][:, None, None].clamp(min=1e-9)
    octaves = (radius.clamp(min=1e-9) / peak).log2().abs()
    frequency = torch.where(octaves <= 0.5, power, 0.0).sum((1, 2)) / total
    return orientation, frequency


def threshold(null: Tensor, level: float = 0.01) -> float:
    """The score that a share `level` of patternless filters exceeds.

    Args:
        null: scores of filters known to have no pattern, (many,).
    """
    return float(torch.quantile(null.double(), 1 - level))


def patternless_share(scores: Tensor, null: Tensor, level: float = 0.01) -> float:
    """The share of filters that score no higher than patternless ones do.

    A share `level` of patternless filters passes for wavelets by chance, which is corrected for.
    """
    passed = float((scores > threshold(null, level)).double().mean())
    return min(max((1 - passed) / (1 - level), 0.0), 1.0)
