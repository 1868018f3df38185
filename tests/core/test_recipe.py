"""Recipes: composing, identity, TOML there and back, and what a wrong one says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgeon import Ablate, Bypass, DropResidual, ModelSpec, Only, Recipe, Reinit, Swap, Truncate
from surgeon.errors import RecipeError
from surgeon.recipe import InputSpec

selector = st.one_of(
    st.sampled_from(["stem", "blocks[*]", "blocks[-1].mlp", "blocks.0.attn"]),
    st.lists(st.sampled_from(["stem", "head"]), min_size=1, max_size=2).map(tuple),
)
expect = st.one_of(st.none(), st.integers(0, 99))
operation = st.one_of(
    st.builds(DropResidual, selector, expect=expect),
    st.builds(Bypass, selector, expect=expect),
    st.builds(Ablate, selector, expect=expect, value=st.sampled_from(["zero", "mean"])),
    st.builds(Reinit, selector, expect=expect, seed=st.integers(0, 9)),
    st.builds(Swap, selector, expect=expect, donor=st.just("timm/resnet18@a1_in1k")),
    st.builds(Only, selector),
    st.builds(Truncate, selector),
)
model = st.one_of(
    st.none(),
    st.builds(
        ModelSpec,
        st.sampled_from(["torchvision/vit_b_32", "timm/resnet18"]),
        st.one_of(st.none(), st.sampled_from(["IMAGENET1K_V1", 'we"ird\\path.pth'])),
        st.integers(0, 5),
        st.dictionaries(st.sampled_from(["img_size", "depth"]), st.integers(1, 9), max_size=2),
    ),
)
recipe = st.builds(
    lambda m, ops, i: Recipe(m, operations=ops, input=i, probes={"invert": {"steps": 3}}),
    model,
    st.lists(operation, max_size=4),
    st.builds(InputSpec, st.one_of(st.none(), st.text(min_size=1, max_size=8)), st.booleans()),
)


@given(recipe)
def test_toml_there_and_back(made):
    again = Recipe.from_toml(made.to_toml())
    assert again == made
    assert hash(again) == hash(made)
    assert again.operations == made.operations
    assert again.to_toml() == made.to_toml()


@given(recipe, operation)
def test_an_operation_more_is_another_recipe(made, more):
    longer = made | more
    assert longer != made
    assert longer.operations[:-1] == made.operations
    assert made | more == longer


def test_join_keeps_order_and_donors():
    first = Recipe("timm/resnet18") | Swap("stem", donor="timm/resnet18@a1_in1k")
    second = Recipe() | DropResidual("blocks[*]")
    joined = first | second
    assert [o.op for o in joined.operations] == ["swap", "drop_residual"]
    assert joined.donors["timm_resnet18_a1_in1k"].weights == "a1_in1k"
    assert joined.model == first.model


def test_donors_of_two_sources_are_two_donors():
    made = (
        Recipe("timm/resnet18")
        | Swap("stem", donor="torchvision/resnet18")
        | Swap("head", donor="timm/resnet18")
        | Swap("blocks[0]", donor="torchvision/resnet18")
    )
    assert [made.donors[o.donor].name for o in made.operations] == [
        "torchvision/resnet18", "timm/resnet18", "torchvision/resnet18",
    ]  # fmt: skip
    assert len(made.donors) == 2
    named = Recipe(donors={"mine": "timm/resnet18"}) | Swap("stem", donor="timm/resnet18")
    assert named.operations[0].donor == "mine"
    with pytest.raises(RecipeError, match="timm/a_b is"):
        Recipe() | Swap("stem", donor="timm/a_b") | Swap("stem", donor="timm/a.b")


def test_inputs_merge_field_by_field():
    raw = Recipe(input=InputSpec(normalize=False))
    photo = Recipe(input=InputSpec(image="a.png"))
    assert (raw | photo).input == (photo | raw).input == InputSpec("a.png", normalize=False)
    assert (photo | Recipe(input=InputSpec("b.png"))).input.image == "b.png"


def test_two_models_are_an_error():
    with pytest.raises(RecipeError, match="two different models"):
        Recipe("timm/resnet18") | Recipe("timm/resnet34")
    assert (Recipe("timm/resnet18") | Recipe("timm/resnet18")).model is not None


def test_one_donor_name_for_two_models_is_an_error():
    first = Recipe(donors={"a": "timm/resnet18"})
    with pytest.raises(RecipeError, match="rename"):
        first | Recipe(donors={"a": "timm/resnet34"})


def test_immutable():
    made = Recipe("timm/resnet18")
    with pytest.raises(AttributeError):
        made.model = None


GOOD = """\
schema = 1
[model]
name = "timm/resnet18"

