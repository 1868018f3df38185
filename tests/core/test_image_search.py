"""The search in the image: its coordinates, when it aims anew, and what it must never lose."""

from __future__ import annotations

import pytest
import torch

import surgeon
from surgeon import Bypass, Recipe
from surgeon.imaging.photos import load_photos
from surgeon.inversion import searching
from surgeon.inversion.chain import Counted
from surgeon.inversion.coordinates import Coordinates, Spectrum, Whitening
from surgeon.inversion.exact import ExactInversion
from surgeon.inversion.image_search import lbfgs
from surgeon.inversion.ledger import Ledger
from surgeon.inversion.matching import start_image
from surgeon.inversion.searching import ImageSearch
from surgeon.testing import tiny_vit
from surgeon_models import fashion_mnist

SIZE = (3, 16, 16)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(depth=2):
    return tiny_vit(width=48, depth=depth, patch=8)


@pytest.mark.parametrize("size", [(16, 16), (15, 21), (7, 28)])
def test_a_spectrum_and_back_is_the_same_image(size):
    spectrum, a, b = Spectrum(*size), noise(2, 3, *size), noise(2, 3, *size, seed=1)
    torch.testing.assert_close(spectrum.back(spectrum.there(a)), a)
    torch.testing.assert_close((spectrum.back(a) * b).sum(), (a * spectrum.back(b)).sum())
    torch.testing.assert_close(Spectrum(*size, decay=0.0).back(a), a)


def test_a_spectrum_scales_each_frequency_by_its_power():
    """Cosines are what it scales; four times the frequency is 4^-decay of the amplitude."""
    x = 2 * torch.pi * torch.arange(32, dtype=torch.float64) / 32
    spectrum = Spectrum(32, 32, decay=0.7)
    slow, fast = (torch.cos(k * x).expand(1, 1, 32, 32) for k in (2, 8))
    gains = [(spectrum.back(w) / w)[0, 0, 0, 0] for w in (slow, fast)]
    torch.testing.assert_close(spectrum.back(slow), gains[0] * slow)
    torch.testing.assert_close(gains[1] / gains[0], torch.tensor(4.0).double() ** -0.7)


def test_gradients_are_pulled_back_by_the_transpose():
    image = noise(1, *SIZE)
    with surgeon.operate(small(), Recipe(), input_size=SIZE) as subject:
        coordinates = Coordinates.of(subject)
        assert isinstance(coordinates.whitening, Whitening)
        torch.testing.assert_close(coordinates.back(coordinates.there(image)), image)
        z = coordinates.there(image).requires_grad_(True)
        (coordinates.back(z).sin()).sum().backward()
        torch.testing.assert_close(z.grad, coordinates.pulled(image.cos()))


@pytest.mark.slow
def test_a_search_in_the_spectrum_of_a_photo_halves_the_error_for_the_same_cost():
    """An untrained ResNet-50, whose links can't be undone, at 224 px; 60 evaluations each."""
    recipe = Recipe("torchvision/resnet50", seed=0)
    with surgeon.operate(recipe.load(), recipe) as subject:
        photo = load_photos("surgeon:coffee", subject.preprocessing)[0].pixels.reshape(
            1, 3, 224, 224
        )
        segment = subject.segment(None, subject.sites("path:layer1")[0])
        errors = {}
        for coordinates in (None, Coordinates.of(subject)):
            counted = Counted(segment, Ledger(segment.flops), torch.float32)
            image, memory, error = start_image(photo.shape, 0), None, 1.0
            with counted.ready():
                aim = counted(photo)
                while counted.ledger.spent < 58:
                    left = 60 - counted.ledger.spent
                    image, _, error, memory = lbfgs(counted, image, aim, memory, left, coordinates)
            errors[coordinates is None] = error
        assert errors[False] < 0.5 * errors[True]


def begun(subject, site="blocks[1]", budget=60.0):
    image = noise(1, *SIZE, seed=3)
    start = start_image(image.shape, 0).double()
    inversion = ExactInversion(subject, subject.sites(site)[0], start, budget=budget)
    return inversion, inversion.begin(inversion.output(image)), image


