"""Certified pre-images, bounds, and what is said of Jacobians too large to be worked out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import surgeon
from surgeon import Bypass, DropResidual, Recipe
from surgeon.diagnosis import bounds as bounds_module
from surgeon.diagnosis import thresholds
from surgeon.diagnosis.attention_bound import attention_bound
from surgeon.diagnosis.bounds import Bound, Bounds
from surgeon.diagnosis.certificates import ILL, INJECTIVE, OPEN
from surgeon.diagnosis.deflation import deflate, likely_radius
from surgeon.diagnosis.extremes import (
    Extreme,
    largest,
    least_eigenvalue,
    operator_norm,
    smallest,
    spectral_radius,
)
from surgeon.diagnosis.judging import judge_extremes
from surgeon.diagnosis.kantorovich import certify, disjoint
from surgeon.diagnosis.large import LargeJacobian
from surgeon.diagnosis.preimages import compared
from surgeon.diagnosis.searching import first_search, searched
from surgeon.diagnosis.sublayers import Sublayer
from surgeon.diagnosis.twins import area_under_curve
from surgeon.imaging.photos import load_photos
from surgeon.inversion.jacobians import token_jacobians, whole_jacobian
from surgeon.testing import tiny_vit

SIZE = (3, 16, 16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def at(selector="blocks[0].mlp", model=None, recipe=None):
    subject = surgeon.operate(model or tiny_vit(2), recipe or Recipe(), input_size=SIZE)
    site = subject.anatomy.select(selector)[0]
    return subject, Sublayer(subject, site, torch.rand(1, *SIZE, generator=generator()))


# --- Newton and Kantorovich on maps that are known


def fold(x):
    return x - 3 * torch.tanh(x)


def exactly(second):
    """Of a map that is evaluated to a few units in the last place."""
    return lambda radius: Bound(10.0, 1e-14, 4.0, second, 1e-14)


def fold_root():
    low, high = 1.0, 5.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if middle < 3 * math.tanh(middle) else (low, middle)
    return low


def certified(x, second=2.4, target=0.0):
    x = torch.tensor([x], dtype=torch.float64)
    slope = (1 - 3 * (1 - torch.tanh(x) ** 2)).reshape(1, 1)
    return certify(fold(x), slope, torch.tensor([target]).double(), exactly(second))


def test_three_pre_images_are_certified_and_apart():
    root = fold_root()
    balls = [certified(x) for x in (0.0, root, -root)]
    assert all(ball is not None for ball in balls)
    assert [ball.sign for ball in balls] == [-1, 1, 1]
    assert disjoint(balls[0], balls[1], root)
    assert not disjoint(balls[0], balls[1], 1e-15)


@pytest.mark.parametrize("off", [1e-3, 1e-2, 5e-2])
def test_the_exact_one_is_in_the_ball(off):
    ball = certified(fold_root() + off)
    assert ball is not None
    assert off <= ball.radius <= 3 * off


def test_nothing_is_certified_far_away_or_where_it_folds():
    assert certified(1.8) is None  # Newton's step is longer than what is known
    turn = math.atanh(math.sqrt(2 / 3))  # the slope is zero
    assert certified(turn) is None
    assert certified(fold_root() + 1e-2, second=1e3) is None


# --- the bounds


def test_bounds_are_above_what_is_there():
    subject, sublayer = at()
    with subject, subject.in_dtype(torch.float64, sublayer.segment.parameters):
        known, radius = Bounds(sublayer.segment), 0.05
        for token in range(5):
            x = sublayer.x[:, [token]]
            bound = known.at(x[0, 0], radius)
            steps = normal(40, 8, seed=token)
            steps = radius * steps / steps.norm(dim=1, keepdim=True)
            here = token_jacobians(sublayer.segment, x)[0]
            for step in steps:
                there = token_jacobians(sublayer.segment, x + step)[0]
                assert torch.linalg.matrix_norm(there, 2) <= bound.first
                assert torch.linalg.matrix_norm(there - here, 2) <= bound.second * radius


def test_rounding_is_bounded(monkeypatch):
    """The same analysis for float32, whose rounding float64 can see."""
    monkeypatch.setattr(bounds_module, "UNIT", 2.0**-24)
    subject, sublayer = at()
    with subject:
        # A common shift makes the normalisation cancel.
        for shift in (0.0, 3.0, 300.0):
            x = (sublayer.x + shift).float()
            single, slope = sublayer.segment(x), token_jacobians(sublayer.segment, x)
            with subject.in_dtype(torch.float64, sublayer.segment.parameters):
                known = Bounds(sublayer.segment)
                double = sublayer.segment(x.double())
                true = token_jacobians(sublayer.segment, x.double())
                for token in range(5):
                    bound = known.at(x[0, token].double(), 0.0)
                    off = (single - double)[0, token].norm()
                    assert off <= bound.rounding
                    assert shift > 3 or off > 1e-6 * bound.rounding  # of some use
                    tilted = torch.linalg.matrix_norm(slope[token] - true[token])
                    assert tilted <= bound.derivative_rounding


def test_what_is_not_recognised_has_no_bound():
    subject, sublayer = at("blocks[0].attention")
    with subject, subject.in_dtype(torch.float64):
        assert Bounds(sublayer.segment).at(sublayer.x[0, 0], 0.0) is None
    model = tiny_vit()
    model.blocks[0].mlp[1] = nn.ReLU()
    subject, sublayer = at(model=model)
    with subject, subject.in_dtype(torch.float64):
        assert Bounds(sublayer.segment).at(sublayer.x[0, 0], 0.0) is None


def test_without_the_norm_there_is_a_bound_too():
    subject, sublayer = at(recipe=Recipe() | Bypass("blocks[0].norm2"))
    with subject, subject.in_dtype(torch.float64):
        bound = Bounds(sublayer.segment).at(sublayer.x[0, 0], 0.0)
        jacobian = token_jacobians(sublayer.segment, sublayer.x[:, [0]])[0]
        assert torch.linalg.matrix_norm(jacobian, 2) <= bound.first < 20


def test_a_second_pre_image_is_certified_and_another_value_is_not():
    subject, sublayer = at()
    with subject:
        found = sublayer.search(3, 60)
        best = found[0]
        assert best.balls is not None
        here, there = best.balls
        assert here.sign == -1
        assert here.radius + there.radius < 1e-6 * best.apart
        x = sublayer.x[:, [3]]
        with subject.in_dtype(torch.float64, sublayer.segment.parameters):
            nudged = compared(sublayer.segment, x, best.x * (1 + 1e-8))
            assert not nudged.near
            assert nudged.balls is None


# --- large Jacobians


def products(matrix):
    return (lambda v: v @ matrix.T), (lambda u: u @ matrix)


def low_rank(seed, n=400, rank=60):
    small = 0.8 * normal(rank, rank, seed=seed)
    left, right = (normal(*s, seed=seed + k) / n**0.5 for k, s in ((1, (n, rank)), (2, (rank, n))))
    return torch.eye(n).double() + left @ small @ right + 0.05 * normal(n, n, seed=seed) / n**0.5


def test_a_split_jacobian_is_what_it_says():
    matrix = low_rank(0)
    split = deflate(*products(matrix), 400, budget=300, like=matrix)
    outside = torch.eye(400).double() - split.basis.T @ split.basis
    rest = outside @ (matrix - torch.eye(400)) @ outside
    kept, x = matrix - rest, normal(2, 400)
    assert torch.allclose(split.undo(x), torch.linalg.solve(kept, x.T).T, atol=1e-8)
    assert torch.allclose(split.undo_transposed(x), torch.linalg.solve(kept.T, x.T).T, atol=1e-8)
    left = rest @ torch.linalg.inv(kept)
    assert torch.allclose(split.rest(x), x @ left.T, atol=1e-8)
    assert torch.allclose(split.rest_transposed(x), x @ left, atol=1e-8)
    assert split.sign == int(torch.linalg.slogdet(kept)[0])
    radius, chance = likely_radius(split, 400, matrix)
    assert float(torch.linalg.eigvals(left).abs().max()) <= radius < 1
    assert chance < 1e-4


def test_probable_signs_are_those_of_dense_determinants():
    signs = []
    for seed in range(0, 90, 3):
        matrix = low_rank(seed)
        split = deflate(*products(matrix), 400, budget=300, like=matrix)
        assert likely_radius(split, 400, matrix)[0] < 1
        assert split.sign == int(torch.linalg.slogdet(matrix)[0])
        signs.append(split.sign)
    assert 5 < signs.count(-1) < 25  # both occur


def test_a_split_says_nothing_when_its_budget_ends():
    matrix = low_rank(0)
    assert deflate(*products(matrix), 400, budget=60, like=matrix) is None


def test_extremes_of_attention_against_dense_svd():
    """Width 64, 17 tokens: 1,088 columns."""
    subject, sublayer = at("blocks[0].attention", model=tiny_vit(width=64, patch=4))
    with subject:
        found = sublayer.judge_whole(dense=4, products=1000).numbers
        with subject.in_dtype(torch.float64, sublayer.segment.parameters):
            jacobian = whole_jacobian(sublayer.segment, sublayer.x)
    values = torch.linalg.svdvals(jacobian)
    assert len(values) == 64 * 17
    assert found["largest"] == pytest.approx(float(values[0]), rel=1e-2)
    assert found["smallest"] == pytest.approx(float(values[-1]), rel=1e-2)
    branch = jacobian - torch.eye(len(values))
    steepest = float(torch.linalg.matrix_norm(branch, 2))
    assert found["lipschitz_branch"] == pytest.approx(steepest, rel=1e-2)
    assert found["determinant_sign_probable"] == int(torch.linalg.slogdet(jacobian)[0])
    assert found["determinant_chance"] < 1e-4


def test_null_directions_of_a_norm_are_told_from_bad_conditioning():
    model = tiny_vit(width=16)
    model.blocks[0].norm1.eps = 1e-8
    subject, sublayer = at("blocks[0].attention", model, Recipe() | DropResidual("blocks[0]"))
    with subject:
        found = sublayer.judge_whole(dense=4, products=100)
        with subject.in_dtype(torch.float64, sublayer.segment.parameters):
            jacobian = whole_jacobian(sublayer.segment, sublayer.x)
    assert found.verdict == "not injective: proved"
    assert found.evidence[0].kind == "exact null space"
    numbers = found.numbers
    assert numbers["gain_of_means"] < 1e-12
    assert 1e-12 < numbers["gain_of_scales"] < 1e-3  # eps leaves a trace of it
    # The plain reference: an orthonormal basis of what is beside both, token by token.
    x = sublayer.x[0]
    bases = []
    for token in x:
        blind = torch.stack([torch.ones(16).double(), token - token.mean()], 1)
        bases.append(torch.linalg.qr(blind, mode="complete").Q[:, 2:])
    values = torch.linalg.svdvals(jacobian @ torch.block_diag(*bases))
    assert numbers["largest_beside_null"] == pytest.approx(float(values[0]), rel=1e-6)
    assert numbers["smallest_beside_null_at_most"] >= 0.99 * float(values[-1])


@pytest.mark.parametrize("name", ["surgeon/vit_fashion", "timm/vit_tiny_patch16_224"])
def test_the_bound_of_the_literature_is_above(name):
    recipe = Recipe(name) if name.startswith("timm") else Recipe(name, weights="fashion")
    with surgeon.operate(recipe.load(), recipe) as subject:
        photo = load_photos("surgeon:chelsea", subject.preprocessing)[0].pixels
        sublayer = Sublayer(subject, subject.anatomy.select("blocks[0].attention")[0], photo)
        with subject.in_dtype(torch.float64, sublayer.segment.parameters):
            bound = attention_bound(sublayer.segment, sublayer.x, residual=True)
            jacobian = LargeJacobian(sublayer.segment, sublayer.x, subject.ledger)
            steepest = largest(
                lambda v: jacobian.product(v) - v, lambda u: jacobian.transposed(u) - u,
                jacobian.like,
            ).value  # fmt: skip
            assert steepest < bound < math.inf
            # What is no attention with its residual, by its values, has no bound.
            assert attention_bound(sublayer.segment, sublayer.x, residual=False) is None


def test_the_smallest_of_a_singular_matrix_is_not_found():
    matrix = torch.diag(torch.tensor([0.0, 1.0, 2.0, 3.0])).double()
    assert smallest(*products(matrix), matrix[:1], budget=200) is None
    assert largest(*products(matrix), matrix[:1]).value == pytest.approx(3, rel=1e-3)


def test_radii_and_norms():
    matrices = torch.stack([normal(60, 60, seed=s) / 60**0.5 for s in range(3)])
    radius = torch.linalg.eigvals(matrices).abs().amax(1)
    assert (radius <= spectral_radius(matrices)).all()
    assert (spectral_radius(matrices) < 1.1 * radius).all()
    norm = torch.linalg.matrix_norm(matrices, 2)
    assert torch.allclose(operator_norm(matrices), norm, rtol=1e-2)
    assert spectral_radius(torch.zeros(1, 4, 4)).tolist() == [0]


def test_area_under_a_curve():
    wrong = torch.tensor([False, True, False, True])
    assert area_under_curve(torch.tensor([1.0, 2, 3, 4]), wrong) == 0.75
    assert area_under_curve(torch.ones(4), wrong) == 0.5
    assert area_under_curve(torch.tensor([1.0, float("nan"), 3, 4]), wrong) == 1.0
    assert area_under_curve(torch.ones(4), torch.zeros(4, dtype=torch.bool)) is None


# --- a second image by search


def walked(model, photo, budget=600):
    with surgeon.operate(model.eval(), Recipe(), input_size=SIZE) as subject:
        site, search = subject.anatomy.where_made(subject.output), first_search(photo)
        while not search.stopped:
            search = searched(subject, site, photo, search, budget)
        with subject.in_dtype(torch.float64):
            a, b = (subject(x.double()) for x in (photo, search.image))
    return search, float((a - b).norm() / a.norm())


def test_a_search_ends_far_away_with_the_same_output():
    """Overlapping convolutions have no patch stem; their 128 numbers are those of other images."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), nn.Conv2d(16, 8, 3, 2, 1))
    photo = torch.rand(1, *SIZE, generator=generator())
    photo[..., :4, :4] = 0  # where a sine is flat
    search, apart = walked(model, photo)
    assert search.stopped == "converged"
    assert search.psnr < 15
    assert 0 <= search.image.min() <= search.image.max() <= 1
    assert apart < 1e-10


