"""generate: its steps against bare loops, its state, its scores."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from state_machines import run_to_end
from torchvision.transforms.v2.functional import gaussian_blur

import surgeon
from surgeon import Bypass, Preprocessing, Recipe, Truncate
from surgeon.errors import ProbeError
from surgeon.imaging.objective_texts import parse_objective
from surgeon.imaging.objectives import see, values_of
from surgeon.imaging.parameterisations import Fourier
from surgeon.imaging.transformations import resized
from surgeon.probe import Inputs
from surgeon.randomness import stream
from surgeon.testing import assert_restores, tiny_vit
from surgeon_generate.probe import Generate
from surgeon_generate.settings import GenerateSettings
from surgeon_generate.tasks import tasks_of

SIZE = (3, 16, 16)
NORMALISED = Preprocessing(SIZE, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def subject(vit):
    with (
        assert_restores(vit),
        surgeon.operate(vit, Recipe(), preprocessing=NORMALISED) as found,
    ):
        yield found


def generate(subject, **settings):
    return surgeon.run_probe("generate", subject, **settings)


def test_the_post_is_a_bare_loop(subject):
    """10 (200 - logit), 220 steps at the model's size, 500 in crops of 600 / 224 of it, no mean."""
    result = generate(subject, preset="post", classes=[3], steps=36, views=0)
    x = torch.randn(1, *SIZE, generator=stream("generate/start/class 3", 0)) / 20 + 0.7
    generator = stream("generate/views/0", 0)
    for i in range(11):
        x = x.detach().requires_grad_(True)
        (10 * (200 - subject.model(x)[0, 3])).backward()
        x = x.detach() - (2.5 * (11 - i) / 11 + 1.5 * i / 11) * x.grad
        x = gaussian_blur(x, [17, 17], [2.4 * (11 - i) / 11 + 0.8 * i / 11] * 2)
    x = resized(x, (43, 43))
    for i in range(25):
        top, left = (int(torch.randint(28, (), generator=generator)) for _ in range(2))
        crop = x[:, :, top : top + 16, left : left + 16].clone().requires_grad_(True)
        (10 * (200 - subject.model(crop)[0, 3])).backward()
        moved = crop.detach() - (1.5 * (25 - i) / 25 + 0.3 * i / 25) * crop.grad
        sigma = 1.5 * (25 - i) / 25 + 0.4 * i / 25
        x[:, :, top : top + 16, left : left + 16] = gaussian_blur(moved, [17, 17], [sigma] * 2)
    torch.testing.assert_close(result.images["class 3"], x, rtol=1e-4, atol=1e-4)


def test_the_posts_feature_map_is_a_bare_loop(subject):
    """20 sum(200 - z) over tokens, three sizes, crops on the larger two."""
    result = generate(subject, preset="post", sites="blocks[0]", channels=[5], steps=12, views=0)
    label = "blocks[0], channel 5"
    x = torch.rand(1, *SIZE, generator=stream(f"generate/start/{label}", 0)) / 10 + 0.5
    generator = stream("generate/views/0", 0)
    taken = []
    hook = subject.model.blocks[0].register_forward_hook(lambda m, i, out: taken.append(out))
    octaves = [(16, (0.5, 0.4), (2.4, 0.8)), (40, (0.4, 0.3), (1.5, 0.4)),
               (43, (0.3, 0.2), (1.1, 0.3))]  # fmt: skip
    for side, rate, sigma in octaves:
        x = resized(x, (side, side)) if x.shape[2] != side else x
        for i in range(4):
            top, left = 0, 0
            if side > 16:
                top, left = (int(torch.randint(side - 15, (), generator=generator)) for _ in "ab")
            crop = x[:, :, top : top + 16, left : left + 16].detach().clone().requires_grad_(True)
            subject.model(crop)
            (20 * (200 - taken.pop()[0, :, 5]).sum()).backward()
            moved = crop.detach() - (rate[0] * (4 - i) / 4 + rate[1] * i / 4) * crop.grad
            width = sigma[0] * (4 - i) / 4 + sigma[1] * i / 4
            x = x.clone()
            x[:, :, top : top + 16, left : left + 16] = gaussian_blur(moved, [17, 17], [width] * 2)
    hook.remove()
    torch.testing.assert_close(result.images[label], x, rtol=1e-4, atol=1e-4)


def test_the_post_has_720_steps():
    from surgeon_generate.schedules import schedule_of

    settings = GenerateSettings(preset="post", classes=[0])
    schedule = schedule_of(settings, Preprocessing((3, 224, 224)))
    assert [stage.steps for stage in schedule.stages] == [220, 500]
    assert [stage.canvas for stage in schedule.stages] == [(224, 224), (600, 600)]


