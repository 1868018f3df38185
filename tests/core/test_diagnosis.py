"""Verdicts on maps whose answer is known by construction."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surgeon
from surgeon import Bypass, DropResidual, Recipe
from surgeon.diagnosis import thresholds
from surgeon.diagnosis.certificates import (
    COLLIDES,
    ILL,
    INJECTIVE,
    OPEN,
    PROVED,
    Certificate,
    Evidence,
    together,
)
from surgeon.diagnosis.collapse import stable_rank, tokens_apart
from surgeon.diagnosis.collisions import (
    examine,
    second_image,
    stem_matrix,
    within_rounding,
)
from surgeon.diagnosis.counting import count, counting_proof, narrows
from surgeon.diagnosis.exact_rank import rank_at_least, rational_rank
from surgeon.diagnosis.judging import (
    Facts,
    judge_map,
    judge_matrix,
    judge_spectrum,
    spectra,
)
from surgeon.diagnosis.structure import dead_units, facts_of
from surgeon.diagnosis.sublayers import Sublayer
from surgeon.diagnosis.whole import judge_from_pixels, judge_stem
from surgeon.imaging.photos import load_photos
from surgeon.inversion.jacobians import token_jacobians, whole_jacobian
from surgeon.recipe import ModelSpec
from surgeon.sources import meta_model
from surgeon.testing import tiny_vit

SIZE = (3, 16, 16)
BOUNDED = Facts(bounded_branch="tanh is bounded")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def conditioned(condition, rows=16, columns=16, seed=0):
    """A matrix whose singular values go from 1 down to 1 / condition."""
    left = torch.linalg.qr(normal(rows, columns, seed=seed))[0]
    right = torch.linalg.qr(normal(columns, columns, seed=seed + 1))[0]
    values = torch.logspace(0, -math.log10(condition), columns, dtype=torch.float64)
    return left * values @ right


def unit(n, seed):
    v = normal(n, seed=seed)
    return v / v.norm()


def hilbert(n):
    i = torch.arange(n, dtype=torch.float64)
    return 1 / (i[:, None] + i + 1)


def repeated_column():
    a = normal(10, 10)
    a[:, 7] = a[:, 2]
    return a


def zero_column():
    a = normal(60, 60)
    a[:, 5] = 0
    return a[:48, :48]


MATRICES = {
    **{f"condition {c:g}": (conditioned(c), INJECTIVE) for c in (1.0, 2.0, 10.0, 100.0)},
    **{f"condition 1e{k}": (conditioned(10.0**k, seed=k), ILL) for k in range(3, 15)},
    "well-conditioned, in float32": (conditioned(30.0).float(), INJECTIVE),
    "tall": (conditioned(10.0, 32, 16), INJECTIVE),
    "tall, ill-conditioned": (conditioned(1e9, 40, 16), ILL),
    "orthogonal": (torch.linalg.qr(normal(16, 16))[0], INJECTIVE),
    "reflection": (torch.eye(9).double() - 2 * torch.outer(unit(9, 3), unit(9, 3)), INJECTIVE),
    "a permutation": (torch.eye(12)[torch.randperm(12, generator=generator())], INJECTIVE),
    "minus twice": (-2 * torch.eye(7), INJECTIVE),
    "tiny numbers": (1e-150 * conditioned(10.0), INJECTIVE),
    "Hilbert's": (hilbert(12), ILL),
    "wide": (normal(8, 16), PROVED),
    "one number out": (normal(1, 2), PROVED),
    "a coordinate left out": (torch.diag(torch.tensor([1.0, 1, 0, 1])), PROVED),
    "a projection, exact": (torch.eye(16) - torch.ones(16, 16) / 16, PROVED),
    "a column twice": (repeated_column(), PROVED),
    "a zero column": (zero_column(), PROVED),
    "integers of rank 2": (torch.arange(36.0).reshape(6, 6), PROVED),
    "nothing": (torch.zeros(3, 3), PROVED),
    # As stored it is invertible: rounding moved its smallest singular value off zero.
    "a projection, rounded": (
        torch.eye(16).double() - torch.outer(unit(16, 5), unit(16, 5)), ILL,
    ),
    "not a number": (torch.full((3, 3), math.nan), OPEN),
}  # fmt: skip


@pytest.mark.parametrize("name", MATRICES)
def test_matrices(name):
    matrix, verdict = MATRICES[name]
    certificate = judge_matrix(matrix)
    assert certificate.verdict == verdict, certificate
    if verdict != OPEN and torch.isfinite(matrix).all():
        truth = rational_rank(matrix)
        assert (certificate.verdict == PROVED) == (truth < matrix.shape[1])
        assert (certificate.verdict == PROVED) != ("rank" in {e.kind for e in certificate.evidence})


def layer_norm(x):
    return F.layer_norm(x, x.shape)


def rms(eps):
    return lambda x: x / (x.square().mean() + eps).sqrt()


def residual(scale, width=6):
    """x + a branch of Lipschitz constant `scale`."""
    first, second = (torch.linalg.qr(normal(width, width, seed=s))[0] for s in (1, 2))
    return lambda x: x + scale * (second @ torch.tanh(first @ x))


def folds(*scales):
    """x - c tanh(x) in each coordinate: three pre-images of 0 where c > 1."""
    c = torch.tensor(scales, dtype=torch.float64)
    return lambda x: x - c * torch.tanh(x)


RELU_POINT = torch.tensor([1.0, -2, 3, -0.5, 2]).double()
ALIVE = torch.tensor([1.0, 2, 3]).double()
ZERO3, OUT3 = torch.zeros(3).double(), torch.full((3,), 4.0).double()


def dead(x):
    count = dead_units(x)
    return Facts(null_space=f"{count} units are dead" if count else "", null_dimensions=count)


MAPS = {
    "layer norm, its mean known": (
        layer_norm, normal(8), Facts(null_space="blind to the mean", null_dimensions=1), PROVED),
    "layer norm, nothing known": (layer_norm, normal(8), Facts(), COLLIDES),
    "x / |x|": (rms(0.0), normal(8), Facts(), COLLIDES),
    "rms norm with eps": (rms(1e-5), normal(8), Facts(), ILL),
    "rms norm of much eps": (rms(1.0), normal(8), Facts(), INJECTIVE),
    "softmax": (lambda x: x.softmax(0), normal(5), Facts(), COLLIDES),
    "relu, two dead": (torch.relu, RELU_POINT, dead(RELU_POINT), PROVED),
    "relu, nothing known": (torch.relu, RELU_POINT, Facts(), COLLIDES),
    "relu, all alive": (torch.relu, ALIVE, dead(ALIVE), INJECTIVE),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.1), RELU_POINT, Facts(), INJECTIVE),
    "gelu where it falls": (F.gelu, torch.tensor([-1.5, 1.0]).double(), Facts(), INJECTIVE),
    "a cube where it is flat": (lambda x: x**3, torch.tensor([0.0, 1.0]).double(), Facts(), ILL),
    "i-ResNet, Lipschitz .5": (residual(0.5), normal(6), BOUNDED, INJECTIVE),
    "i-ResNet, Lipschitz .9": (residual(0.9), normal(6), BOUNDED, INJECTIVE),
    "i-ResNet, Lipschitz .95 at 0": (residual(0.95), torch.zeros(6).double(), BOUNDED, INJECTIVE),
    "three pre-images": (folds(3.0), torch.zeros(1).double(), BOUNDED, PROVED),
    "three pre-images in one of three": (folds(3.0, 0.5, 0.5), ZERO3, BOUNDED, PROVED),
    "three folds": (folds(3.0, 2.0, 4.0), ZERO3, BOUNDED, PROVED),
    "two folds, the sign is positive": (folds(3.0, 2.0, 0.5), ZERO3, BOUNDED, INJECTIVE),
    "on the outer sheet": (folds(3.0, 0.5, 0.5), OUT3, BOUNDED, INJECTIVE),
    "a fold, not known to be bounded": (folds(3.0), torch.zeros(1).double(), Facts(), INJECTIVE),
    "x - 3 x is unbounded": (lambda x: x - 3 * x, normal(3), Facts(), INJECTIVE),
    "a fold within the margin": (
        folds(1 + 1e-10, 0.5), torch.tensor([0.0, 1.0]).double(), BOUNDED, ILL),
    "on the edge of a fold": (folds(1.0, 0.5), torch.tensor([0.0, 1.0]).double(), BOUNDED, ILL),
    "pooling": (lambda x: x.reshape(-1, 2).mean(1), normal(8), Facts(), PROVED),
    "embedded twice": (lambda x: torch.cat([x, x**2]), normal(4), Facts(), INJECTIVE),
    "constant": (lambda x: x * 0 + 1, normal(4), Facts(), COLLIDES),
    "a root at zero": (torch.sqrt, torch.zeros(2).double(), Facts(), OPEN),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_maps(name):
    function, x, facts, verdict = MAPS[name]
    certificate = judge_map(function, x, facts)
    assert certificate.verdict == verdict, certificate


def test_there_are_enough_cases():
    assert len(MATRICES) + len(MAPS) >= 40
    verdicts = [v for _, v in MATRICES.values()] + [v for *_, v in MAPS.values()]
    assert set(verdicts) == {INJECTIVE, ILL, PROVED, COLLIDES, OPEN}


def test_the_third_pre_image_that_was_proved_is_there():
    """x - 3 tanh(x) = 0 at 0 and, by bisection, at one place on either side."""
    low, high = 1.0, 5.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if middle < 3 * math.tanh(middle) else (low, middle)
    value = folds(3.0)(torch.tensor([low, -low], dtype=torch.float64))
    assert value.abs().max() < 1e-12
    assert low > 2.9


def test_proved_needs_a_proof():
    with pytest.raises(ValueError, match="proves nothing"):
        Certificate(PROVED, (Evidence("singular values", "tiny"),))


def test_parts_together():
    assert together([INJECTIVE, PROVED, ILL], complete=True) == PROVED
    assert together([INJECTIVE, INJECTIVE], complete=True) == INJECTIVE
    assert together([INJECTIVE, INJECTIVE], complete=False) == OPEN
    assert together([], complete=False) == OPEN


def test_exact_ranks_agree_and_tell_what_floating_point_cannot():
    nearly = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 2**-52]], dtype=torch.float64)
    assert rank_at_least(nearly) == rational_rank(nearly) == 2
    assert rank_at_least(torch.ones(2, 2)) == rational_rank(torch.ones(2, 2)) == 1
    for seed in range(20):
        rank = 1 + seed % 6
        low = torch.randint(-3, 4, (9, rank), generator=generator(seed)).double()
        high = torch.randint(-3, 4, (rank, 7), generator=generator(seed + 1)).double()
        product = low @ high
        truth = rational_rank(product)
        assert truth == int(torch.linalg.matrix_rank(product))
        assert rank_at_least(product) == truth
    assert rational_rank(torch.zeros(60, 60)) is None


# --- what the dataflow proves


def link(recipe, selector):
    subject = surgeon.operate(tiny_vit(), recipe, input_size=SIZE)
    return subject, Sublayer(subject, subject.anatomy.select(selector)[0], torch.rand(1, *SIZE))


@pytest.mark.parametrize(
    ("operations", "selector", "bounded", "null"),
    [
        ([], "blocks[0].mlp", True, 0),
        ([], "blocks[1].attention", True, 0),
        ([Bypass("blocks[0].norm2")], "blocks[0].mlp", False, 0),
        ([Bypass("blocks[1].norm1")], "blocks[1].attention", False, 0),
        ([DropResidual("blocks[0].residual1")], "blocks[0].attention", False, 5),
        ([DropResidual("blocks[0].residual2")], "blocks[0].mlp", False, 5),
        ([DropResidual("blocks[0]"), Bypass("blocks[0].norm2")], "blocks[0].mlp", False, 0),
        ([surgeon.Ablate("blocks[0].mlp", value="zero")], "blocks[0].mlp", False, 0),
    ],
)  # fmt: skip
def test_facts(operations, selector, bounded, null):
    recipe = Recipe()
    for operation in operations:
        recipe = recipe | operation
    subject, sublayer = link(recipe, selector)
    with subject:
        assert bool(sublayer.facts.bounded_branch) == bounded
        assert sublayer.facts.null_dimensions == null


def test_the_null_directions_are_null():
    subject, sublayer = link(Recipe() | DropResidual("blocks[0]"), "blocks[0].attention")
    with subject, subject.in_dtype(torch.float64):
        x = sublayer.x
        moved = x + torch.arange(5.0)[None, :, None]
        assert (sublayer.segment(moved) - sublayer.segment(x)).abs().max() < 1e-13
        certificate = sublayer.judge_whole(1024)
        assert certificate.verdict == PROVED
        values = torch.linalg.svdvals(whole_jacobian(sublayer.segment, x))
        assert int((values < 1e-12).sum()) >= 5
        assert certificate.numbers["smallest_beside_null"] == pytest.approx(float(values[-6]))


def test_a_normalisation_without_eps_bounds_nothing():
    model = tiny_vit()
    model.blocks[0].norm2.eps = 0.0
    with surgeon.operate(model, Recipe(), input_size=SIZE) as subject:
        segment = subject.segment(subject.anatomy.select("blocks[0].residual1")[0], "blocks[0].mlp")
        assert facts_of(segment, torch.ones(1, 5, 8)).bounded_branch == ""


def steep(scale):
    """A ViT whose first mlp turns a token's own direction against itself."""
    model = tiny_vit()
    with torch.no_grad():
        first, _, second = model.blocks[0].mlp
        first.weight.zero_(), first.bias.fill_(5.0), second.weight.zero_()
        first.weight[:8] = 0.1 * torch.eye(8)
        second.weight[:, :8] = torch.diag(torch.tensor([-scale] + [0.0] * 7))
    return model


