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
        "invert.png", "metrics.jsonl", "recipe.toml", "result.safetensors", "run.json",
        "timing.json",
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