@pytest.mark.parametrize(
    ("model", "plus", "wanted"),
    [
        ("timm/resnet10t", None,
         "log_softmax(3) + 0.2 * logit(3) + 40 * batch_statistics() + 20 * total_variation()"),
        ("timm/resnet10t", "", "logit(3)"),
        ("timm/resnet10t", "total_variation()", "logit(3) + total_variation()"),
        ("timm/test_vit", None, "logit(3)"),
        ("surgeon/resnet_fashion", None, "logit(3)"),
    ],
)  # fmt: skip
def test_where_norms_remember_photos_a_class_is_held_to_them(model, plus, wanted):
    """Unless `plus` says otherwise, "" being nothing; and not at 28 pixels."""
    recipe = Recipe(model)
    with surgeon.operate(recipe.load(), recipe) as subject, torch.no_grad():
        (task,) = tasks_of(subject, GenerateSettings(classes=[3], plus=plus), (), 10)
        x = torch.rand(2, *subject.preprocessing.input_size)
        found = [values_of([o], see(subject, x, [o]))
                 for o in (task.objective, parse_objective(wanted))]  # fmt: skip
    torch.testing.assert_close(*found)


def test_without_views_the_default_is_adam_on_a_spectrum(subject):
    result = generate(subject, classes=[1], steps=12, rate=0.1, rate_end=0.1, transformations=[],
                      views=0)  # fmt: skip
    made_of = Fourier(SIZE)
    start = made_of.start(stream("generate/start/class 1", 0))
    leaf = start["spectrum"].clone().requires_grad_(True)
    optimizer = torch.optim.Adam([leaf], lr=0.1)
    for _ in range(12):
        optimizer.zero_grad()
        (-subject(made_of.image({"spectrum": leaf}))[0, 1]).backward()
        optimizer.step()
    wanted = made_of.image({"spectrum": leaf.detach()})
    torch.testing.assert_close(result.images["class 1"], wanted, rtol=1e-4, atol=1e-5)