def test_a_negative_determinant_is_a_proof_only_with_the_norm():
    for operations, verdict in (([], PROVED), ([Bypass("blocks[0].norm2")], INJECTIVE)):
        recipe = Recipe()
        for operation in operations:
            recipe = recipe | operation
        with surgeon.operate(steep(100.0), recipe, input_size=SIZE) as subject:
            site = subject.anatomy.select("blocks[0].mlp")[0]
            sublayer = Sublayer(subject, site, torch.rand(1, *SIZE, generator=generator()))
            found = sublayer.judge_tokens([1, 2])
            assert [c.verdict for c in found] == [verdict] * 2
            assert [c.numbers["determinant_sign"] for c in found] == [-1, -1]


def test_what_a_determinant_proves_is_found_and_degrees_add_up_to_one():
    """A token of a tiny ViT with negative sign: others are found, and the signs of all sum to 1."""
    with surgeon.operate(tiny_vit(2), Recipe(), input_size=SIZE) as subject:
        site = subject.anatomy.select("blocks[0].mlp")[0]
        sublayer = Sublayer(subject, site, torch.rand(1, *SIZE, generator=generator()))
        certificates = sublayer.judge_tokens(list(range(5)))
        assert [c.verdict == PROVED for c in certificates] == [False, False, False, True, False]
        others = sublayer.search(3, 200)
        points = torch.cat([sublayer.x[:, [3]], *(o.x for o in others)])
        with subject.in_dtype(torch.float64):
            value = sublayer.segment(points)
            found = token_jacobians(sublayer.segment, points.reshape(1, len(points), -1))
    assert (value - value[:1]).norm(dim=-1).max() < 1e-11 * value[0].norm()
    assert len(others) >= 2
    assert sum(s.sign for s in spectra(found)) == 1


