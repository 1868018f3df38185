"""States, run folders, pictures, the host."""

from __future__ import annotations

import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

import surgeon
from surgeon import Recipe, Truncate
from surgeon.errors import ProbeError, RunError
from surgeon.probe import GeneratorProbe, Result
from surgeon.registry import registry
from surgeon.runs.pictures import Curves, Panel, Sheet, draw_sheet
from surgeon.runs.state import pack, unpack
from surgeon.runs.store import write_run
from surgeon.testing import assert_restores

leaf = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=4),
    st.builds(lambda n: torch.arange(n), st.integers(0, 3)),
)  # fmt: skip
tree = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.integers(0, 9), st.text(max_size=3)), inner, max_size=3),
    ),
    max_leaves=8,
)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        same = type(a) is type(b) and len(a) == len(b)
        return same and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b and type(a) is type(b)


@given(tree)
def test_pack_there_and_back(made):
    flat = pack(made, "state")
    assert all(isinstance(v, (str, torch.Tensor)) for v in flat.values())
    assert equal(unpack(flat, "state"), made)


def test_pack_refuses_what_no_file_can_hold():
    with pytest.raises(TypeError, match="object"):
        pack({"a": object()}, "state")


@pytest.fixture
def result():
    return Result(
        probe="invert",
        figures={"stem": {"psnr": 3.0}},
        images={"stem": torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))},
        curves={"loss": [(1, 2.0), (2, 1.0)]},
        log=[{"step": 1}],
        record={"recipe": "abc", "recipe_toml": "schema = 1\n"},
        timing={"seconds": 1.0},
    )


def test_a_run_folder_holds_everything(tmp_path, result):
    folder = write_run(result, tmp_path / "run")
    assert sorted(p.name for p in folder.iterdir()) == [
        "invert.png", "metrics.jsonl", "recipe.toml", "report.html", "result.safetensors",
        "run.json", "timing.json",
    ]  # fmt: skip
    assert json.loads((folder / "run.json").read_text())["figures"] == result.figures
    assert torch.equal(
        load_file(folder / "result.safetensors")["image/stem"], result.images["stem"]
    )
    with Image.open(folder / "invert.png") as picture:
        assert picture.info["Recipe"] == "abc"


def test_a_run_is_never_overwritten_unless_told(tmp_path, result):
    folder = write_run(result, tmp_path / "run")
    with pytest.raises(RunError, match="already holds a run"):
        write_run(result, folder)
    write_run(result, folder, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="no run"):
            write_run(result, tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_overwriting_removes_nothing_but_a_run(tmp_path, result):
    """A checkpoint, or a run, with anything else beside it: not Surgeon's to empty."""
    for mark in ("checkpoint.safetensors", "run.json"):
        folder = tmp_path / mark
        folder.mkdir()
        (folder / mark).write_bytes(b"{}")
        (folder / "thesis.tex").write_text("precious")
        with pytest.raises(RunError, match=r"thesis\.tex"):
            write_run(result, folder, overwrite=True)
        assert (folder / "thesis.tex").read_text() == "precious"
        (folder / "thesis.tex").unlink()
        (folder / "holiday.png").write_bytes(b"no picture of a run")
        with pytest.raises(RunError, match=r"holiday\.png"):
            write_run(result, folder, overwrite=True)
        (folder / "holiday.png").unlink()
        write_run(result, folder, overwrite=True)
    result.probe = "gone"  # of a plugin that is no longer installed
    write_run(result, folder, overwrite=True)
    write_run(result, folder, overwrite=True)


def test_numbers_that_json_has_no_words_for(tmp_path, result):
    result.figures["stem"]["psnr"] = float("inf")
    result.tables = {"t": [{"x": float("nan")}]}
    result.log = [{"step": 1, "loss": float("-inf")}, {"step": 2, "loss": 0.5}]
    result.timing = {"seconds": float("nan")}
    folder = write_run(result, tmp_path / "run")

    def refuse(word):
        raise AssertionError(word)

    record = json.loads((folder / "run.json").read_text(), parse_constant=refuse)
    assert record["figures"]["stem"]["psnr"] is None
    assert record["tables"]["t"] == [{"x": None}]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse)["loss"] for line in lines] == [None, 0.5]


