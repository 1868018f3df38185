"""Where surgery takes hold of a forward: shared modules, work in place, users' hooks, dead ends."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn

import surgeon
from surgeon import Ablate, Bypass, DropResidual, Only, Recipe, Replace, Swap, Truncate, fingerprint
from surgeon.errors import AnatomyError, PlanError
from surgeon.surgery.edits import TensorSource
from surgeon.testing import assert_restores, tiny_vit

SIZE = (3, 16, 16)


def operate(model, recipe, **options):
    return surgeon.operate(model, recipe, input_size=SIZE, **options)


def same(a, b):
    assert torch.equal(a, b), f"largest difference {(a - b).abs().max():.3g}"


class Block(nn.Module):
    """x + conv(act(norm(x))), with an activation that others may share."""

    def __init__(self, act):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 1), act, nn.Conv2d(4, 4, 1))
        self.act = act

    def forward(self, x):
        y = self.act(self.inner(self.norm(x)))
        return y + x


def convolutional(blocks):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), nn.Sequential(*blocks), nn.Flatten(), nn.Linear(64, 10)
    ).eval()


# --- stops and captures in what is bypassed


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe() | Bypass("blocks[0]") | Truncate("blocks[0].mlp"),
        Recipe() | Truncate("blocks[0].mlp") | Bypass("blocks[0]"),
    ],
    ids=str,
)
def test_a_stop_at_the_end_of_a_bypassed_block_is_its_input(vit, images, recipe):
    with operate(vit, recipe) as subject, torch.no_grad():
        assert subject.plan.output_shape == (1, 5, 8)
        tokens = vit.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([vit.cls_token.expand(3, -1, -1), tokens], 1) + vit.pos_embed
        same(subject.raw(images), tokens)


def test_only_a_part_of_a_bypassed_block(vit, images):
    with operate(vit, Recipe() | Only("blocks[1].mlp") | Bypass("blocks[1]")) as subject:
        assert subject.raw(images).shape == (3, 5, 8)


def test_a_capture_in_a_bypassed_block(vit, images):
    with operate(vit, Recipe() | Bypass("blocks[0]")) as subject:
        out = subject.capture(images, "blocks[0].residual2")["blocks[0].residual2"]
        same(out, subject.capture(images, "blocks[0]")["blocks[0]"])
        with pytest.raises(PlanError, match="bypassed"):
            subject.capture(images, "blocks[0].residual1")


def test_what_is_said_of_a_bypassed_block_is_void(vit, images):
    with torch.no_grad():
        with operate(vit, Recipe() | Bypass("blocks[0]")) as subject:
            expected = subject.raw(images)
        for other in (DropResidual("blocks[0]"), Ablate("blocks[0].mlp")):
            for recipe in (Recipe() | Bypass("blocks[0]") | other,
                           Recipe() | other | Bypass("blocks[0]")):  # fmt: skip
                with operate(vit, recipe) as subject:
                    same(subject.raw(images), expected)


# --- shared modules


def test_an_activation_shared_by_all_blocks(images):
    act = nn.GELU()
    model = convolutional([Block(act), Block(act)])
    recipe = Recipe() | DropResidual("blocks[1]")
    with torch.no_grad():
        x = model[1][0](model[0](images))
        second = model[1][1]
        expected = model[3](model[2](act(second.inner(second.norm(x)))))
        for _ in range(2):
            with assert_restores(model), operate(model, recipe) as subject:
                same(subject.raw(images), expected)
                same(subject.raw(images), expected)


# --- hooks of the user's


@pytest.mark.parametrize("before", [True, False])
def test_a_users_hook_with_an_add_of_its_own(vit, images, before):
    """Added before or after the operation, in front of the add that is dropped or behind."""
    recipe = Recipe() | DropResidual("blocks[0]")

    def add_hooks():
        block = vit.blocks[0]
        block.attn.register_forward_hook(lambda m, a, out: out + 0.5)
        block.norm2.register_forward_pre_hook(lambda m, a: (a[0] + 0.25,))

    def by_hand():
        block = vit.blocks[0]
        tokens = vit.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([vit.cls_token.expand(3, -1, -1), tokens], 1) + vit.pos_embed
        x = block.mlp(block.norm2(block.attn(block.norm1(x))))
        return vit.head(vit.norm(vit.blocks[1](x))[:, 0])

    with torch.no_grad():
        if before:
            add_hooks()
        with operate(vit, recipe) as subject:
            if not before:
                add_hooks()
            out = subject.raw(images)
        same(out, by_hand())


def test_a_look_does_not_run_users_hooks_nor_change_the_model():
    model, seen = tiny_vit(), []
    model.patch_embed.register_forward_hook(lambda m, a, out: seen.append(out))
    surgeon.anatomy(model, SIZE)
    assert not seen
    model = tiny_vit().to("meta").train()
    surgeon.anatomy(model, SIZE)
    assert model.training


def test_a_look_at_a_model_that_needs_values_leaves_its_statistics_alone():
    class Fussy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.conv = nn.Conv2d(3, 4, 4, 4)

        def forward(self, x):
            return self.conv(self.norm(x)) if float(x.sum()) == 0 else x

    model = Fussy().train()
    with assert_restores(model):
        surgeon.anatomy(model, SIZE)


# --- work in place


class InPlace(nn.Module):
    """A block that adds in place and goes on with the operand, not with what the add returns."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.conv(self.norm(x))
        y.add_(x)
        return y


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (DropResidual("blocks[1]"), lambda b, x: b.conv(b.norm(x))),
        (Bypass("blocks[1].sublayers[0]"), lambda b, x: x),
        (Ablate("blocks[1].sublayers[0]"), lambda b, x: x + 0 * b.conv(b.norm(x))),
        (Ablate("blocks[1].residual1"), lambda b, x: torch.zeros_like(x)),
    ],
    ids=["drop", "bypass", "ablate", "ablate the value"],
)
def test_an_add_in_place_whose_result_is_not_used(images, operation, expected):
    model = convolutional([InPlace(), InPlace()])
    with torch.no_grad():
        x = model[1][0](model[0](images))
        by_hand = model[3](model[2](expected(model[1][1], x)))
        with assert_restores(model), operate(model, Recipe() | operation) as subject:
            same(subject.raw(images), by_hand)
            site = subject.anatomy.select("blocks[1].residual1")[0]
            given = torch.randn(3, 4, 4, 4)
            out = subject.run(images, inject={site: given}).output
            if operation.op != "ablate":
                same(out, model[3](model[2](given)))