# --- spectra


def test_token_spectra_against_dense_svd():
    """Width 64, 17 tokens; the plain reference is reverse mode, a token at a time."""
    model = tiny_vit(width=64, patch=4)
    with surgeon.operate(model, Recipe(), input_size=SIZE) as subject:
        site = subject.anatomy.select("blocks[0].mlp")[0]
        sublayer = Sublayer(subject, site, torch.rand(1, *SIZE, generator=generator()))
        found = [c.numbers for c in sublayer.judge_tokens(list(range(17)))]
        x = sublayer.x[0]
    block = model.blocks[0].double()
    for token, numbers in zip(x, found, strict=True):
        reference = torch.autograd.functional.jacobian(
            lambda v: v + block.mlp(block.norm2(v)), token
        )
        values = torch.linalg.svdvals(reference)
        assert numbers["largest"] == pytest.approx(float(values[0]), rel=1e-9)
        assert numbers["smallest"] == pytest.approx(float(values[-1]), rel=1e-9)
        assert numbers["determinant_sign"] == int(torch.linalg.det(reference).sign())


def test_the_determinants_sign_is_silent_within_its_margin():
    near = torch.diag(torch.tensor([1.0, 1.0, -0.5 * thresholds.DETERMINANT_MARGIN])).double()
    clear = torch.diag(torch.tensor([1.0, 1.0, -2 * thresholds.DETERMINANT_MARGIN])).double()
    assert [s.sign for s in spectra(torch.stack([near, clear]))] == [0, -1]
    assert judge_spectrum(spectra(near[None])[0], BOUNDED).verdict == ILL
    assert judge_spectrum(spectra(clear[None])[0], BOUNDED).verdict == PROVED