def test_a_run_says_which_weights_it_had(tmp_path):
    """Buffers count; of a donor file its header and the tensors taken, and no others."""
    from safetensors.torch import save_file

    from surgeon import Swap
    from surgeon.recipe import ModelSpec
    from surgeon.runs.records import donor_hashes, weights_digest

    name = "surgeon/resnet_fashion"

    def record(change):
        state = ModelSpec(name, seed=3)
        tensors = Recipe(state).load().state_dict()
        change(tensors)
        save_file(tensors, tmp_path / "d.safetensors")
        recipe = Recipe(name, donors={"d": ModelSpec(name, str(tmp_path / "d.safetensors"))})
        recipe = recipe | Swap("blocks[1].norm1", donor="d")
        with surgeon.operate(recipe.load(), recipe) as subject:
            return donor_hashes(subject)["d"], weights_digest(subject)

    plain = record(lambda tensors: None)
    anatomy = surgeon.anatomy(Recipe(name).load())
    taken = anatomy.parameters_of(anatomy.select("blocks[1].norm1")[0])
    norm = next(n for n in taken if "running_mean" in n)
    buffer = record(lambda tensors: tensors[norm].add_(1))
    assert buffer[1] != plain[1]
    assert buffer[0]["tensors"] != plain[0]["tensors"]
    left = next(n for n in anatomy.graph.parameters if n not in taken)
    unused = record(lambda tensors: tensors[left].add_(1))
    assert unused == plain
    other = record(lambda tensors: tensors.update(more=torch.zeros(1)))
    assert other[0]["header"] != plain[0]["header"]
    assert other[0]["tensors"] == plain[0]["tensors"]


def test_a_checkpoint_that_cannot_be_written_masks_nothing(vit, images, tmp_path, monkeypatch):
    from surgeon.recipe_file import checked_settings
    from surgeon.runs.host import checkpoint_of

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    recipe = Recipe() | Truncate("stem")
    with surgeon.operate(vit, recipe, input_size=(3, 16, 16)) as subject:
        saver = checkpoint_of(
            tmp_path / "run", "invert", subject, recipe, checked_settings("invert", {})
        )
        saver._due = float("inf")
        monkeypatch.setattr("surgeon.runs.checkpoints.atomic_write", full)

        class Stop:
            def update(self, step):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as ended:
            surgeon.run_probe(
                "invert", subject, image=images[:1], checkpoint=saver, progress=Stop()
            )
    assert "No space left" in ended.value.__notes__[0]


def test_resume_refuses_other_weights(tmp_path):
    from safetensors.torch import save_file

    from surgeon.recipe import ModelSpec
    from surgeon.recipe_file import checked_settings
    from surgeon.runs.host import checkpoint_of

    name = "surgeon/resnet_fashion"
    state = Recipe(name).load().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    recipe = Recipe(ModelSpec(name, str(tmp_path / "w.safetensors"))).updated(
        input=surgeon.recipe.InputSpec("surgeon:coffee"), probes={"invert": {"steps": 20}}
    )

    class Stop:
        def update(self, step):
            raise KeyboardInterrupt

    with surgeon.operate(recipe.load(), recipe) as subject:
        saver = checkpoint_of(
            tmp_path / "run", "invert", subject, recipe, checked_settings("invert", {"steps": 20})
        )
        with pytest.raises(KeyboardInterrupt):
            surgeon.run_probe("invert", subject, checkpoint=saver, progress=Stop())
    moved = {k: v + 1 if "running_mean" in k else v for k, v in state.items()}
    save_file(moved, tmp_path / "w.safetensors")
    with pytest.raises(RunError, match="other weights"):
        surgeon.resume(tmp_path / "run")
    save_file(state, tmp_path / "w.safetensors")
    assert surgeon.resume(tmp_path / "run").figures


def test_a_runs_recipe_repeats_it(tmp_path):
    """Image and settings given in Python stand in the recipe that is written."""
    from surgeon_cli.app import main

    recipe = Recipe("surgeon/vit_fashion", seed=3, probes={"other": {}}) | Truncate("blocks[1]")
    with surgeon.operate(recipe.load(), recipe) as subject:
        surgeon.run_probe(
            "invert",
            subject,
            image="surgeon:rocket",
            steps=4,
            seeds=[5],
            sites=["stem", "blocks[0]"],
        ).save("first")
    assert main(["apply", "first/recipe.toml", "--out", "second"]) == 0
    for file in sorted(p.name for p in (tmp_path / "first").iterdir()):
        if file != "timing.json":
            first, second = (tmp_path / run / file for run in ("first", "second"))
            assert first.read_bytes() == second.read_bytes(), file


def test_a_recipes_settings_hold_in_python_too(vit, images):
    recipe = Recipe(probes={"invert": {"steps": 3}}) | Truncate("stem")
    with surgeon.operate(vit, recipe, input_size=(3, 16, 16)) as subject:
        result = surgeon.run_probe("invert", subject, image=images[:1])
        assert result.record["settings"]["steps"] == 3
        assert surgeon.run_probe("invert", subject, image=images[:1], steps=2).record["settings"][
            "steps"] == 2  # fmt: skip