def test_a_write_through_a_view_is_seen():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.extra = nn.Linear(16, 16), nn.Linear(16, 16)
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            h = self.stem(x[:, 0])
            h[:, 0].add_(self.extra(x[:, 1])[:, 0])
            return self.head(h)

    torch.manual_seed(0)
    model, images = Writes().eval(), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(images)
        with operate(model, Recipe()) as subject:
            same(subject.raw(images), expected)
            head = subject.anatomy.select("head")[0]
            same(subject.capture(images, [head])[head], expected)


# --- what the forward returns, and whether it came to everything


def test_ablate_of_the_position_embedding_leaves_the_stream(vit, images):
    with torch.no_grad():
        with operate(vit, Recipe() | Bypass("pos_embed")) as subject:
            expected = subject.raw(images)
        with operate(vit, Recipe() | Ablate("pos_embed")) as subject:
            same(subject.raw(images), expected)


def test_a_capture_without_a_stop_returns_the_models_own_output(vit, images):
    with operate(vit, Recipe()) as subject, torch.no_grad():
        site = subject.anatomy.select("blocks[0].norm1")[0]
        same(subject.run(images, capture=[site]).output, vit(images))


def test_the_whole_models_output_is_a_site(vit, images):
    with operate(vit, Recipe() | DropResidual("blocks[0]")) as subject, torch.no_grad():
        site = subject.output
        same(subject.run(images, capture=[site], stop=site)[site], vit(images))


