"""filters: the wavelet score on banks of known make, grids, and the null."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import surgeon
from surgeon import Recipe, Swap
from surgeon.errors import ProbeError
from surgeon.imaging.wavelets import patternless_share, wavelet_scores
from surgeon.probe import Inputs
from surgeon.testing import assert_restores, tiny_vit
from surgeon_filters.banks import bank_of, grid_of
from surgeon_filters.probe import Filters
from surgeon_filters.settings import FiltersSettings


def gabor(rng, side, channels, noise):
    """One coloured Gabor filter by its formula, in numpy, with noise of `noise` times its norm."""
    frequency = (1 / side) * (0.35 * side) ** rng.random()
    angle, phase = rng.random() * math.pi, rng.random() * 2 * math.pi
    centre = (rng.random(2) - 0.5) * 0.4 * side
    sigma = side * (0.15 + 0.2 * rng.random(2))
    y, x = np.mgrid[:side, :side] - (side - 1) / 2 - centre[:, None, None]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave = np.exp(-0.5 * ((u / sigma[0]) ** 2 + (v / sigma[1]) ** 2))
    wave *= np.cos(2 * math.pi * frequency * u + phase)
    filter_ = rng.standard_normal(channels)[:, None, None] * wave
    extra = rng.standard_normal(filter_.shape)
    return filter_ / np.linalg.norm(filter_) + noise * extra / np.linalg.norm(extra)


def banks(side, gabors, noises, seed=0, noise=0.5, channels=3):
    rng = np.random.default_rng(seed)
    made = [gabor(rng, side, channels, noise) for _ in range(gabors)]
    made += [rng.standard_normal((channels, side, side)) for _ in range(noises)]
    return torch.from_numpy(np.stack(made))


@pytest.mark.parametrize("side", [7, 14, 16, pytest.param(32, marks=pytest.mark.slow)])
def test_gabors_are_told_from_noise(side):
    scores = wavelet_scores(banks(side, 48, 48)).score
    above = scores[:48, None] > scores[None, 48:]
    assert above.double().mean() >= 0.99


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_share_of_gabors_comes_out(share):
    null = wavelet_scores(banks(14, 0, 256, seed=1)).score
    many = int(share * 100)
    found = patternless_share(wavelet_scores(banks(14, many, 100 - many)).score, null)
    assert abs((1 - found) - share) <= 0.05


def test_a_pure_gabor_is_fitted_and_a_constant_is_nothing():
    rng = np.random.default_rng(3)
    bank = torch.from_numpy(np.stack([gabor(rng, 16, 3, 0.0) for _ in range(12)]))
    scores = wavelet_scores(bank)
    assert scores.score.min() > 0.97
    patterns = scores.fits.flatten(1)
    colour = bank.flatten(2) - bank.flatten(2).mean(2, keepdim=True)
    explained = torch.einsum("fcp,fp->fc", colour, patterns).norm(dim=1) / colour.flatten(1).norm(
        dim=1
    )
    torch.testing.assert_close(explained**2, scores.score, atol=1e-9, rtol=1e-9)
    assert float(wavelet_scores(torch.ones(2, 3, 9, 9)).score.max()) == 0


def test_direction_and_frequency_of_a_wave():
    y, x = np.mgrid[:16, :16] - 7.5
    angle = math.radians(30)
    wave = np.cos(2 * math.pi * 0.2 * (x * math.cos(angle) + y * math.sin(angle)))
    found = wavelet_scores(torch.from_numpy(wave)[None, None])
    assert float(found.angle) == pytest.approx(30, abs=2)
    assert float(found.cycles) == pytest.approx(0.2, rel=0.03)
    assert float(found.orientation) > 0.8
    assert float(found.frequency) > 0.7


def test_grids_are_normalised_as_in_the_post():
    bank = torch.randn(5, 3, 30, 30, generator=torch.Generator().manual_seed(0))
    sheet = grid_of(bank, [4, 0, 1], 2)
    assert sheet.shape == (3, 2 * 32 + 2, 2 * 32 + 2)
    wanted = (bank[4] - bank[4].min()) / (bank[4].max() - bank[4].min())
    assert torch.equal(sheet[:, 2:32, 2:32], wanted)
    assert grid_of(torch.randn(2, 8, 5, 5), [0, 1], 8).shape[0] == 1


def test_linear_patch_embeddings_in_both_layouts():
    image = torch.randn(1, 3, 4, 4)
    weight = torch.randn(6, 48)
    for layout, flat in (("chw", image.flatten(1)), ("hwc", image.permute(0, 2, 3, 1).flatten(1))):
        bank = bank_of(weight, 3, layout, "stem")
        torch.testing.assert_close(
            (bank * image).sum((1, 2, 3))[None], nn.functional.linear(flat, weight)
        )
    with pytest.raises(ProbeError, match="no square patch"):
        bank_of(torch.randn(6, 50), 3, "chw", "stem")


def test_it_reads_what_was_operated():
    recipe = Recipe("surgeon/vit_fashion", seed=3) | Swap(
        "stem", donor="surgeon/vit_fashion@fashion"
    )
    model = recipe.load()
    with assert_restores(model), surgeon.operate(model, recipe) as subject:
        result = surgeon.run_probe("filters", subject, null_filters=64, count=4)
    trained = Recipe("surgeon/vit_fashion", weights="fashion").load().patch_embed.proj.weight
    untrained = Recipe("surgeon/vit_fashion", seed=3).load().patch_embed.proj.weight
    assert torch.equal(result.tensors["filters/stem"], trained)
    assert torch.equal(result.tensors["filters/stem, untrained"], untrained)
    assert result.figures["stem"]["null_filters"] == 64
    assert "too small" in result.notes[0]
    assert result.figure() is not None


def test_a_model_of_your_own_and_any_state():
    settings = FiltersSettings(sites="path:patch_embed", null_seeds=2, columns=3)
    with surgeon.operate(tiny_vit(), Recipe(), input_size=(3, 16, 16)) as subject:
        inputs, results = Inputs((), Recipe()), []
        for fresh in (False, True):
            probe = Filters()
            state, done = probe.start(subject, inputs, settings), False
            while not done:
                before = dict(state)
                step = (Filters() if fresh else probe).step(subject, inputs, settings, state)
                assert state.keys() == before.keys()
                state, done = step.state, step.done
            results.append(probe.finish(subject, inputs, settings, state))
    assert results[0].figures == results[1].figures
    assert any("shuffled" in note for note in results[0].notes)
    with (
        surgeon.operate(tiny_vit(), Recipe(), input_size=(3, 16, 16)) as subject,
        pytest.raises(ProbeError, match="no convolution"),
    ):
        surgeon.run_probe("filters", subject, sites="pos_embed")
