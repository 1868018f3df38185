"""Exact inversion: chains cut where they may be, links undone, resumed, honest where they fail."""

from __future__ import annotations

import copy

import pytest
import torch

import surgeon
from surgeon import Bypass, DropResidual, Only, Preprocessing, Recipe
from surgeon.inversion.chain import Counted, chain
from surgeon.inversion.choosing import Choice, combination
from surgeon.inversion.coordinates import Whitening
from surgeon.inversion.exact import ExactInversion
from surgeon.inversion.forks import Fork
from surgeon.inversion.ledger import Ledger
from surgeon.inversion.matching import start_image
from surgeon.inversion.own_jacobians import newton_by_own, price
from surgeon.inversion.patches import reseeded
from surgeon.inversion.residual import undo_residual
from surgeon.inversion.row_space import row_space
from surgeon.inversion.strategy import Goal, Problem
from surgeon.solvers import Solution
from surgeon.solvers.common import norm
from surgeon.testing import assert_restores, tiny_vit

SIZE = (3, 16, 16)


@pytest.fixture
def image():
    return torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def wide(depth=3):
    """Wide enough that LayerNorm is mild: an untrained ViT in small."""
    return tiny_vit(width=48, depth=depth, patch=8)


def invert(subject, site, image, budget=200.0, **options):
    inversion = ExactInversion(
        subject, subject.sites(site)[0], start_image(image.shape, 0).double(), budget=budget,
        **options,
    )  # fmt: skip
    walk = inversion.begin(inversion.output(image))
    while not walk.stopped:
        inversion.step(walk)
    return inversion, walk