# --- counting


@pytest.mark.parametrize(
    ("model", "options", "elements_in", "elements_out", "prefix", "proof"),
    [
        ("torchvision/vit_b_32", {}, 150_528, 38_400, 768, True),
        ("torchvision/vit_l_16", {"image_size": 512}, 786_432, 1_049_600, 1_024, False),
        ("timm/mixer_l16_224", {}, 150_528, 200_704, 0, False),
    ],
)  # fmt: skip
def test_counting(model, options, elements_in, elements_out, prefix, proof):
    spec = ModelSpec(model, options=options)
    side = round((elements_in / 3) ** 0.5)
    anatomy = surgeon.anatomy(meta_model(spec), input_size=(3, side, side))
    found = count(anatomy, anatomy.select("blocks[0]")[0])
    assert (found.elements_in, found.elements, found.prefix) == (elements_in, elements_out, prefix)
    assert (counting_proof([found]) is not None) == proof


def test_everything_passes_through_a_narrow_stem():
    with surgeon.operate(tiny_vit(), Recipe(), input_size=SIZE) as subject:
        counts = narrows(subject, subject.anatomy.select("blocks[1]")[0])
    assert [c.site for c in counts][0] == "stem"
    assert [c.elements for c in counts] == [32, 40, 40, 40, 40, 40]
    assert counting_proof(counts).numbers == {"elements_in": 768, "elements_out": 32}


