"""The selector language: what parses, what matches, what a miss says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgeon.anatomist.selectors import Step, parse_role
from surgeon.errors import SelectionError
from surgeon.testing import tiny_vit_anatomy

ANATOMY = tiny_vit_anatomy()


def names(selector):
    return [site.name for site in ANATOMY.select(selector)]


def test_roles_select_in_order_of_execution():
    assert names("stem") == ["stem"]
    assert names("blocks[*].residual1") == ["blocks[0].residual1", "blocks[1].residual1"]
    assert names(["head", "stem", "blocks[-1].mlp"]) == ["stem", "blocks[1].mlp", "head"]


def test_mixer_is_an_alias_of_attention():
    assert names("blocks[*].mixer") == names("blocks[*].attention")
    assert names("blocks[*].sublayers[0]") == names("blocks[*].attention")


def test_roles_win_over_paths():
    assert ANATOMY.select("head")[0].role == "head"
    assert ANATOMY.select("path:head")[0].role is None
    assert ANATOMY.select("blocks.0.attn")[0].path == "blocks.0.attn"


def test_globs_only_after_path():
    assert names("path:blocks.?.attn.qkv") == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    assert len(ANATOMY.select("path:*.weight")) == 15
    with pytest.raises(SelectionError, match="matches none"):
        ANATOMY.select("blocks.*.attn.qkv")


def test_a_site_selected_twice_is_there_once():
    assert names(["blocks[0]", "blocks[*]"]) == ["blocks[0]", "blocks[1]"]


def test_selection_is_a_value():
    selection = ANATOMY.select("blocks[*].mlp")
    assert len(selection) == 2
    assert selection[1].role == "blocks[1].mlp"
    assert len(selection[:1]) == 1
    assert str(selection).splitlines()[0] == "blocks[*].mlp: 2 sites"


@pytest.mark.parametrize(
    ("selector", "hint"),
    [
        ("blocks[7]", "blocks["),
        ("blocks[0].attn", "attention"),
        ("blokcs[0]", "blocks[0]"),
        ("steam", "stem"),
        ("blocks.0.atn", "blocks.0.attn"),
        ("path:nothing*", "patch_embed"),
        ("", "blocks[0]"),
        ("blocks[a]", "integer"),
        ("blocks[0][1]", ""),
        ("stem[0]", "integer"),
        ("blocks[::0]", "integer"),
        ("stages[0].stem", ""),
    ],
)
def test_a_miss_says_three_lines_and_the_nearest(selector, hint):
    with pytest.raises(SelectionError) as error:
        ANATOMY.select(selector)
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["asked", "found", "try"]
    assert hint in lines[2]


index = st.one_of(st.none(), st.integers(-4, 4))


@given(index, index, st.one_of(st.none(), st.integers(-3, 3).filter(bool)))
def test_slices_are_pythons(first, last, step):
    text = ":".join("" if n is None else str(n) for n in (first, last, step))
    steps = parse_role(f"blocks[{text}]")
    items = list(range(7))
    assert steps is not None
    assert steps[0].index.of(items) == items[slice(first, last, step)]


@given(st.integers(-9, 9))
def test_integers_are_pythons_and_misses_are_empty(number):
    items = list(range(4))
    (step,) = parse_role(f"blocks[{number}]")
    expected = [items[number]] if -4 <= number < 4 else []
    assert step.index.of(items) == expected


@given(st.text(max_size=30))
def test_any_text_parses_or_is_refused_in_three_lines(text):
    try:
        steps = parse_role(text)
    except SelectionError as error:
        assert str(error).count("\n") == 2
    else:
        assert steps is None or all(isinstance(step, Step) for step in steps)


@given(st.text("blocks[]stem.0123*:-attnmlp", max_size=24))
def test_select_never_fails_otherwise(text):
    try:
        assert len(ANATOMY.select(text)) > 0
    except SelectionError as error:
        assert str(error).count("\n") == 2
