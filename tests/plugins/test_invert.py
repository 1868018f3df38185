"""invert: its methods against bare loops, its figures, its state."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load, save
from torchvision.transforms.v2.functional import gaussian_blur

import surgeon
from surgeon import Bypass, DropResidual, Preprocessing, Recipe, Truncate
from surgeon.errors import ProbeError
from surgeon.inversion.matching import start_image, yardstick_image
from surgeon.inversion.row_space import row_space
from surgeon.probe import Inputs
from surgeon.testing import assert_restores, tiny_vit
from surgeon_invert.methods import schedule_of
from surgeon_invert.probe import Invert
from surgeon_invert.settings import InvertSettings
from surgeon_invert.snapshots import marks

SIZE = (3, 16, 16)


@pytest.fixture
def subject(vit):
    with (
        assert_restores(vit),
        surgeon.operate(vit, Recipe() | Truncate("blocks[1]"), input_size=SIZE) as found,
    ):
        yield found


def invert(subject, images, **settings):
    return surgeon.run_probe("invert", subject, image=images[:1], **settings)


def test_the_posts_descent_is_a_bare_loop(subject, images):
    """L1 with the author's constants, sum over everything, rate 0.1, no blur, no clamp."""
    result = invert(subject, images, preset="post", steps=20)
    wanted = subject.model(images[:1]).detach()
    x = start_image((1, *SIZE), 0).requires_grad_(True)
    for _ in range(20):
        (gradient,) = torch.autograd.grad(0.06 * (subject.model(x) - wanted).abs().sum(), x)
        x = x.detach().add(gradient, alpha=-0.1).requires_grad_(True)
    assert torch.equal(result.images["blocks[1]"], x.detach())


def test_the_posts_blur_for_feature_maps(images):
    """c 0.15, rate 0.1, 3 x 3 blur whose sigma falls linearly from 2.4 to 0.4."""
    import timm

    model = timm.create_model("test_resnet").eval()
    recipe = Recipe() | Truncate("blocks[0]")
    with surgeon.operate(model, recipe, input_size=SIZE) as subject:
        schedule = schedule_of(InvertSettings(preset="post"), subject.anatomy)
        assert (schedule.steps, schedule.loss_scale, schedule.blur) == (500, 0.15, (2.4, 0.4))
        result = invert(subject, images, preset="post", steps=10)
        wanted = subject.raw(images[:1]).detach()
        x = start_image((1, *SIZE), 0).requires_grad_(True)
        for i in range(10):
            (gradient,) = torch.autograd.grad(0.15 * (subject.raw(x) - wanted).abs().sum(), x)
            sigma = 2.4 * (1 - i / 10) + 0.4 * i / 10
            x = gaussian_blur(x.detach() - 0.1 * gradient, [3, 3], [sigma, sigma])
            x.requires_grad_(True)
    torch.testing.assert_close(result.images["blocks[0]"], x.detach(), rtol=1e-5, atol=1e-6)


def test_adam_is_a_bare_loop(subject, images):
    result = invert(subject, images, method="adam", steps=15, rate=0.05)
    wanted = subject.model(images[:1]).detach()
    x = start_image((1, *SIZE), 0).requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(15):
        optimizer.zero_grad()
        difference = subject.model(x) - wanted
        (1.0 * (difference * difference).sum() / (wanted * wanted).sum()).backward()
        optimizer.step()
    assert torch.equal(result.images["blocks[1]"], x.detach())


def test_lbfgs_spends_no_more_than_told_and_gets_nearest(subject, images):
    errors = {}
    for method in ("lbfgs", "adam", "descent"):
        figures = invert(subject, images, method=method, steps=120).figures["blocks[1]"]
        assert figures["gradient_evaluations"] <= 120
        errors[method] = figures["embedding_relative"]
    assert errors["lbfgs"] < errors["adam"] < errors["descent"]


def test_tolerance_stops_early(subject, images):
    figures = invert(subject, images, method="lbfgs", steps=500, tolerance=0.05).figures[
        "blocks[1]"
    ]
    assert figures["stopped"] == "tolerance reached"
    assert figures["embedding_relative"] <= 0.05
    assert figures["gradient_evaluations"] < 500