def test_a_probes_selector_names_file_line_and_key():
    text = '[model]\nname = "surgeon/vit_fashion"\n[input]\nimage = "surgeon:coffee"\n'
    recipe = Recipe.from_toml(text + '[probes.invert]\nsites = "blocks[9]"\n', source="my.toml")
    with surgeon.operate(recipe.load(), recipe) as subject:
        with pytest.raises(
            surgeon.errors.SelectionError, match=r"my\.toml, line 6, probes\.invert\.sites"
        ):
            surgeon.run_probe("invert", subject)
        with pytest.raises(surgeon.errors.SelectionError) as error:
            surgeon.run_probe("invert", subject, sites="blocks[8]")
        assert "my.toml" not in str(error.value)


def test_a_full_disk_leaves_nothing(tmp_path, result, monkeypatch):
    import surgeon.runs.store as store

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_json", full)
    with pytest.raises(RunError, match="No space left"):
        write_run(result, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_run_that_was_there(tmp_path, result, monkeypatch):
    import surgeon.runs.store as store

    folder = write_run(result, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_tensors", full)
    with pytest.raises(RunError, match="No space left"):
        write_run(result, folder, overwrite=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path, result):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(RunError, match="Permission"):
        write_run(result, tmp_path / "locked" / "run")


def test_a_file_in_the_way(tmp_path, result):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunError, match="is a file"):
        write_run(result, tmp_path / "run")
    with pytest.raises(RunError):
        write_run(result, tmp_path / "run" / "below")


def test_the_same_picture_has_the_same_bytes(tmp_path, result):
    first = write_run(result, tmp_path / "a") / "invert.png"
    second = write_run(result, tmp_path / "b") / "invert.png"
    assert first.read_bytes() == second.read_bytes()


def test_pictures_of_any_number_of_panels():
    image = torch.rand(1, 1, 8, 8)
    curve = Curves({"a": [(1, 1.0), (2, 0.5)], "b": []}, "x", "y", level=(0.7, "level"))
    for rows in ([], [[Panel(image, "one", "a\nb")]], [[Panel(image, "x")] * 7] * 2):
        for curves in ((), (curve,), (curve, curve)):
            figure = draw_sheet(Sheet("title", rows, curves))
            assert len(figure.axes) == sum(map(len, rows)) + len(curves)


class Brightness(GeneratorProbe):
    """How bright is the operated output? A probe as short as one can be."""

    def run(self, subject, inputs, settings):
        result = Result()
        for photo in inputs.photos:
            out = subject(photo.pixels)
            result.figures[photo.name] = {"mean": float(out.mean())}
            result.images[photo.name] = photo.pixels
            yield {"photo": photo.name}
        return result


class Plugin:
    @staticmethod
    @surgeon.hookimpl
    def register_probes(register):
        register(
            "brightness", "test_runs:Brightness", settings="surgeon_invert.settings:InvertSettings"
        )


def test_a_probe_written_as_a_generator(vit, monkeypatch, images):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    registry().register("mine", Plugin(), "tests 1")
    try:
        with (
            assert_restores(vit),
            surgeon.operate(vit, Recipe() | Truncate("stem"), input_size=(3, 16, 16)) as subject,
        ):
            result = surgeon.run_probe("brightness", subject, image=images)
            assert list(result.metrics) == ["image0", "image1", "image2"]
            assert [line["photo"] for line in result.log] == list(result.metrics)
            assert len(result.figure().axes) == 3
    finally:
        registry().unregister("mine")


def test_the_host_refuses_what_it_does_not_know(vit, images):
    with surgeon.operate(vit, Recipe(), input_size=(3, 16, 16)) as subject:
        with pytest.raises(ProbeError, match="invert"):
            surgeon.run_probe("invrt", subject, image=images)
        with pytest.raises(ProbeError, match="steps"):
            surgeon.run_probe("invert", subject, image=images, stepz=3)
        with pytest.raises(ProbeError, match="steps"):
            surgeon.run_probe("invert", subject, image=images, steps="many")
        with pytest.raises(ProbeError, match="takes"):
            surgeon.run_probe("invert", subject, image=torch.rand(3, 9, 9))
        with pytest.raises(ProbeError, match="no image"):
            surgeon.run_probe("invert", subject)


@pytest.mark.parametrize("write", [0.001, 0.05, 2.0])
def test_checkpoints_take_under_one_percent_of_a_run(write, tmp_path, monkeypatch):
    from surgeon.runs import checkpoints

    now = 0.0

    def slow(*_, **__):
        nonlocal now, spent
        now, spent = now + write, spent + write

    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    monkeypatch.setattr(checkpoints, "atomic_write", slow)
    spent, saver = 0.0, checkpoints.Checkpointer(tmp_path, {})
    for _ in range(20_000):
        now += 0.1
        saver.after_step({}, [])
        assert spent <= max(0.01 * now, write)  # the first one's time is not known before
    assert 0.005 * now <= spent <= 0.01 * now