[[operations]]
op = "bypass"
site = "blocks[1]"
[input]
normalize = false
[probes.invert]
steps = 3
"""

WRONG = [
    ('name = "timm/resnet18"', "name = 3", "line 3", "model.name", "string"),
    ('op = "bypass"', 'op = "bypas"', "line 6", "operations[0].op", "bypass"),
    ('site = "blocks[1]"', "site = 7", "line 7", "operations[0].site", "string"),
    ('site = "blocks[1]"', 'sight = "blocks[1]"', "line 7", "operations[0].sight", "site"),
    ('site = "blocks[1]"', "", "line 5", "operations[0].site", "missing"),
    ("[input]", "[inputs]", "line 8", "inputs", "input"),
    ("normalize = false", "normalise = false", "line 9", "input.normalise", "normalize"),
    ("normalize = false", 'normalize = "no"', "line 9", "input.normalize", "boolean"),
    ("[probes.invert]", "[probes.invrt]", "line 10", "invrt", "invert"),
    ("steps = 3", "step = 3", "line 11", "probes.invert.step", "steps"),
    ("steps = 3", "steps = -1", "line 11", "probes.invert.steps", "greater"),
    ("schema = 1", "schema = 2", "line 1", "schema", "schema = 1"),
]


@pytest.mark.parametrize(("old", "new", "line", "key", "hint"), WRONG)
def test_a_wrong_recipe_names_file_line_and_key(old, new, line, key, hint):
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    with pytest.raises(RecipeError) as error:
        Recipe.from_toml(text, source="my.toml")
    message = str(error.value)
    assert message.count("\n") == 2
    assert "my.toml" in message
    assert line in message
    assert key in message
    assert hint in message


PLANNED = """\
[model]
name = "surgeon/vit_fashion"
[[operations]]
op = "bypass"