def test_figures_by_hand(subject, images):
    result = invert(subject, images, steps=30)
    image, target = result.images["blocks[1]"], images[:1]
    figures = result.figures["blocks[1]"]
    out, wanted = subject.raw(image), subject.raw(target)
    distance = float((out - wanted).norm())
    reference = subject.raw(yardstick_image(target, 0))
    assert figures["embedding_distance"] == pytest.approx(distance, rel=1e-5)
    assert figures["embedding_relative"] == pytest.approx(distance / float(wanted.norm()), rel=1e-5)
    assert figures["yardstick_ratio"] == pytest.approx(
        distance / float((reference - wanted).norm()), rel=1e-5
    )
    assert figures["input_distance"] == pytest.approx(float((image - target).norm()), rel=1e-5)
    assert figures["psnr"] == pytest.approx(
        -10 * math.log10(float(((image - target) ** 2).mean())), rel=1e-4
    )
    model = subject.model
    tokens = [
        torch.cat([model.cls_token, model.patch_embed(x).flatten(2).mT], 1) + model.pos_embed
        for x in (target, image)
    ]
    assert figures["token_error"] == pytest.approx(
        float((tokens[0] - tokens[1]).norm() / tokens[0].norm()), rel=1e-4
    )


def test_row_space_error_is_of_what_the_stem_passes(subject, images):
    space = row_space(subject)
    target, start = images[:1], start_image((1, *SIZE), 0)
    assert space.rank == 8  # 8 outputs for 192 pixels a patch
    weight = subject.model.patch_embed.weight.flatten(1).double()
    blind = torch.linalg.svd(weight)[2][8:]  # the null space
    patch = (blind.T @ torch.randn(184, dtype=torch.float64)).reshape(3, 8, 8)
    moved = target.double()
    moved[0, :, :8, :8] += patch
    torch.testing.assert_close(
        subject.model.patch_embed(moved.float()), subject.model.patch_embed(target),
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip
    assert space.error(target.double(), moved, start.double()) < 1e-10
    assert space.error(target, start, start) == pytest.approx(1)
    projected = space.project(space.project(target))
    torch.testing.assert_close(projected, space.project(target))


def test_row_space_counts_the_models_own_normalisation(vit):
    pre = Preprocessing(SIZE, mean=(0.5,) * 3, std=(0.1, 0.2, 0.7))
    with surgeon.operate(vit, Recipe(), preprocessing=pre, input_size=SIZE) as subject:
        space = row_space(subject)
        difference = torch.randn(1, *SIZE, dtype=torch.float64)
        unseen = difference - space.project(difference)
        std = torch.tensor(pre.std)[:, None, None]
        seen = torch.nn.functional.conv2d(unseen.float() / std, vit.patch_embed.weight, stride=8)
        assert seen.abs().max() < 1e-4


def test_a_stem_of_overlapping_windows_has_no_row_space():
    import timm

    model = timm.create_model("test_resnet").eval()
    with surgeon.operate(model, Recipe(), input_size=(3, 32, 32)) as subject:
        assert row_space(subject) is None


def test_sites_images_and_seeds_share_one_operated_model(vit, images):
    recipe = Recipe() | DropResidual("blocks[1]")
    with surgeon.operate(vit, recipe, input_size=SIZE) as subject:
        result = surgeon.run_probe(
            "invert", subject, image=images[:2], sites=["stem", "blocks[0]"], seeds=[0, 1], steps=5
        )
        assert list(result.figures) == [
            f"{site}, image{i}, seed {seed}"
            for site in ("stem", "blocks[0]") for i in (0, 1) for seed in (0, 1)
        ]  # fmt: skip
        alone = surgeon.run_probe("invert", subject, image=images[1], sites="stem", seeds=[1],
                                  steps=5)  # fmt: skip
    assert torch.equal(result.images["stem, image1, seed 1"], alone.images["stem"])


def test_joint_targets_are_matched_together(vit, images):
    with surgeon.operate(vit, Recipe(), input_size=SIZE) as subject:
        result = invert(subject, images, sites=["stem", "blocks[1]"], target="joint", steps=20)
        assert list(result.figures) == ["stem + blocks[1]"]
        image = result.images["stem + blocks[1]"]
        values = subject.capture(image, ["stem", "blocks[1]"])
        wanted = subject.capture(images[:1], ["stem", "blocks[1]"])
        distance = sum(float((values[s] - wanted[s]).norm()) ** 2 for s in ("stem", "blocks[1]"))
        assert result.figures["stem + blocks[1]"]["embedding_distance"] == pytest.approx(
            distance**0.5, rel=1e-4
        )


def test_the_preset_feeds_raw_pixels(vit, images):
    pre = Preprocessing(SIZE, mean=(0.5,) * 3, std=(0.2,) * 3)
    with surgeon.operate(vit, Recipe(), preprocessing=pre, input_size=SIZE) as subject:
        post = invert(subject, images, preset="post", steps=3)
    with surgeon.operate(vit, Recipe(), input_size=SIZE) as subject:
        raw = invert(subject, images, preset="post", steps=3)
    assert torch.equal(next(iter(post.images.values())), next(iter(raw.images.values())))


@pytest.mark.parametrize("method", ["lbfgs", "adam", "descent", "exact"])
def test_any_state_goes_on_to_the_same_bytes(vit, images, method):
    """After every step the state goes through a file and another probe goes on from it."""
    settings = InvertSettings(method=method, steps=25, sites=["stem", "blocks[0]"], snapshots=4)
    recipe = Recipe()
    with surgeon.operate(vit, recipe, input_size=SIZE) as subject:
        from surgeon.imaging.photos import photo_of

        inputs = Inputs((photo_of(images[0]),), recipe)
        whole = _run(Invert(), subject, inputs, settings, through_file=False)
        parts = _run(Invert(), subject, inputs, settings, through_file=True)
    assert whole.figures == parts.figures
    for name, image in whole.images.items():
        assert torch.equal(image, parts.images[name])
    assert whole.tensors.keys() == parts.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, parts.tensors[name])