RECIPES = {
    "as it is": Recipe(),
    "positions": Recipe() | Bypass("pos_embed"),
    "attention": Recipe() | Bypass("blocks[*].attention"),
    "mlp": Recipe() | Bypass("blocks[2].mlp"),
    "one block": Recipe() | Bypass("blocks[1]"),
    "only": Recipe() | Only("blocks[2]"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_operated_model_comes_back(image, name):
    model = wide()
    with (
        assert_restores(model),
        surgeon.operate(model, RECIPES[name], input_size=SIZE) as subject,
    ):
        inversion, walk = invert(subject, "blocks[2]", image)
        assert walk.stopped == "converged"
        start = inversion.start
        assert row_space(subject).error(image, walk.image, start) < 1e-6
        torch.testing.assert_close(
            inversion.output(walk.image), inversion.output(image), rtol=1e-7, atol=1e-7
        )


def test_what_the_stem_is_blind_to_stays_as_it_was_in_the_start(image):
    with surgeon.operate(wide(), Recipe(), input_size=SIZE) as subject:
        inversion, walk = invert(subject, "blocks[2]", image)
        space = row_space(subject)
        moved = walk.image - inversion.start
        torch.testing.assert_close(space.project(moved), moved, rtol=0, atol=1e-8)


def test_the_chain_is_cut_into_sublayers():
    with surgeon.operate(wide(), Recipe(), input_size=SIZE) as subject:
        links = chain(subject, subject.sites("blocks[1]")[0])
        assert [link.kind for link in links] == ["affine"] + ["residual"] * 4
        assert links[1].pinned.tolist() == [True, False, False, False, False]
        assert links[2].spare.tolist() == links[1].pinned.tolist()
        assert all(link.pinned is None and link.spare is None for link in links[3:])
        total = sum(link.segment.flops for link in links)
        assert total == subject.flops_to(subject.sites("blocks[1]")[0])


def test_a_bypassed_norm_leaves_a_link_that_bends():
    """What a bypassed module hands on still depends on what it was given."""
    recipe = Recipe() | Bypass(["blocks[*].norm1", "blocks[*].norm2"])
    with surgeon.operate(wide(), recipe, input_size=SIZE) as subject:
        links = chain(subject, subject.sites("blocks[1]")[0])
        assert [link.kind for link in links] == ["affine"] + ["residual"] * 4
        assert all(link.segment.flops > 0 for link in links)


def test_a_dropped_residual_has_no_inverse_of_its_own(image):
    with surgeon.operate(wide(), Recipe() | DropResidual("blocks[1].mlp"), input_size=SIZE) as s:
        inversion, walk = invert(s, "blocks[1]", image, budget=30)
        assert "blocks[1]" in inversion.obstacle
        assert walk.stopped == "budget spent"
        assert walk.records[-1]["method"] == "lbfgs"
        assert walk.spent <= 33
        y = inversion.output(image)
        assert walk.residual < float((inversion.output(inversion.start) - y).norm() / y.norm())


def test_walks_go_on_from_any_step(image):
    with surgeon.operate(wide(), Recipe(), input_size=SIZE) as subject:
        _, whole = invert(subject, "blocks[2]", image)
        site, start = subject.sites("blocks[2]")[0], start_image(image.shape, 0).double()
        first = ExactInversion(subject, site, start)
        walk = first.begin(first.output(image))
        while not walk.stopped:
            walk = copy.deepcopy(walk)
            ExactInversion(subject, site, start).step(walk)
    assert torch.equal(walk.image, whole.image)
    assert walk.spent == whole.spent


def test_the_ledger_counts_what_runs(image):
    """Calls of each module, weighed by hand, are what the ledger says."""
    model = wide(depth=1)
    with surgeon.operate(model, Recipe(), input_size=SIZE) as subject:
        segment = subject.segment("blocks[0].attention", "blocks[0]")
        ledger = Ledger(segment.flops * 3)
        x = torch.randn(1, 5, 48, dtype=torch.float64)
        counted = Counted(segment, ledger, torch.float64)
        with counted.ready():
            counted(x)
            assert ledger.spent == pytest.approx(1 / 9)
            counted(x[:, :1])  # one token of five
            assert ledger.spent == pytest.approx(1 / 9 + 1 / 45)
            counted.jvp(x, x)
            assert ledger.spent == pytest.approx(1 / 9 + 1 / 45 + 2 / 9)
            _, pull = counted.vjp(x)
            pull(x)
            assert ledger.spent == pytest.approx(1 / 9 + 1 / 45 + 2 / 9 + 1 / 3)


def test_a_token_undone_alone_is_the_same_token(image):
    """Tokens that go their own way are solved side by side, each as if alone."""
    with surgeon.operate(wide(depth=1), Recipe(), input_size=SIZE) as subject:
        link = chain(subject, subject.sites("blocks[0]")[0])[-1]
        x = torch.randn(1, 5, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        with Counted(link.segment, Ledger(1), torch.float64).ready():
            y = link.segment(x)
        undone = undo_residual(link, y, Ledger(1), Goal())
        found, record = undone.x, undone.record
        assert record.success
        torch.testing.assert_close(found[:, 1:], x[:, 1:], rtol=1e-7, atol=1e-7)


def test_newton_takes_over_where_the_fixed_point_fails():
    """A branch scaled up until plain iteration diverges."""
    model = wide(depth=1)
    with torch.no_grad():
        model.blocks[0].mlp[2].weight.mul_(4)
    with surgeon.operate(model, Recipe(), input_size=SIZE) as subject:
        link = chain(subject, subject.sites("blocks[0]")[0])[-1]
        generator = torch.Generator().manual_seed(1)
        y = torch.randn(1, 5, 48, dtype=torch.float64, generator=generator)
        undone = undo_residual(link, y, Ledger(1), Goal(values=3))
        found, record = undone.x, undone.record
        assert record.method == "newton"
        with Counted(link.segment, Ledger(1), torch.float64).ready():
            left = (link.segment(found) - y)[:, 1:].norm() / y.norm()
        assert (left < 1e-9) == record.success
        assert record.success


def test_devices_without_float64_report_their_floor(image, monkeypatch):
    from surgeon.inversion import exact, strategy

    only = lambda device: (torch.float32,)
    monkeypatch.setattr(strategy, "precisions", only)
    monkeypatch.setattr(exact, "precisions", only)
    with surgeon.operate(wide(), Recipe(), input_size=SIZE) as subject:
        site = subject.sites("blocks[2]")[0]
        inversion = ExactInversion(subject, site, start_image(image.shape, 0))
        walk = inversion.begin(inversion.output(image))
        while not walk.stopped:
            inversion.step(walk)
        assert walk.image.dtype == torch.float32
        assert walk.stopped == "converged"
        assert 1e-9 < walk.residual < 3e-5


def test_patches_that_fit_worst_are_put_to_their_neighbours_mean(image):
    pre = Preprocessing(SIZE)
    with surgeon.operate(wide(depth=1), Recipe(), preprocessing=pre, input_size=SIZE) as subject:
        site = subject.sites("blocks[0]")[0]
        counted = Counted(subject.segment(None, site), Ledger(1), torch.float64)
        with counted.ready():
            aim, broken = counted(image), image.clone()
            broken[:, :, :8, :8] += 3
            mended = reseeded(counted, broken, aim)
        torch.testing.assert_close(mended[:, :, 8:], image[:, :, 8:])
        assert float(mended[:, :, :8, :8].max()) < 1


def test_tokens_that_resist_are_named_with_their_variance(image):
    """No step is allowed, so that all but the known token are left."""
    model = wide(depth=1)
    with torch.no_grad():
        model.blocks[0].mlp[2].weight.mul_(40)
    with surgeon.operate(model, Recipe(), input_size=SIZE) as subject:
        link = chain(subject, subject.sites("blocks[0]")[0])[-1]
        y = torch.randn(1, 5, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        record = undo_residual(link, y, Ledger(1), Goal(values=2), allowed=0.0).record
        assert record.left == 4
        variance = y[0, 1:].var(-1) / y[0, 1:].var(-1).median()
        for number in range(1, 5):
            assert f"token {number}: variance {float(variance[number - 1]):.2g} of" in (
                record.resisting
            )


def test_whitened_coordinates_and_back_are_the_same_image(image):
    with surgeon.operate(wide(depth=1), Recipe(), input_size=SIZE) as subject:
        white = Whitening.of(subject)
        torch.testing.assert_close(white.back(white.there(image)), image, rtol=1e-10, atol=1e-10)
        a, b = torch.rand_like(image), torch.rand_like(image)  # its own transpose: of gradients
        torch.testing.assert_close((white.back(a) * b).sum(), (a * white.back(b)).sum())


def steep(factor=40.0, depth=2):
    """A model whose last mlp can't be undone in any ordinary way."""
    model = wide(depth=depth)
    with torch.no_grad():
        model.blocks[depth - 1].mlp[2].weight.mul_(factor)
    return model


@pytest.mark.parametrize("budget", [1.0, 3.0, 8.0, 40.0])
@pytest.mark.parametrize("make", [wide, steep])
def test_the_budget_is_kept(image, make, budget):
    with surgeon.operate(make(), Recipe(), input_size=SIZE) as subject:
        _, walk = invert(subject, "blocks[1]", image, budget=budget)
        assert walk.stopped in ("budget spent", "converged", "stagnated")
        assert walk.spent <= budget + 0.5


@pytest.mark.parametrize("budget", [3.0, 12.0, 40.0])
def test_nothing_worse_than_an_image_it_had_is_returned(image, budget):
    """Of the start, where the links led, and what was searched: the nearest at the site."""
    with surgeon.operate(steep(), Recipe(), input_size=SIZE) as subject:
        inversion, walk = invert(subject, "blocks[1]", image, budget=budget)
        y = inversion.output(image)
        error = lambda x: float((inversion.output(x) - y).norm() / y.norm())
        assert walk.stopped != "converged"
        assert error(walk.image) <= error(inversion.start) * (1 + 1e-6)
        if walk.kept is not None:
            assert error(walk.image) == pytest.approx(walk.error, rel=1e-3)
            inversion.keep(walk, walk.image + 3)
            assert walk.kept is walk.image


def test_of_several_pre_images_the_one_that_leaves_nothing_is_chosen():
    """Five tokens with wrong values put to them; what is known is a bent mean of all."""
    generator = torch.Generator().manual_seed(2)
    true, wrong = (torch.randn(12, 30, generator=generator).double() for _ in range(2))
    known = lambda x: torch.tanh(x / 4).mean(0)
    start = true.clone()
    start[[1, 4, 7]] = wrong[[1, 4, 7]]
    choice = Choice(start, lambda x: known(true) - known(x))
    for row in (1, 4, 7):
        assert choice.add(row, true[row])
        assert not choice.add(row, true[row])  # known already
    for row in (2, 4, 9):
        assert choice.add(row, wrong[row] + 1)
    choice.choose()
    assert choice.left < 1e-12
    torch.testing.assert_close(choice.best, true)


def test_a_combination_takes_one_change_of_a_row():
    generator = torch.Generator().manual_seed(3)
    effects = [torch.randn(40, generator=generator).double() for _ in range(4)]
    left = -(effects[0] + effects[3])
    assert combination(left, effects, [0, 0, 1, 2]) == [0, 3]
    assert combination(left, [effects[0], effects[0]], [5, 5]) in ([], [0], [1])


def wrong_at_one_token(subject, image):
    """An inversion at the pixels' doorstep, one token put to another pre-image; all its own."""
    with torch.no_grad(), subject.in_dtype(torch.float64):
        own = subject.segment(None, "blocks[0].attention")(image)
    site, start = subject.sites("blocks[0]")[0], start_image(image.shape, 0).double()
    inversion = ExactInversion(subject, site, start, budget=5000.0)
    walk = inversion.begin(inversion.output(image))
    inversion.step(walk)
    wrong = walk.value.clone()
    apart = (wrong - own)[0].norm(dim=-1) / own[0].norm(dim=-1)
    token = int(apart[1:].argmax()) + 1
    assert float(apart[token]) > 0.1
    walk.value = own.clone()
    walk.value[0, token] = wrong[0, token]
    walk.source = walk.value
    return inversion, walk, own


@pytest.fixture
def photo():
    return torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_walk_goes_down_again_from_the_pre_images_that_agree_below(photo, monkeypatch):
    """Newton finds another than the image's own for a token; offered beside it, that is taken."""
    with surgeon.operate(steep(2.5, depth=1), Recipe(), input_size=SIZE) as subject:
        inversion, walk, own = wrong_at_one_token(subject, photo)
        offered = []

        def others(fork, turn):
            offered.append(turn)
            yield from enumerate(own[0, 1:])

        monkeypatch.setattr(Fork, "_others", others)
        while not walk.stopped:
            inversion.step(walk)
        assert offered == [0]
        assert [r["method"] for r in walk.records].count("choice") == 1
        assert walk.stopped == "converged"
        assert row_space(subject).error(photo, walk.image, inversion.start) < 1e-6


def test_hard_tokens_are_found_from_an_image_near(photo):
    with surgeon.operate(steep(2.5, depth=1), Recipe(), input_size=SIZE) as subject:
        inversion, walk, _ = wrong_at_one_token(subject, photo)
        noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(2)).double()
        assert Fork(inversion, walk).land(photo + 1e-3 * noise)
        while not walk.stopped:
            inversion.step(walk)
        assert walk.stopped == "converged"
        assert row_space(subject).error(photo, walk.image, inversion.start) < 1e-6


def test_tokens_are_found_by_steps_of_their_own_jacobians():
    """A branch whose spectral radius is over 1; the Jacobians are those of reverse mode."""
    with surgeon.operate(steep(6.0, depth=1), Recipe(), input_size=SIZE) as subject:
        link = chain(subject, subject.sites("blocks[0]")[0])[-1]
        x = torch.randn(1, 5, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
        counted = Counted(link.segment, Ledger(link.segment.flops), torch.float64)
        with counted.ready():
            problem = Problem(link, counted, link.segment(x))
            own, start = problem.rows(x), problem.rows(x + 1e-3 * noise)
            with torch.enable_grad():
                whole = torch.autograd.functional.jacobian(lambda r: problem(r[None])[0], own[2])
            found = problem.counted.jacobians(own[None])
            torch.testing.assert_close(found[2], whole)
            radius = torch.linalg.eigvals(found - torch.eye(48).double()).abs().max()
            assert float(radius) > 1
            numbers, before = torch.tensor([2, 0]), counted.ledger.spent
            done = newton_by_own(problem, numbers, start[numbers], 1e-11, 1e9)
            spent = counted.ledger.spent - before
            assert done.success
            torch.testing.assert_close(done.x, own[numbers], rtol=0, atol=1e-8)
            assert spent <= done.iterations * price(problem, 2) + 1
            none = newton_by_own(problem, numbers, start[numbers], 1e-11, counted.ledger.spent)
            assert none.iterations == 0
            assert float(norm(none.x - start[numbers]).max()) == 0


@pytest.mark.parametrize(("residual", "taken"), [(float("inf"), True), (0.0, False)])
def test_an_image_of_some_right_tokens_is_gone_on_from_if_it_is_nearer(
    photo, monkeypatch, residual, taken
):
    with surgeon.operate(steep(2.5, depth=1), Recipe(), input_size=SIZE) as subject:
        inversion, walk, _ = wrong_at_one_token(subject, photo)
        walk.residual = residual

        def still_wrong(fork, problem, numbers, start):
            x = problem.rows(walk.source.to(start))[numbers]
            count = len(numbers)
            return Solution(x, torch.zeros(count), torch.ones(count).bool(), "converged", 1)

        monkeypatch.setattr(Fork, "_nearest", still_wrong)
        assert not Fork(inversion, walk).land(photo)
        assert (walk.best is not None) == taken
        if taken:
            left = (walk.aim - inversion.output(walk.image)).norm() / walk.aim.norm()
            assert walk.residual == pytest.approx(float(left), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("site", ["blocks[0]", "blocks[11]"])
def test_vit_b_32_comes_back_from_its_first_and_last_block(site):
    """The model's own normalisation, a photo, untrained: the figures the documentation states."""
    recipe = Recipe("torchvision/vit_b_32", seed=0)
    model = recipe.load()
    with assert_restores(model), surgeon.operate(model, recipe) as subject:
        result = surgeon.run_probe("invert", subject, image="surgeon:coffee", sites=site)
    figures = result.figures[site]
    assert figures["method"] == "exact"
    assert figures["stopped"] == "converged"
    assert figures["token_error"] <= 1e-6
    assert figures["row_space_error"] <= 1e-3
    assert figures["gradient_evaluations"] <= 50
