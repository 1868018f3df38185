"""Parameterisations, transformations, objectives: identities and hand-written values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import surgeon
from surgeon import Recipe
from surgeon.errors import ProbeError
from surgeon.imaging.ascent import adam
from surgeon.imaging.objective_texts import parse_objective
from surgeon.imaging.objectives import Seen, see, values_of
from surgeon.imaging.parameterisations import (
    Fourier,
    Maco,
    Pixel,
    coloured,
    decoloured,
    magnitude_of,
)
from surgeon.imaging.transformations import (
    Blur,
    Crop,
    Jitter,
    Rotate,
    Scale,
    parse_transformation,
    resized,
    view,
)
from surgeon.randomness import stream


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_fourier_shows_the_image_it_was_made_of():
    image = torch.rand(2, 3, 16, 12, generator=gen()) * 0.8 + 0.1
    size = (3, 16, 12)
    waves = torch.fft.rfft2(decoloured(torch.logit(image)) * 4, norm="ortho")
    rows, columns = torch.fft.fftfreq(16)[:, None], torch.fft.rfftfreq(12)[None]
    spectrum = waves * torch.hypot(rows, columns).clamp(min=1 / 16)
    shown = Fourier(size).image({"spectrum": torch.view_as_real(spectrum)})
    torch.testing.assert_close(shown, image, atol=1e-4, rtol=0)


def test_fouriers_start_is_grey_with_slow_waves_strongest():
    made_of = Fourier((1, 64, 64))
    image = made_of.image(made_of.start(gen()))
    assert float((image - 0.5).abs().max()) < 0.1
    power = torch.fft.rfft2(torch.logit(image[0, 0])).abs() ** 2
    assert power[1, 1] + power[0, 1] + power[1, 0] > 20 * power[20:30, 20:30].mean()


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("factor", [2, 3])
def test_a_spectrum_on_a_larger_canvas_is_the_same_image_between_its_pixels(decay, factor):
    small = Fourier((3, 16, 12), spread=0.5, decay=decay)
    large = Fourier((3, 16 * factor, 12 * factor), decay=decay)
    start = small.start(gen())
    start["spectrum"][:, :, 8] = 0  # the shortest waves, which stand for two on the larger one
    start["spectrum"][:, :, :, 6] = 0
    grown = large.fitted(start)
    sampled = large.image(grown)[:, :, ::factor, ::factor]
    torch.testing.assert_close(sampled, small.image(start), atol=1e-5, rtol=0)
    torch.testing.assert_close(small.fitted(grown), start)


def test_pixels_on_a_larger_canvas():
    start = Pixel((1, 4, 4)).start(gen())
    grown = Pixel((1, 8, 8)).fitted(start)["pixels"]
    torch.testing.assert_close(grown, resized(start["pixels"], (8, 8)))


def test_colours_and_back():
    x = torch.randn(2, 3, 5, 5, generator=gen())
    torch.testing.assert_close(decoloured(coloured(x)), x, atol=1e-4, rtol=1e-4)
    assert torch.equal(coloured(x[:, :1]), x[:, :1])


def test_maco_keeps_the_amplitudes_whatever_the_phases():
    photo = torch.rand(1, 1, 32, 32, generator=gen())
    size = (1, 32, 32)
    made_of = Maco(size, magnitude_of([photo], size))
    spectra = []
    for seed in (1, 2):
        image = made_of.image(made_of.start(gen(seed))).double()
        waves = torch.logit(image)
        waves = (waves - waves.mean()) / waves.std()
        spectra.append(torch.fft.rfft2(waves)[0, 0, 1:16, 1:16].abs())
    ratio = spectra[0] / spectra[1]
    assert float((ratio / ratio.mean() - 1).abs().max()) < 0.02


def test_magnitude_falls_with_frequency_on_photos():
    from surgeon.imaging.photos import load_photo
    from surgeon.registry import registry

    path = registry().find("image", "chelsea", ProbeError).target
    photo = load_photo(path, surgeon.Preprocessing((3, 64, 64))).pixels
    magnitude = magnitude_of([photo], (3, 64, 64))
    assert magnitude.shape == (3, 64, 33)
    assert magnitude[0, 2, 2] > magnitude[0, 10, 10] > magnitude[0, 30, 30]


def ramp(height=20, width=20):
    """Values that say where they are: row and column, in [0, 1]."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows / height, columns / width, rows * 0.0])[None].float()