def test_snapshots_are_the_images_of_shorter_runs(subject, images):
    """Each is the image that the log speaks of after so many evaluations, in 256 shades."""
    result = invert(subject, images, method="adam", steps=100, snapshots=[1, 7, 30], log_every=1)
    kept = {int(n.rpartition("/")[2]): t for n, t in result.tensors.items() if "snapshot" in n}
    assert sorted(kept) == [1, 7, 30]
    logged = {row["gradient_evaluations"]: row["input_distance"] for row in result.log}
    for step, tensor in kept.items():
        assert tensor.dtype == torch.uint8
        assert tensor.shape == (1, *SIZE)
        shorter = invert(subject, images, method="adam", steps=step, snapshots=[step])
        (name,) = (n for n in shorter.tensors if "snapshot" in n)
        assert torch.equal(shorter.tensors[name], tensor)
        clipped = (images[:1] - tensor / 255).norm()
        assert clipped <= logged[step] + 0.5 / 255 * math.prod(SIZE) ** 0.5
    assert not torch.equal(kept[1], kept[30])
    many = invert(subject, images, method="lbfgs", steps=60, snapshots=8)
    steps = [int(n.rpartition("/")[2]) for n in many.tensors if "snapshot" in n]
    assert sorted(steps) == marks(8, 60)
    assert not any("snapshot" in n for n in invert(subject, images, steps=5).tensors)


@pytest.mark.parametrize("method", ["lbfgs", "adam", "descent", "spectrum"])
@pytest.mark.parametrize("same_probe", [True, False])
def test_an_interrupted_step_leaves_the_state_it_was_given(
    vit, images, method, same_probe, monkeypatch
):
    """Ctrl-C in the middle of a step; gone on with from the state before it, without a file."""
    from surgeon.imaging.photos import photo_of
    from surgeon.inversion.matching import Matching

    in_spectrum = {"method": "lbfgs", "coordinates": "spectrum"}
    options = in_spectrum if method == "spectrum" else {"method": method}
    settings = InvertSettings(steps=60, **options)
    with surgeon.operate(vit, Recipe(), input_size=SIZE) as subject:
        inputs = Inputs((photo_of(images[0]),), Recipe())
        whole = _run(Invert(), subject, inputs, settings, through_file=False)
        loss, calls = Matching.loss, iter(range(1, 10_000))

        def interrupted(*arguments):
            found = loss(*arguments)
            if next(calls) in (7, 25):
                raise KeyboardInterrupt
            return found

        monkeypatch.setattr(Matching, "loss", interrupted)
        probe, interrupts = Invert(), 0
        state = probe.start(subject, inputs, settings)
        while True:
            try:
                step = probe.step(subject, inputs, settings, state)
            except KeyboardInterrupt:
                interrupts += 1
                probe = probe if same_probe else Invert()
                continue
            state = step.state
            if step.done:
                break
        again = probe.finish(subject, inputs, settings, state)
    assert interrupts == 2
    assert again.figures == whole.figures
    (label,) = whole.images
    assert torch.equal(again.images[label], whole.images[label])