def test_no_way_leads_away_where_a_map_is_one_to_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 2, 2), nn.Softplus())
    search, _ = walked(model, torch.rand(1, *SIZE, generator=generator()))
    assert search.stopped == "no way leads far away"
    assert search.psnr > thresholds.APART_PSNR  # as far as a budget of inexact steps led it


def test_a_search_ends_with_its_budget():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), nn.Conv2d(16, 8, 3, 2, 1))
    assert walked(model, torch.rand(1, *SIZE), budget=1)[0].stopped == "budget spent"


# --- at a part of the cost


def test_the_least_eigenvalue_of_a_symmetric_matrix():
    matrix = normal(30, 30, seed=5)
    matrix = matrix + matrix.T
    values = torch.linalg.eigvalsh(matrix)
    found, error = least_eigenvalue(lambda v: v @ matrix, normal(1, 30))
    assert found >= float(values[0]) - 1e-9
    assert found - error <= float(values[0])
    assert error <= 1e-2
    few, wide = least_eigenvalue(lambda v: v @ matrix, normal(1, 30), steps=3)
    assert few > float(values[0])
    assert wide > 0.1


def test_the_floor_of_some_tokens_is_below_their_smallest_singular_values():
    subject, sublayer = at(model=tiny_vit())
    with subject:
        floor = sublayer.floor([0, 2, 3])
        rows = [c.numbers for c in sublayer.judge_tokens([0, 2, 3])]
    assert 0 < floor.smallest <= min(row["smallest"] for row in rows)
    assert floor.condition >= max(row["condition"] for row in rows)
    steepest = max(row["lipschitz_branch"] for row in rows)
    assert steepest <= floor.branch * 1.01 <= steepest * 1.05


@pytest.mark.parametrize(
    ("least", "error", "verdict"),
    [(1.0, 0.02, INJECTIVE), (2e-3, 0.02, INJECTIVE), (1.005e-3, 0.02, OPEN), (1.005e-3, 0, ILL),
     (5e-4, 0.02, ILL)],
)  # fmt: skip
def test_a_condition_near_the_threshold_is_told_only_by_what_is_exact_enough(least, error, verdict):
    found = judge_extremes(100, Extreme(1.0, 0.0, 1), Extreme(least, error, 1))
    assert found.verdict == verdict