def test_no_pieces_change_nothing():
    image = torch.rand(2, 3, 9, 7, generator=gen())
    assert torch.equal(view([], image, (9, 7), gen()), image)


def test_jitter_is_a_shift_and_a_crop_a_part():
    image = ramp()
    moved = view([Jitter(3)], image, (20, 20), gen(1))[0, :, 8:12, 8:12] - image[0, :, 8:12, 8:12]
    for axis in range(2):
        assert float(moved[axis].std()) < 1e-5  # the same everywhere
        assert 0 < abs(float(moved[axis].mean())) * 20 <= 3
    part = view([Crop(8)], image, (8, 8), gen(2))
    steps = part[0, 0].diff(dim=0) * 20, part[0, 1].diff(dim=1) * 20
    assert all(torch.allclose(s, torch.ones_like(s), atol=1e-4) for s in steps)


def test_scale_and_rotation_about_the_middle():
    image = ramp(21, 21)
    larger = view([Scale(2, 2)], image, (21, 21), gen())
    assert float(larger[0, 0, 10, 10]) == pytest.approx(10 / 21, abs=1e-4)
    assert float(larger[0, 0, 12, 10] - larger[0, 0, 10, 10]) * 21 == pytest.approx(1, abs=1e-3)
    turned = view([Rotate(90)], image, (21, 21), gen(3))
    slope = torch.stack([turned[0, 0, 11, 10] - turned[0, 0, 9, 10],
                         turned[0, 0, 10, 11] - turned[0, 0, 10, 9]]) * 21 / 2  # fmt: skip
    assert float(slope.norm()) == pytest.approx(1, abs=1e-3)


def test_pieces_that_move_are_drawn_together():
    """One resampling of the product is one after another, where nothing is lost between."""
    image = ramp(33, 33)
    both = view([Scale(1.5, 1.5), Rotate(20)], image, (33, 33), gen(4))
    generator = gen(4)
    first = view([Scale(1.5, 1.5)], image, (33, 33), generator)
    second = view([Rotate(20)], first, (33, 33), generator)
    middle = slice(12, 21)
    torch.testing.assert_close(
        both[..., middle, middle], second[..., middle, middle], atol=2e-3, rtol=0
    )


def test_every_image_of_a_batch_has_its_own_numbers():
    image = torch.rand(1, 3, 16, 16, generator=gen()).repeat(3, 1, 1, 1)
    for text in ("jitter(4)", "scale(0.5, 1)", "rotate(30)", "colour_shift(0.2)", "noise(0.1)"):
        out = view([parse_transformation(text)], image, (16, 16), gen(5))
        assert not torch.allclose(out[0], out[1])
        again = view([parse_transformation(text)], image, (16, 16), gen(5))
        assert torch.equal(out, again)


def test_a_blurs_width_falls():
    image = torch.zeros(1, 1, 15, 15)
    image[..., 7, 7] = 1
    wide, narrow = (view([Blur(2, 0.5)], image, (15, 15), gen(), step, 10) for step in (0, 9))
    assert float(wide.max()) < float(narrow.max())
    assert float(wide.sum()) == pytest.approx(1, abs=1e-3)


def test_adam_is_torchs():
    x = torch.randn(7, generator=gen()).requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=0.1)
    state, memory = {"x": x.detach().clone()}, {}
    for step in range(6):
        optimizer.zero_grad()
        (x**4).sum().backward()
        optimizer.step()
        state, memory = adam(state, {"x": -4 * state["x"] ** 3}, memory, step, 0.1)
        torch.testing.assert_close(state["x"], x.detach(), rtol=1e-5, atol=1e-6)


@pytest.fixture
def seen(vit, images):
    with surgeon.operate(vit, Recipe(), input_size=(3, 16, 16)) as subject:
        objectives = [parse_objective('logit(1) + channel("blocks[0]", 2) + token("blocks[1]", 3)')]
        yield see(subject, images, objectives * 3)