def test_coarse_steps_are_adam_on_what_half_the_size_shows(convolutions):
    """Then waves that it can't show are dropped, and Adam begins anew."""
    common = {"classes": [1], "transformations": [], "plus": "", "views": 0, "rate": 0.1}
    result = generate(convolutions, steps=5, coarse=3, rate_end=0.1, **common)
    made_of = Fourier((3, 128, 128))
    (label,) = result.images
    leaf = made_of.start(stream(f"generate/start/{label}", 0))["spectrum"].requires_grad_(True)
    for size, steps in ((64, 3), (128, 2)):
        optimizer = torch.optim.Adam([leaf], lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            seen = resized(made_of.image({"spectrum": leaf}), (size, size))
            (-convolutions(seen)[0, 1]).backward()
            optimizer.step()
        kept = torch.zeros(128, 65, 1)
        kept[:32, :32] = kept[-31:, :32] = 1
        leaf = (leaf.detach() * (kept if size == 64 else 1)).requires_grad_(True)
    wanted = made_of.image({"spectrum": leaf.detach()})
    torch.testing.assert_close(result.images[label], wanted, rtol=1e-3, atol=1e-4)
    with pytest.raises(ProbeError, match="5 steps in all"):
        generate(convolutions, steps=5, coarse=5, **common)


def test_natural_images_are_seen_at_half_the_size_first(convolutions):
    """Where the model takes it, and nothing says otherwise."""
    cases = (
        ({}, 288), ({"steps": 128}, 96), ({"steps": 127}, 0), ({"plus": ""}, 0), ({"coarse": 0}, 0),
        ({"transformations": []}, 0), ({"parameterisation": "maco"}, 0),
    )  # fmt: skip
    for settings, wanted in cases:
        asked = GenerateSettings(classes=[1], **settings)
        first = Generate()._schedule(convolutions, asked).stages[0]
        assert (first.steps if first.seen else 0) == wanted
        assert not first.seen or first.seen == ((64, 64), (46, 46), (82, 82))
    sites = GenerateSettings(sites="stages[0]")
    assert Generate()._schedule(convolutions, sites).stages[0].seen == ()
    recipe = Recipe("timm/test_vit", seed=0)
    with surgeon.operate(recipe.load(), recipe) as subject:
        assert len(Generate()._schedule(subject, GenerateSettings(classes=[1])).stages) == 1


@pytest.mark.parametrize("made_of", ["pixel", "fourier", "maco"])
def test_every_parameterisation_raises_what_it_is_told_to(subject, made_of):
    result = generate(subject, classes=[2], objectives=["logit(4) - 0.5 * logit(5)"],
                      parameterisation=made_of, steps=40, views=4)  # fmt: skip
    grey = subject(torch.full((1, *SIZE), 0.5))[0]
    assert result.figures["class 2"]["logit"] > float(grey[2])
    found = result.figures["logit(4) - 0.5 * logit(5)"]
    assert found["objective"] > float(grey[4] - 0.5 * grey[5])
    image = result.images["logit(4) - 0.5 * logit(5)"]
    out = subject(image)[0]
    assert found["objective"] == pytest.approx(float(out[4] - 0.5 * out[5]), rel=1e-4)
    assert found["right"] is None


def test_scores_by_hand(subject):
    result = generate(subject, classes=[7], steps=5, views=3)
    figures, image = result.figures["class 7"], result.images["class 7"]
    out = subject(image)[0]
    assert figures["logit"] == pytest.approx(float(out[7]), rel=1e-5)
    assert figures["softmax"] == pytest.approx(float(out.softmax(0)[7]), rel=1e-5)
    assert figures["right"] == (int(out.argmax()) == 7)
    down = (image[:, :, 1:] - image[:, :, :-1]).abs().mean()
    across = (image[..., 1:] - image[..., :-1]).abs().mean()
    assert figures["total_variation"] == pytest.approx(float(down + across) / 2, rel=1e-5)
    assert figures["robust"] in (0, 1 / 3, 2 / 3, 1)


def test_sites_channels_and_tokens_under_surgery(vit):
    recipe = Recipe() | Bypass("blocks[*].attention") | Truncate("blocks[1]")
    with surgeon.operate(vit, recipe, input_size=SIZE) as subject:
        result = generate(subject, sites="blocks[0]", channels=[1, 3], tokens=[2], steps=6)
        assert list(result.figures) == [
            "blocks[0], channel 1", "blocks[0], channel 3", "blocks[0], token 2",
        ]  # fmt: skip
        value = subject.capture(result.images["blocks[0], channel 3"], "blocks[0]")["blocks[0]"]
        wanted = float(value[0, :, 3].mean())
        found = result.figures["blocks[0], channel 3"]["objective"]
        assert found == pytest.approx(wanted, rel=1e-4)
        with pytest.raises(ProbeError, match="no .batch, classes."):
            generate(subject, classes=[1])
        with pytest.raises(ProbeError, match="there are 8"):
            generate(subject, sites="blocks[0]", channels=[8])


def test_images_do_not_hang_on_the_batch(subject):
    """Without random views, each image is as if it were alone."""
    common = {"steps": 4, "transformations": [], "views": 0}
    together = generate(subject, classes=[0, 1, 2], batch=2, **common)
    for index in range(3):
        alone = generate(subject, classes=[index], **common)
        torch.testing.assert_close(
            together.images[f"class {index}"], alone.images[f"class {index}"], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("preset", ["default", "post"])
def test_any_state_is_enough_to_go_on_from(subject, preset):
    settings = GenerateSettings(preset=preset, classes=[0, 1, 2], steps=6, batch=2, seeds=[0, 1],
                                snapshots=[3], animation="gif", frames=3)  # fmt: skip
    inputs, results = Inputs((), Recipe()), []
    for fresh in (False, True):
        results.append(run_to_end(Generate, subject, inputs, settings, fresh=fresh))
    assert results[0].figures == results[1].figures
    assert all(torch.equal(results[0].images[k], v) for k, v in results[1].images.items())
    assert len(results[0].images) == 6
    assert "snapshot/class 0, seed 1/3" in results[0].tensors
    animation = Image.open(io.BytesIO(results[0].files["generate.gif"]))
    assert animation.n_frames >= 3


def test_a_judge_says_what_it_sees():
    recipe = Recipe("surgeon/vit_fashion", weights="fashion")
    with surgeon.operate(recipe.load(), recipe) as subject:
        result = generate(subject, classes=["trouser", 8], steps=40, views=2,
                          judge="surgeon/resnet_fashion@fashion")  # fmt: skip
        assert list(result.figures) == ["Trouser", "Bag"]
        for name, figures in result.figures.items():
            assert figures["right"] is True
            assert figures["judge_right"] == (figures["judge_top1"] == name)
        assert result.figure() is not None
        with pytest.raises(ProbeError, match="Trouser"):
            generate(subject, classes=["trousers"])
        with pytest.raises(surgeon.SurgeonError, match="no such architecture"):
            generate(subject, classes=[0], judge="surgeon/vit_fashon@fashion")


@pytest.mark.slow
def test_the_ten_classes_seen_by_a_second_model():
    recipe = Recipe("surgeon/vit_fashion", weights="fashion")
    with surgeon.operate(recipe.load(), recipe) as subject:
        figures = generate(
            subject, classes=list(range(10)), judge="surgeon/resnet_fashion@fashion"
        ).figures.values()
    assert all(f["right"] for f in figures)
    assert sum(f["judge_right"] for f in figures) >= 6
    assert sum(f["robust"] for f in figures) >= 9


def test_settings_that_contradict():
    for settings, hint in (({}, "name classes"), ({"channels": [1], "classes": [0]}, "sites"),
                           ({"preset": "post", "classes": [0], "rate": 1.0}, "rate"),
                           ({"classes": [0], "coarse": 4, "canvas": 32}, "own canvas"),
                           ({"classes": [0], "coarse": 4}, "no 8 x 8")):  # fmt: skip
        with (
            surgeon.operate(tiny_vit(), Recipe(), input_size=SIZE) as subject,
            pytest.raises(ProbeError, match=hint),
        ):
            generate(subject, **settings)