# --- collisions


def test_a_collision_inside_the_cube():
    image = torch.rand(1, *SIZE, generator=generator())
    image[..., :8, :8] = 0.0  # a black patch: every pixel of it can only go up
    with surgeon.operate(tiny_vit(), Recipe(), input_size=SIZE) as subject:
        weight, site = stem_matrix(subject), subject.anatomy.select("blocks[1]")[0]
        other = second_image(weight, image)
        pair = examine(subject, site, image.double(), other)
        assert pair.verified
        assert pair.least >= 0
        assert pair.most <= 1
        assert pair.psnr < 8
        nudged = other.clone()
        nudged[0, 0, 0, 0] += 1e-5
        assert not examine(subject, site, image.double(), nudged).verified
        certificate, values = judge_from_pixels(
            subject, site, image, dense=1024, stem=judge_stem(subject), pair=pair
        )
    assert certificate.verdict == PROVED
    assert certificate.evidence[0].kind == "counting"
    assert len(values) == 768


def test_a_pair_is_changed_in_as_many_patches_as_float32_allows(monkeypatch):
    with surgeon.operate(tiny_vit(side=64), Recipe(), input_size=(3, 64, 64)) as subject:
        image = torch.rand(1, 3, 64, 64, generator=generator())
        weight, site = stem_matrix(subject), subject.anatomy.select("blocks[0]")[0]
        whole = second_image(weight, image)
        assert torch.equal(within_rounding(subject, [site], image, whole, weight), whole)
        level = examine(subject, site, image.double(), whole).output_fast
        monkeypatch.setattr(thresholds, "COLLISION_SINGLE", 0.8 * level)
        assert not examine(subject, site, image.double(), whole).verified
        less = within_rounding(subject, [site], image, whole, weight)
        pair = examine(subject, site, image.double(), less)
        assert pair.output_fast <= 0.8 * level
        assert pair.psnr <= thresholds.APART_PSNR
        patches = [F.unfold(x.double(), (8, 8), stride=8)[0] for x in (image, whole, less)]
        kept, changed = ((patches[2] == p).all(0) for p in patches[:2])
        assert bool((kept | changed).all())
        assert 10 < int(changed.sum()) < 64
        monkeypatch.setattr(thresholds, "COLLISION_SINGLE", 1e-12)  # out of reach
        assert torch.equal(within_rounding(subject, [site], image, whole, weight), whole)


