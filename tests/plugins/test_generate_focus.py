"""generate's coarse steps: a sharp middle that grows, waves that fade, statistics that count."""

from __future__ import annotations

import pytest
import torch
from state_machines import run_to_end
from torchvision.transforms.v2.functional import gaussian_blur

import surgeon
from surgeon import Recipe
from surgeon.errors import ProbeError
from surgeon.imaging import batch_statistics
from surgeon.imaging.objectives import see
from surgeon.imaging.parameterisations import Fourier
from surgeon.imaging.transformations import resized
from surgeon.labels import labels_of
from surgeon.probe import Inputs
from surgeon.randomness import stream
from surgeon_generate.focus import focused, held, radius_of
from surgeon_generate.probe import Generate
from surgeon_generate.settings import GenerateSettings
from surgeon_generate.tasks import tasks_of

COMMON = {"transformations": [], "plus": "", "views": 0, "log_every": 1, "rate": 0.1}


def test_only_the_middle_is_sharp():
    noise = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    seen = focused(noise, 0.5)
    torch.testing.assert_close(seen[..., 40:56, 40:56], noise[..., 40:56, 40:56], rtol=0, atol=0.02)
    assert float(seen[..., :14, :14].std()) < 0.2 * float(noise[..., :14, :14].std())
    torch.testing.assert_close(seen, _blurred_outside(noise, 0.5))
    grey = torch.full((1, 3, 96, 96), 0.3)
    torch.testing.assert_close(focused(grey, 0.5), grey)  # nothing darkens towards the edge


def test_the_sharp_middle_grows_until_all_is_sharp():
    radii = [radius_of(share / 10, 0.6) for share in range(11)]
    assert radii == sorted(radii)
    assert radii[0] == 0.5
    assert set(radii[6:]) == {1.6}
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert focused(noise, radii[6]) is noise
    assert radius_of(0.0, 0.0) == 1.6
    # Held to photos by the area that is sharp, twice as closely in the end.
    assert held(0.55) == pytest.approx(2 * 0.25)
    assert held(1.1) == held(1.6) == 2.0


def test_coarse_steps_see_the_middle_and_fade(convolutions):
    """Against a bare loop: the view is `focused`, and each step shrinks every wave."""
    result = surgeon.run_probe(
        "generate", convolutions, classes=[1], steps=5, coarse=4, rate_end=0.1, focus=0.5,
        fade=0.4, **COMMON,
    )  # fmt: skip
    made_of, (label,) = Fourier((3, 128, 128)), result.images
    leaf = made_of.start(stream(f"generate/start/{label}", 0))["spectrum"].requires_grad_(True)
    for size, steps in ((64, 4), (128, 1)):
        optimizer = torch.optim.Adam([leaf], lr=0.1)
        for step in range(steps):
            optimizer.zero_grad()
            image = made_of.image({"spectrum": leaf})
            if size == 64 and step < 2:
                # Not written out here: where no view looks, Adam makes steps of rounding errors.
                image = focused(image, 0.5 + 1.1 * step / 2)
            (-convolutions(resized(image, (size, size)))[0, 1]).backward()
            optimizer.step()
            if size == 64:
                leaf.data *= 1 - 0.1 * 0.4
        kept = torch.zeros(128, 65, 1)
        kept[:32, :32] = kept[-31:, :32] = 1
        leaf = (leaf.detach() * (kept if size == 64 else 1)).requires_grad_(True)
    wanted = made_of.image({"spectrum": leaf.detach()})
    torch.testing.assert_close(result.images[label], wanted, rtol=1e-3, atol=1e-4)


def _blurred_outside(image, radius):
    place = torch.linspace(-1, 1, image.shape[2])
    mask = torch.sigmoid((radius - (place[:, None] ** 2 + place**2).sqrt()) / 0.08)
    small = torch.nn.functional.adaptive_avg_pool2d(image, 22)
    small = gaussian_blur(small, [5, 5], [1.0, 1.0])
    soft = torch.nn.functional.interpolate(small, image.shape[2:], mode="bilinear")
    return mask * image + (1 - mask) * soft


def test_statistics_count_by_what_is_sharp(convolutions):
    text = "batch_statistics()"
    result = surgeon.run_probe(
        "generate", convolutions, objectives=[text], steps=3, coarse=2, focus=1.0, **COMMON
    )
    made_of = Fourier((3, 128, 128))
    image = made_of.image(made_of.start(stream(f"generate/start/{text}", 0)))
    with batch_statistics.recorded(convolutions.model) as parts, torch.no_grad():
        convolutions(resized(focused(image, 0.5), (64, 64)))
    wanted = -held(0.5) * float(batch_statistics.distance(parts))
    assert result.log[0]["objective"][text] == pytest.approx(wanted, rel=1e-3)


def test_natural_images_are_seen_at_three_sizes_in_turn(convolutions):
    """Each line of the log is the objective of the image before it, at the next size."""
    settings = {"classes": [1], "steps": 5, "coarse": 4, "focus": 0.0, "fade": 0.0, "views": 0}
    result = surgeon.run_probe(
        "generate", convolutions, transformations=[], snapshots=[1, 2, 3], log_every=1, **settings
    )
    (label,) = result.images
    labels = labels_of(convolutions.plan.recipe.model, convolutions.model)
    (task,) = tasks_of(convolutions, GenerateSettings(**settings), labels, 1000)
    for line, size in zip(result.log[1:], (46, 82, 64), strict=False):
        image = result.tensors[f"snapshot/{label}/{line['step'] - 1}"]
        with torch.no_grad():
            value = task.objective(
                see(convolutions, resized(image, (size, size)), [task.objective])
            )
        assert line["objective"][label] == pytest.approx(float(value), rel=1e-4)


def test_a_run_goes_on_from_any_coarse_step(convolutions):
    settings = GenerateSettings(classes=[1, 2], steps=5, coarse=4, batch=2, views=0, snapshots=[2])
    inputs = Inputs((), Recipe())
    one, other = (
        run_to_end(Generate, convolutions, inputs, settings, fresh=fresh) for fresh in (False, True)
    )
    assert all(torch.equal(one.images[label], image) for label, image in other.images.items())
    assert all(torch.equal(one.tensors[key], kept) for key, kept in other.tensors.items())


def test_natural_images_have_both_in_their_coarse_steps_alone(convolutions):
    coarse, fine = Generate()._schedule(convolutions, GenerateSettings(classes=[1])).stages
    assert (coarse.focus, coarse.fade, fine.focus, fine.fade) == (0.6, 0.27, 0.0, 0.0)
    (only,) = Generate()._schedule(convolutions, GenerateSettings(classes=[1], steps=64)).stages
    assert (only.focus, only.fade) == (0.0, 0.0)
    free = GenerateSettings(classes=[1], plus="", coarse=10)
    assert Generate()._schedule(convolutions, free).stages[0].fade == 0.0
    pixels = GenerateSettings(classes=[1], parameterisation="pixel")
    assert Generate()._schedule(convolutions, pixels).stages[0].fade == 0.0


def test_what_has_no_coarse_steps_has_neither(convolutions):
    cases = (
        ({"steps": 64, "focus": 0.5}, "coarse steps"), ({"coarse": 0, "fade": 0.1}, "coarse steps"),
        ({"parameterisation": "pixel", "fade": 0.1}, "fade is of waves"),
        ({"preset": "post", "focus": 0.1}, "sets focus"),
    )  # fmt: skip
    for settings, hint in cases:
        with pytest.raises(ProbeError, match=hint):
            surgeon.run_probe("generate", convolutions, classes=[1], **settings)