@pytest.mark.parametrize("method", ["lbfgs", "adam", "descent"])
def test_a_line_of_the_log_is_of_one_image(subject, images, method):
    result = invert(subject, images, method=method, steps=12, log_every=1)
    start, target = start_image((1, *SIZE), 0), images[:1]
    first = result.log[0]
    if method != "lbfgs":  # whose first step makes several evaluations
        assert first["gradient_evaluations"] == 1
        assert first["input_distance"] == pytest.approx(float((start - target).norm()), rel=1e-5)
        distance = float((subject.raw(start) - subject.raw(target)).norm())
        assert first["embedding_distance"] == pytest.approx(distance, rel=1e-5)
    else:
        image, last = result.images["blocks[1]"], result.log[-1]
        assert last["input_distance"] == pytest.approx(float((image - target).norm()), rel=1e-5)
        distance = result.figures["blocks[1]"]["embedding_distance"]
        assert last["embedding_distance"] == pytest.approx(distance, rel=1e-5)


@pytest.mark.parametrize("method", ["lbfgs", "adam", "descent"])
def test_what_the_tolerance_accepted_is_returned(subject, images, method):
    start = invert(subject, images, method=method, steps=1).figures["blocks[1]"]
    tolerance = start["embedding_relative"] * 0.9
    result = invert(subject, images, method=method, steps=500, tolerance=tolerance, log_every=1)
    figures, last = result.figures["blocks[1]"], result.log[-1]
    assert figures["stopped"] == "tolerance reached"
    assert figures["embedding_relative"] <= tolerance
    assert figures["embedding_distance"] == pytest.approx(last["embedding_distance"], rel=1e-6)
    assert figures["psnr"] == pytest.approx(last["psnr"], rel=1e-6)


def test_every_evaluation_is_charged(vit, images):
    with surgeon.operate(vit, Recipe(), input_size=SIZE) as subject:
        for settings in ({"method": "lbfgs"}, {"preset": "post"}):
            before = subject.ledger.spent
            figures = invert(subject, images, sites=["stem", "head"], steps=9, **settings).figures
            flops = [subject.flops_to(subject.sites(site)[0]) for site in ("stem", "head")]
            spent = [figures[site]["gradient_evaluations"] for site in ("stem", "head")]
            assert all(isinstance(n, int) and 0 < n <= 9 for n in spent)
            shares = [n * f / subject.ledger.unit for n, f in zip(spent, flops, strict=True)]
            assert flops[0] < flops[1]
            assert subject.ledger.spent - before == pytest.approx(sum(shares))


def test_exact_work_is_charged_too(vit, images):
    with surgeon.operate(vit, Recipe(), input_size=SIZE) as subject:
        figures = invert(subject, images, sites="blocks[1]", method="exact").figures["blocks[1]"]
        share = subject.flops_to(subject.sites("blocks[1]")[0]) / subject.ledger.unit
        assert subject.ledger.spent == pytest.approx(figures["gradient_evaluations"] * share)


def test_a_method_alone_takes_nothing_of_the_posts(subject, images):
    own = schedule_of(InvertSettings(method="descent"), subject.anatomy)
    assert (own.loss, own.loss_scale, own.blur, own.steps) == ("l2", 1.0, None, 200)
    post = schedule_of(InvertSettings(preset="post"), subject.anatomy)
    assert (post.loss, post.loss_scale, post.rate, post.steps) == ("l1", 0.06, (0.1, 0.1), 1500)
    assert schedule_of(InvertSettings(preset="post", method="descent"), subject.anatomy) == post
    result = invert(subject, images, method="descent", steps=40, log_every=1)
    losses = [line["loss"] for line in result.log]
    assert losses == sorted(losses, reverse=True), "it descends at every step"
    for method in ("lbfgs", "adam"):
        with pytest.raises(ProbeError, match="leave method out"):
            invert(subject, images, preset="post", method=method)


def _run(probe, subject, inputs, settings, through_file):
    state = probe.start(subject, inputs, settings)
    while True:
        step = probe.step(subject, inputs, settings, state)
        state = step.state
        if through_file:
            probe, state = Invert(), _through_file(state)
        if step.done:
            return probe.finish(subject, inputs, settings, state)