def test_a_stem_that_passes_everything_gives_no_pair():
    weight = torch.linalg.qr(normal(12, 12))[0].reshape(12, 3, 2, 2)
    assert second_image(weight, torch.rand(1, 3, 4, 4)) is None


def test_batch_norm_with_a_zero_channel():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.norm = nn.BatchNorm2d(4)
            self.out = nn.Conv2d(4, 8, 1)

        def forward(self, x):
            return self.out(self.norm(self.stem(x)))

    model = Net().eval()
    with torch.no_grad():
        model.norm.weight[2] = 0
    with surgeon.operate(model, Recipe(), input_size=(3, 4, 4)) as subject:
        stem, out = (subject.anatomy.select(f"path:{p}")[0] for p in ("stem", "out"))
        facts = facts_of(subject.segment(stem, out), torch.ones(1, 4, 4, 4))
    assert facts.null_dimensions == 1


# --- real sizes


@pytest.mark.slow
def test_untrained_b32():
    """The stem, a pair at the first and the last block, per-token spectra against reverse mode."""
    recipe = Recipe(ModelSpec("torchvision/vit_b_32", seed=0))
    model = recipe.load()
    with surgeon.operate(model, recipe) as subject:
        photo = load_photos("surgeon:chelsea", subject.preprocessing)[0].pixels
        stem = judge_stem(subject)
        assert stem.verdict == PROVED
        assert stem.numbers["elements_out"] == 768
        other = second_image(stem_matrix(subject), photo)
        for name in ("blocks[0]", "blocks[11]"):
            pair = examine(subject, subject.anatomy.select(name)[0], photo.double(), other)
            assert pair.psnr <= 15
            assert pair.output_double <= 1e-10
            assert pair.output_single <= 1e-6
            assert pair.least >= 0
            assert pair.most <= 1
        sublayer = Sublayer(subject, subject.anatomy.select("blocks[0].mlp")[0], photo)
        token = sublayer.order()[0]
        found = sublayer.judge_tokens([token])[0].numbers
        x = sublayer.x[0, token]
        with subject.in_dtype(torch.float64, sublayer.segment.parameters):
            block = model.encoder.layers[0]
            rows = torch.func.vmap(torch.func.vjp(lambda v: v + block.mlp(block.ln_2(v)), x)[1])(
                torch.eye(768).double()
            )[0]
        values = torch.linalg.svdvals(rows)
        assert found["largest"] == pytest.approx(float(values[0]), rel=1e-2)
        assert found["smallest"] == pytest.approx(float(values[-1]), rel=1e-2)


def test_jacobians_of_some_tokens_are_those_of_all():
    subject, sublayer = link(Recipe(), "blocks[0].mlp")
    with subject, subject.in_dtype(torch.float64):
        everything = token_jacobians(sublayer.segment, sublayer.x)
        some = token_jacobians(sublayer.segment, sublayer.x[:, [3, 1]])
    assert torch.allclose(everything[[3, 1]], some, atol=1e-14)


# --- rank collapse


@pytest.mark.parametrize("share", [0.5, 0.1, 1e-3])
def test_averaging_brings_tokens_nearer_by_its_second_eigenvalue(share):
    """Layer after layer of attention that mixes each token with the mean of all."""
    x = normal(1, 7, 5) + 1
    mean = x.mean(1, keepdim=True)
    away, level = (x - mean).norm(), mean.norm() * math.sqrt(7)
    for depth in range(1, 4):
        x = share * x + (1 - share) * x.mean(1, keepdim=True)
        wanted = away * share**depth / torch.hypot(away * share**depth, level)
        assert tokens_apart(x) == pytest.approx(float(wanted), rel=1e-6)
    assert 1 <= stable_rank(x) <= 1 + (5 * tokens_apart(x)) ** 2


def test_the_stable_rank_of_known_tokens():
    assert stable_rank(torch.ones(1, 4, 6)) == pytest.approx(1)
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))[None]) == pytest.approx(1.5)
    assert stable_rank(torch.zeros(1, 3, 3)) == tokens_apart(torch.zeros(1, 3, 3)) == 0
