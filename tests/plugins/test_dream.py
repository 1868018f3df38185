"""dream: tiles that cover, octaves, its state, and what it raises."""

from __future__ import annotations

import pytest
import timm
import torch
from state_machines import run_to_end

import surgeon
from surgeon import Bypass, Preprocessing, Recipe
from surgeon.errors import ProbeError
from surgeon.imaging.photos import load_photo, photo_of
from surgeon.probe import Inputs
from surgeon.randomness import stream
from surgeon.registry import registry
from surgeon.testing import assert_restores
from surgeon_dream.octaves import Way, covered, tiles_of, way_of
from surgeon_dream.probe import Dream, gradient_of
from surgeon_dream.settings import DreamSettings
from surgeon_dream.wishes import wish_of

SIZE = (3, 32, 32)


@pytest.fixture(scope="module")
def resnet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("test_resnet").eval()


@pytest.fixture
def subject(resnet):
    with (
        assert_restores(resnet),
        surgeon.operate(resnet, Recipe(), input_size=SIZE) as found,
    ):
        yield found


def dream(subject, **settings):
    return surgeon.run_probe("dream", subject, **settings)


@pytest.mark.parametrize(
    ("height", "width", "tile"), [(10, 4, 4), (7, 7, 9), (9, 20, 5), (8, 8, 4)]
)
def test_tiles_cover_a_picture_and_are_of_one_size(height, width, tile):
    tiles = tiles_of(height, width, (tile, tile))
    assert float(covered(height, width, tiles).min()) >= 1
    sizes = {(r.stop - r.start, c.stop - c.start) for r, c in tiles}
    assert sizes == {(min(tile, height), min(tile, width))}


def test_one_tile_gives_the_gradient_of_the_picture(subject):
    settings = DreamSettings(sites="blocks[1]")
    wish = wish_of(subject, settings)
    image = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(0))
    way = Way((), (64, 64), crops=False)
    found, value = gradient_of(subject, wish, image, way, stream("x", 0))
    generator = stream("x", 0)
    rows, columns = (int(torch.randint(32, (), generator=generator)) for _ in range(2))
    leaf = image.clone().requires_grad_(True)
    z = subject.capture(torch.roll(leaf, (rows, columns), (2, 3)), "blocks[1]")["blocks[1]"]
    ((z * z).mean() / 2).backward()
    torch.testing.assert_close(found, leaf.grad, rtol=1e-4, atol=1e-8)
    assert value == pytest.approx(float((z.detach() ** 2).mean() / 2), rel=1e-5)


def test_it_rises_over_octaves_on_a_large_photo_in_tiles(subject):
    result = dream(subject, image="surgeon:chelsea", sites="blocks[2]", size=96, tile=64, steps=6)
    figures = result.figures["blocks[2]"]
    assert figures["rises"]
    assert (figures["height"], figures["width"]) == result.images["blocks[2]"].shape[2:]
    assert figures["height"] == 96
    assert "in tiles of at most 64x64" in result.notes[0]
    path = registry().find("image", "chelsea", ProbeError).target
    photo = load_photo(path, Preprocessing((3, 96, figures["width"]))).pixels
    assert torch.equal(result.tensors["photo/blocks[2]"], photo)  # its own detail, not enlarged
    z = [subject.capture(x[:, :, :64, :64], "blocks[2]")["blocks[2]"].square().mean()
         for x in (photo, result.images["blocks[2]"])]  # fmt: skip
    assert z[1] > z[0]