site = "blocks[1].mlp"
[[operations]]
op = "truncate"
expect = 1
site = "blocks[3]"
"""
UNPLANNED = [
    ("blocks[1].mlp", "blocks[1].mpl", "line 6, operations[0].site, bypass"),
    ("blocks[1].mlp", "blocks[5].mlp", "line 6, operations[0].site, bypass"),
    ("expect = 1", "expect = 2", "line 9, operations[1].expect, truncate"),
    ("blocks[1].mlp", "stem", "line 3, operations[0], bypass"),
]


@pytest.mark.parametrize(("old", "new", "place"), UNPLANNED)
def test_what_cannot_be_planned_names_file_line_and_key(old, new, place):
    import surgeon

    made = Recipe.from_toml(PLANNED.replace(old, new), source="my.toml")
    with pytest.raises(surgeon.SurgeonError) as error:
        surgeon.plan(made.load(), made)
    assert f"(my.toml, {place})" in error.value.asked


def test_places_follow_their_operations():
    read = Recipe.from_toml(PLANNED, source="my.toml")
    longer = Recipe("surgeon/vit_fashion") | Bypass("blocks[0]") | read
    assert longer.place(("operations", 1, "site")) == "my.toml, line 6, operations[1].site"
    assert longer.place(("operations", 0, "site")) == "operations[0].site"
    other = longer.updated(operations=longer.operations[1:])
    assert other.place(("operations", 0, "site")) == "operations[0].site"
    assert longer == Recipe.from_toml(longer.to_toml())
    assert hash(read) == hash(Recipe.from_toml(PLANNED, source="other.toml"))


def test_a_program_that_cannot_be_made_names_its_operation(vit):
    """Bypassing a block of another shape fails where the program is worked out."""
    import surgeon
    from surgeon.surgery.edits import Skip

    class SkipStem:
        op, site, expect = "skip", "stem", None

        def resolve(self, anatomy, donors):
            return [Skip(anatomy.select("stem")[0])]

    made = Recipe() | Bypass("blocks[0]")
    object.__setattr__(made, "operations", (*made.operations, SkipStem()))
    with pytest.raises(surgeon.errors.PlanError, match=r"\(operations\[1\], skip\)"):
        surgeon.plan(vit, made, input_size=(3, 16, 16))


def test_an_override_is_named_instead_of_a_line(tmp_path):
    (tmp_path / "mine.toml").write_text(GOOD)
    made = Recipe.read(tmp_path / "mine.toml", ["probes.invert.sites=stm"])
    assert made.place(("probes", "invert", "sites")).startswith("--set probes.invert.sites=stm")


def test_only_counts_its_stop(vit):
    """`expect` guards the site named, not the blocks bypassed on the way."""
    import surgeon
    from surgeon.errors import SelectionError

    for op in (Only, Truncate):
        plan = surgeon.plan(vit, Recipe() | op("blocks[1]", expect=1), input_size=(3, 16, 16))
        assert plan.operations[0].sites == ("blocks[1]",)
        with pytest.raises(SelectionError, match="1 places"):
            surgeon.plan(vit, Recipe() | op("blocks[1]", expect=2), input_size=(3, 16, 16))
    assert "bypassed on the way: blocks[0]" in str(
        surgeon.plan(vit, Recipe() | Only("blocks[1]"), input_size=(3, 16, 16))
    )


def test_no_toml_at_all():
    with pytest.raises(RecipeError, match="line 1"):
        Recipe.from_toml("schema = = 1", source="my.toml")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("name = vit", "quote strings"),
        ("[model\nseed = 1", r"mend this line: \[model"),
        ('name = "', r'mend this line: name = "|the end of the file'),
    ],
)
def test_toml_that_does_not_parse_says_what_to_mend(text, hint):
    with pytest.raises(RecipeError, match=rf"try:   .*({hint})"):
        Recipe.from_toml(text, source="my.toml")


def test_a_misspelt_array_of_tables_has_its_line():
    text = GOOD.replace("[[operations]]", "[[operation]]")
    line = 1 + text.splitlines().index("[[operation]]")
    with pytest.raises(RecipeError, match=rf"my.toml, line {line}\b"):
        Recipe.from_toml(text, source="my.toml")


def test_a_donor_nobody_named(tmp_path):
    text = GOOD.replace('op = "bypass"', 'op = "swap"\ndonor = "trained"')
    with pytest.raises(RecipeError, match=r"line 7.*\n.*\n.*donors\.trained"):
        Recipe.from_toml(text)


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "mine.toml").write_text(GOOD)
    with pytest.raises(RecipeError, match=r"mine\.toml"):
        Recipe.read(tmp_path / "mien.toml")
    with pytest.raises(RecipeError, match="quickstart"):
        Recipe.read("surgeon:quickstrat")


def test_overrides(tmp_path):
    (tmp_path / "mine.toml").write_text(GOOD)
    made = Recipe.read(
        tmp_path / "mine.toml",
        ["probes.invert.steps=200", 'probes.invert.sites="blocks[0]"', "model.seed=4"],
    )
    assert made.probes["invert"] == {"steps": 200, "sites": "blocks[0]"}
    assert made.model.seed == 4
    bare = Recipe.read(tmp_path / "mine.toml", ["probes.invert.sites=stem"])
    assert bare.probes["invert"]["sites"] == "stem"


@pytest.mark.parametrize("override", ["steps", "=3", "schema.x=3", "probes.invert.stepz=3"])
def test_wrong_overrides(tmp_path, override):
    (tmp_path / "mine.toml").write_text(GOOD)
    with pytest.raises(RecipeError):
        Recipe.read(tmp_path / "mine.toml", [override])


def test_packaged_recipes_read():
    from surgeon.registry import registry

    for entry in registry().all("recipe"):
        made = Recipe.read(f"surgeon:{entry.name}")
        assert Recipe.from_toml(made.to_toml()) == made