def _through_file(state):
    tensors = {k: v.contiguous() for k, v in state.items() if isinstance(v, torch.Tensor)}
    scalars = {k: v for k, v in state.items() if not isinstance(v, torch.Tensor)}
    return {**load(save(tensors)), **json.loads(json.dumps(scalars))}


def test_seeds_set_everything(subject, images):
    first = invert(subject, images, steps=5, seeds=[3])
    torch.rand(7)
    again = invert(subject, images, steps=5, seeds=[3])
    other = invert(subject, images, steps=5, seeds=[4])
    assert torch.equal(first.images["blocks[1]"], again.images["blocks[1]"])
    assert first.figures == again.figures
    assert first.log == again.log
    assert not torch.equal(first.images["blocks[1]"], other.images["blocks[1]"])


def test_a_diverged_inversion_says_so(subject, images):
    figures = invert(subject, images, method="descent", rate=1e30, steps=30).figures["blocks[1]"]
    assert figures["stopped"] == "the loss is no number"
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize(
    "settings", [{"sites": "blocks[9]"}, {"blur_kernel": 4}, {"seeds": []}, {"rate": -1}]
)
def test_wrong_settings(subject, images, settings):
    with pytest.raises(surgeon.SurgeonError):
        invert(subject, images, **settings)


def test_a_bypassed_model_is_inverted_as_operated():
    """All blocks bypassed: what is left is affine, 384 numbers for 192, and comes back whole."""
    model = tiny_vit(width=384, patch=8)
    images = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(2))
    recipe = Recipe() | Bypass("blocks[*]") | Truncate("blocks[1]")
    with surgeon.operate(model.double(), recipe, input_size=SIZE) as subject:
        result = surgeon.run_probe("invert", subject, image=images, steps=600)
    assert result.figures["blocks[1]"]["psnr"] > 60


def test_auto_says_what_it_takes_and_why(vit, images):
    with surgeon.operate(vit, Recipe(), input_size=SIZE) as subject:
        plain = invert(subject, images, sites="blocks[1]", steps=20)
        rate = invert(subject, images, sites="blocks[1]", steps=5, rate=0.5)
        joint = invert(subject, images, sites=["stem", "blocks[1]"], target="joint", steps=5)
    with surgeon.operate(vit, Recipe() | DropResidual("blocks[0].mlp"), input_size=SIZE) as subject:
        dropped = invert(subject, images, sites="blocks[1]", steps=5)
    assert plain.figures["blocks[1]"]["method"] == "exact"
    assert plain.tables["blocks[1]"][0]["link"] == "blocks[1]"
    for result, reason in (
        (rate, "rate set"), (joint, "matched together"), (dropped, "no inverse of its own"),
    ):  # fmt: skip
        (figures,) = result.figures.values()
        assert figures["method"] == "lbfgs"
        assert any("lbfgs" in note and reason in note for note in result.notes)


def test_no_image_no_inversion(subject):
    with pytest.raises(ProbeError, match="no image"):
        surgeon.run_probe("invert", subject)


@pytest.mark.parametrize(
    ("relative", "seen", "decibel", "is_another"),
    [
        (1e-9, 0.5, 20.0, True),
        (1e-7, 0.5, 20.0, False),  # not a pre-image
        (1e-9, 1e-6, 10.0, False),  # apart only in what the stem is blind to
        (1e-9, None, 20.0, True),
        (1e-9, None, None, False),  # the same image: an infinite PSNR
    ],
)
def test_another_preimage_is_a_finding(relative, seen, decibel, is_another):
    from surgeon_invert.exact import another

    figures = {"embedding_relative": relative, "row_space_error": seen, "psnr": decibel}
    assert another(figures) is is_another


def test_auto_searches_in_the_spectrum_of_photos_and_lbfgs_in_pixels(subject):
    chosen = lambda **options: schedule_of(InvertSettings(**options), subject.anatomy, "lbfgs")
    assert chosen().spectrum
    assert not chosen(coordinates="pixels").spectrum
    assert not chosen(method="lbfgs").spectrum
    assert chosen(method="lbfgs", coordinates="spectrum").spectrum
    assert not schedule_of(InvertSettings(), subject.anatomy, "adam").spectrum
    with pytest.raises(ValueError, match="coordinates"):
        InvertSettings(method="adam", coordinates="spectrum")