def test_an_image_that_was_found_is_not_lost_with_the_last_of_the_budget():
    """The links are gone down again from a search's image, and nothing is left for them."""
    with surgeon.operate(small(), Recipe(), input_size=SIZE) as subject:
        inversion, walk, image = begun(subject)
        inversion.keep(walk, inversion.start)
        near = image + 1e-4 * noise(1, *SIZE, seed=4)
        walk.best, walk.spent = near, inversion.budget
        inversion.step(walk)
        assert walk.stopped == "budget spent"
        assert walk.image is near


def test_an_aim_that_comes_no_nearer_is_given_up_for_the_site_itself():
    with surgeon.operate(small(), Recipe(), input_size=SIZE) as subject:
        inversion, walk, image = begun(subject)
        walk.stage, walk.aim_index = "image", 1
        walk.aim = 3 * inversion.links[1].segment.target.shape[1] * torch.ones(1, 5, 48).double()
        walk.residual = 0.5
        for stale, settled in ((1, False), (2, True)):
            walk.stale, walk.best = stale, image
            search = ImageSearch(inversion, walk)
            search._go_on("")
            assert (walk.aim_index == len(inversion.links) - 1) == settled
        assert walk.aim is walk.given
        assert (walk.stale, walk.restarts) == (0, 0)


def test_the_aim_stays_at_a_link_whose_tokens_may_have_several_pre_images():
    """What lies below is right only if each token was put to its own."""
    with surgeon.operate(small(), Recipe(), input_size=SIZE) as subject:
        for hard, moved in (([], True), ([2], False)):
            inversion, walk, _ = begun(subject)
            walk.index, walk.hard = walk.index - 1, hard
            inversion.step(walk)
            assert (walk.aim_index < len(inversion.links) - 1) == moved


def test_known_tokens_that_mix_with_no_others_leave_the_aim_free_to_go_down():
    """Without attention a class token says nothing of the image; with it, much."""
    for recipe, lowest in ((Recipe(), 2), (Recipe() | Bypass("blocks[*].attention"), 0)):
        with surgeon.operate(small(), recipe, input_size=SIZE) as subject:
            inversion, _, _ = begun(subject)
            whole = [inversion._whole(i) for i in range(len(inversion.links))]
            assert whole.index(True) == lowest
            assert all(whole[lowest:])


def test_single_precision_is_searched_to_its_floor(monkeypatch):
    """On a device without float64 that is the end, and it says converged."""
    monkeypatch.setattr(searching, "precisions", lambda device: (torch.float32,))
    with surgeon.operate(small(), Recipe(), input_size=SIZE) as subject:
        inversion, walk, image = begun(subject)
        search = ImageSearch(inversion, walk)
        assert search._verdict(image, 5e-6) == "converged"
        walk.residual = walk.latest = 1.0
        assert search._verdict(image, 5e-5) == ""


@pytest.mark.parametrize("spent", [0.0, 190.0])
def test_patches_are_put_anew_only_while_that_can_be_paid_for(spent):
    with surgeon.operate(small(1), Recipe(), input_size=SIZE) as subject:
        inversion, walk, image = begun(subject, "blocks[0]", budget=193.0)
        inversion.ledger.spent, walk.latest, walk.residual = spent, 0.5, 0.5
        walk.image = image + 0.1
        walk.image[..., :8, :8] += 3  # one patch fits worst
        search = ImageSearch(inversion, walk)
        with search.counted.ready():
            search._verdict(walk.image.to(search.aim.dtype), 0.49)
        assert (walk.restarts == 1) == (spent == 0)
        assert inversion.ledger.spent <= inversion.budget


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "site", "number"),
    [("vit_fashion", "blocks[0]", 42), ("mixer_fashion", "blocks[0]", 23),
     ("mixer_fashion", "blocks[1]", 0)],
)  # fmt: skip
def test_trained_models_give_back_images_that_once_were_lost(model, site, number):
    """At 200 evaluations: nothing crashes, the budget is kept, and the image is there."""
    recipe = Recipe(f"surgeon/{model}", weights="fashion")
    with surgeon.operate(recipe.load(), recipe) as subject:
        image, _ = fashion_mnist.load().batch(number, number + 1, subject.preprocessing)
        result = surgeon.run_probe("invert", subject, image=image, sites=site, method="exact")
    (figures,) = result.figures.values()
    assert figures["psnr"] > 60
    assert figures["gradient_evaluations"] <= 200.5