def test_channels_guides_and_classes_raise_what_they_say(subject):
    common = {"image": "surgeon:chelsea", "steps": 8, "octaves": 2, "size": 40}
    path = registry().find("image", "chelsea", ProbeError).target
    photo = load_photo(path, Preprocessing(SIZE)).pixels
    live = int(subject.capture(photo, "blocks[1]")["blocks[1]"].mean((0, 2, 3)).argmax())
    channel = dream(subject, sites="blocks[1]", channels=[live], **common)
    before, after = (
        float(subject.capture(x, "blocks[1]")["blocks[1]"][:, live].mean())
        for x in (channel.tensors["photo/blocks[1]"], channel.images["blocks[1]"])
    )
    assert after > before
    guided = dream(subject, sites="blocks[1]", guide="surgeon:coffee", **common)
    assert guided.figures["blocks[1]"]["activation_ratio"] > 1
    blended = dream(subject, sites="blocks[1]", plus="100 * logit(5)", **common)
    out = [float(subject(blended.tensors["photo/blocks[1]"])[0, 5]),
           float(subject(blended.images["blocks[1]"])[0, 5])]  # fmt: skip
    assert out[1] > out[0]


def test_the_post_is_a_bare_loop(vit):
    """1e-4 times the sum, times the rate, no clamp, each octave from the last one resized."""
    from surgeon.imaging.transformations import resized

    photo = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with surgeon.operate(vit, Recipe(), input_size=(3, 16, 16)) as subject:
        result = dream(subject, preset="post", image=photo, sites="blocks[0]", steps=3)
        x, generator = photo, stream("dream/image", 0)
        for side, rates in ((16, (0.5, 0.4)), (20, (0.4, 0.3)), (25, (0.3, 0.2))):
            x = resized(x, (side, side)) if side != 16 else x
            for i in range(3):
                r, c = (int(torch.randint(side, (), generator=generator)) for _ in range(2))
                rolled, total = torch.roll(x, (r, c), (2, 3)), torch.zeros_like(x)
                tiles = tiles_of(side, side, (16, 16))
                for rows, columns in tiles:
                    leaf = rolled[:, :, rows, columns].clone().requires_grad_(True)
                    z = subject.capture(leaf, "blocks[0]")["blocks[0]"]
                    (1e-4 * (z - 200).sum()).backward()
                    total[:, :, rows, columns] += leaf.grad
                total = torch.roll(total / covered(side, side, tiles), (-r, -c), (2, 3))
                x = x + (rates[0] * (3 - i) / 3 + rates[1] * i / 3) * total
    torch.testing.assert_close(result.images["blocks[0]"], x, rtol=1e-4, atol=1e-6)


def test_a_vit_of_fixed_size_is_given_crops_and_it_is_said():
    recipe = Recipe("surgeon/vit_fashion", weights="fashion") | Bypass("blocks[*].attention")
    model = recipe.load()
    with assert_restores(model), surgeon.operate(model, recipe) as subject:
        result = dream(subject, image="surgeon:coffee", steps=2, octaves=2)
        assert "crops of 28x28, the only size the model takes" in result.notes[0]
        assert result.figures["blocks[2]"]["height"] == 56
        assert result.figure() is not None
        with pytest.raises(ProbeError, match="canvas = .crops"):
            dream(subject, image="surgeon:coffee", canvas="whole")
        way = way_of(DreamSettings(size=30, octaves=3), subject, (400, 600))
        assert [(o.height, o.width) for o in way.octaves] == [(28, 28), (28, 32), (30, 45)]
        with pytest.raises(ProbeError, match="no image"):
            dream(subject)


@pytest.mark.parametrize("preset", ["default", "post"])
def test_any_state_is_enough_to_go_on_from(subject, preset):
    settings = DreamSettings(preset=preset, sites="blocks[0]", steps=2, size=40)
    photos = tuple(
        photo_of(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i)), f"p{i}")
        for i in range(2)
    )
    inputs, results = Inputs(photos, Recipe()), []
    for fresh in (False, True):
        results.append(run_to_end(Dream, subject, inputs, settings, fresh=fresh))
    assert results[0].figures == results[1].figures
    assert list(results[0].images) == ["blocks[0], p0", "blocks[0], p1"]
    assert all(torch.equal(results[0].images[k], v) for k, v in results[1].images.items())