def test_objectives_add_and_multiply(seen):
    out, image = seen.output, seen.images
    rough = -((image[:, :, 1:] - image[:, :, :-1]).abs().mean((1, 2, 3))
              + (image[..., 1:] - image[..., :-1]).abs().mean((1, 2, 3))) / 2  # fmt: skip
    wanted = {
        "logit(1)": out[:, 1],
        "logit(1) - logit(2) + 0.1 * total_variation()": out[:, 1] - out[:, 2] + rough / 10,
        "-(logit(1) + 2) * logit(3) / 4": -(out[:, 1] + 2) * out[:, 3] / 4,
        "3 - softmax(4)": 3 - out.softmax(1)[:, 4],
        "log_softmax(4)": out.log_softmax(1)[:, 4],
        'channel("blocks[0]", 2)': seen.values["blocks[0]"][:, :, 2].mean(1),
        'token("blocks[1]", 3, 5)': seen.values["blocks[1]"][:, 3, 5],
        'site("blocks[0]")': (seen.values["blocks[0]"] ** 2).mean((1, 2)) / 2,
        'mean("blocks[0]")': seen.values["blocks[0]"].mean((1, 2)),
        "l2()": -((image - 0.5) ** 2).mean((1, 2, 3)).sqrt(),
        "in_range()": torch.zeros(3),
    }
    for text, value in wanted.items():
        torch.testing.assert_close(parse_objective(text)(seen), value, msg=text)
    rows = [parse_objective(t) for t in list(wanted)[:3]]
    mixed = values_of(rows, seen)
    for i in range(3):
        torch.testing.assert_close(mixed[i], list(wanted.values())[i][i])


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("logt(3)", "logit"),
        ("logit(3", "never closed"),
        ("logit(3).real", "is not understood"),
        ("__import__('os')", "no `__import__`"),
        ("logit(99)", "0 to 9"),
        ("logit()", "missing"),
        ("3 + 4", "depends on no image"),
        ("logit(1) ** 2", "is not understood"),
        ("logit(1) / 0", "division by zero"),
        ("logit(1) + 'x'", "could not convert"),
        ("[logit(1)]", "is not understood"),
    ],
)
def test_what_is_no_objective_is_said(text, hint):
    with pytest.raises(ProbeError, match=hint):
        parse_objective(text, (), 10)


def test_what_is_no_transformation_is_said():
    for text, hint in (("jiter(3)", "jitter"), ("scale(2, 1)", "low <= high"), ("3", "it is none")):
        with pytest.raises(ProbeError, match=hint):
            parse_transformation(text)


def test_batch_statistics_are_those_of_the_batch_against_what_the_norms_remember():
    """Against statistics worked out by hand; at no distance for what the norms remember."""
    torch.manual_seed(0)
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(8)
    model = nn.Sequential(
        first, nn.Conv2d(3, 8, 3), second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    photos, noise = torch.rand(16, 3, 12, 12), torch.randn(16, 3, 12, 12, generator=gen()) * 3
    for norm in (first, second):
        norm.momentum = 1.0
    model.train()(photos)  # running statistics of exactly these
    model.eval()
    objective = parse_objective("2 * batch_statistics()")
    with surgeon.operate(model, Recipe(), input_size=(3, 12, 12)) as subject, torch.no_grad():
        near = values_of([objective] * 16, see(subject, photos, [objective]))
        far = values_of([objective] * 16, see(subject, noise, [objective]))

        def off(x, norm):
            spread = (norm.running_var + norm.eps).sqrt()
            rows = x.transpose(0, 1).flatten(1)
            ratio = (rows.var(1, correction=0) + 1e-6).sqrt() / spread
            mean = (rows.mean(1) - norm.running_mean) / spread
            return (mean**2).mean() + ((ratio - 1) ** 2).mean()

        wanted = (10 * off(noise, first) + off(model[1](first(noise)), second)) / 11
    torch.testing.assert_close(far, -2 * wanted.expand(16))
    assert -1e-4 < near[0] <= 0
    assert torch.equal(near, near[:1].expand(16))
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_batch_statistics_need_norms_that_remember(vit, images):
    with surgeon.operate(vit, Recipe(), input_size=(3, 16, 16)) as subject:
        objective = parse_objective("logit(1) + batch_statistics()")
        with pytest.raises(ProbeError, match="no batch norm"):
            values_of([objective], see(subject, images, [objective]))


def test_an_objective_needs_one_site_and_no_more_than_it_needs(vit, images):
    with surgeon.operate(vit, Recipe(), input_size=(3, 16, 16)) as subject:
        with pytest.raises(ProbeError, match="2 sites"):
            see(subject, images, [parse_objective('mean("blocks[*]")')])
        seen = see(subject, images, [parse_objective('mean("blocks[0]")')])
        assert torch.equal(seen.output, seen.values["blocks[0]"])  # stopped there
    assert isinstance(seen, Seen)
    assert math.isfinite(float(seen.output.sum()))
    assert stream("a", 0) is not None