def test_a_model_that_swallows_the_stop_is_found_out(images):
    class Swallows(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = tiny_vit()

        def forward(self, x):
            try:
                return self.body(x)
            except Exception:
                return x.mean((2, 3))

    model = Swallows().eval()
    with operate(model, Recipe() | Truncate("blocks[0]")) as subject:
        with assert_restores(model), pytest.raises(AnatomyError, match="caught the signal"):
            subject.raw(images)


def test_a_capture_beyond_another_surgerys_stop_is_refused(vit, images):
    with operate(vit, Recipe() | Truncate("blocks[0]")):
        with operate(vit, Recipe()) as outer, pytest.raises(AnatomyError, match="never came to"):
            outer.capture(images, "blocks[1]")


def test_a_segment_that_does_not_hold_all_ways_is_refused(vit):
    with operate(vit, Recipe()) as subject, pytest.raises(PlanError, match="other ways"):
        subject.segment("blocks[0].norm1", "blocks[0].residual1")


def test_a_function_of_ones_own(vit, images):
    site = surgeon.anatomy(vit, SIZE).select("blocks[0].mlp")[0]
    halve = Replace(site, lambda branch: branch / 2, "branch")
    with torch.no_grad(), operate(vit, Recipe() | Truncate("blocks[0]"), edits=[halve]) as subject:
        out = subject.raw(images)
        block, x = vit.blocks[0], subject.run(images, stop=site, capture=()).output
        before = subject.capture(images, "blocks[0].residual1")["blocks[0].residual1"]
        same(out, before + block.mlp(block.norm2(before)) / 2)
        same(out, x)


Pair = namedtuple("Pair", ["value", "count"])


def test_structures_come_back_in_kind(images):
    """A module that returns a named tuple with a number in it, and one that returns a dict."""

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 4, 4)

        def forward(self, x):
            return Pair(self.conv(x), 3)

    class Names(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, pair):
            return OrderedDict(out=self.conv(pair.value) * pair.count)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = Counts(), Names(), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.head(self.second(self.first(x))["out"])

    torch.manual_seed(0)
    model = Whole().eval()
    with torch.no_grad(), operate(model, Recipe() | Ablate("second")) as subject:
        same(subject.raw(images), model.head(torch.zeros(3, 4, 4, 4)))
        second = subject.anatomy.select("second")[0]
        value = torch.rand(1, 4, 4, 4)
        out = subject.run(None, inject={second: value}).output
        same(out, model.head(value))


# --- several surgeries


def test_weights_put_back_under_another_surgery_are_frozen(vit, images):
    class Made:
        def tensors(self, donor, site, anatomy):
            return {
                n: TensorSource(anatomy.graph.parameters[n], lambda n=n: torch.ones(8))
                for n in anatomy.parameters_of(site)
            }

    before = fingerprint(vit)
    first = operate(vit, Recipe() | Swap("blocks[0].norm1", donor="timm/any"), donors=Made())
    second = operate(vit, Recipe() | DropResidual("blocks[0]"))
    first.remove()
    assert not any(p.requires_grad for p in vit.parameters())
    second.remove()
    assert fingerprint(vit) == before


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_stops_of_several_surgeries_come_off_in_any_order(vit, images, order):
    before = fingerprint(vit)
    with torch.no_grad():
        expected = vit(images)
    recipes = [Recipe() | Truncate("blocks[1]"), Recipe() | Bypass("blocks[0].mlp"),
               Recipe() | Truncate("blocks[0]")]  # fmt: skip
    subjects = [operate(vit, recipe) for recipe in recipes]
    assert subjects[2].raw(images).shape == (3, 5, 8)
    for number in order:
        subjects[number].remove()
        assert any(p.requires_grad for p in vit.parameters()) == (number == order[-1])
    assert fingerprint(vit) == before
    with torch.no_grad():
        same(vit(images), expected)
