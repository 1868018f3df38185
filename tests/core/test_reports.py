"""Reports as files: what is in them, what they refuse, whatever the figures and labels are."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_folders import EVIL, write_run, write_study

from surgeon.errors import RunError
from surgeon.probe import Result
from surgeon.reports import find_folders, write_report, write_run_report
from surgeon.reports.entries import curves_of, views_of
from surgeon.reports.images import ROOM, Album, as_pixels
from surgeon.reports.words import summary_of, text_of
from surgeon.runs.store import write_run as write_real_run

_VOID = {"meta", "link", "img", "input", "br", "circle", "path"}


class Page(HTMLParser):
    """Elements with their attributes, text outside of scripts; sees that tags are closed."""

    def __init__(self, path):
        super().__init__()
        self.open, self.elements, self.shown, self.scripts = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif self.open[-1:] != ["style"]:
            self.shown.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.shown).split())

    def having(self, **wanted):
        return [a for _, a in self.elements if all(a.get(k) == v for k, v in wanted.items())]

    def data(self, name):
        (text,) = [text for attributes, text in self.scripts if attributes.get("id") == name]
        return json.loads(text)


def test_a_study_is_told_whole(tmp_path):
    page = Page(write_report([write_study(tmp_path)], [], tmp_path / "r.html"))
    for text in ("One encoder alone", "Is every block as good?", "an untrained stem", "claim 1",
                 "sentence 2 of n 8", "4.50", "asked: a", "too deep to be of use", "left out",
                 "36 dB"):  # fmt: skip
        assert text in page.text, text
    cells = [a for a in page.having() if a.get("class", "").startswith("cell")]
    assert len(cells) == 8
    chips = [a for a in page.having() if a.get("data-verdict") and a.get("aria-pressed")]
    assert [a["data-verdict"] for a in chips] == [
        "confirmed", "refuted", "undecided", "not applicable",
    ]  # fmt: skip
    (section,) = page.data("data")["sections"]
    assert section["axes"][0] == {"name": "k", "labels": ["0", "1", "2", "10"]}
    assert section["shown"]["invert"][0] == "psnr"


def test_nothing_outside_is_asked_for(tmp_path):
    """No address anywhere but in the library's own comment, and a policy that allows none."""
    path = write_report([write_study(tmp_path)], [], tmp_path / "r.html")
    page = Page(path)
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    text = path.read_text()
    assert set(re.findall(r"https?://[^\s\"')]+", text)) == {"https://github.com/leeoniya/uPlot"}
    assert "@import" not in text
    assert "url(" not in text
    (policy,) = [a["content"] for a in page.having() if a.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert "script-src 'unsafe-inline'" not in policy


def test_texts_stay_texts(tmp_path):
    study = write_study(tmp_path, evil=True)
    run = write_run(tmp_path / "evil", {EVIL: {EVIL: EVIL}}, notes=[EVIL], model=EVIL,
                    tables={EVIL: [{EVIL: EVIL}]})  # fmt: skip
    (run / "recipe.toml").write_text(EVIL)
    page = Page(write_report([study], [run], tmp_path / "r.html", data=True))
    assert len(page.scripts) == 4
    assert not [a for a in page.having() if "onerror" in a or a.get("src") == "x"]
    assert EVIL in page.text
    assert page.data("data")["runs"][-1]["recipe"] == EVIL
    assert "49" not in page.text.split("&")[1][:30]


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just(EVIL),
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=12), st.dictionaries(st.text(max_size=12), ODD)),
       st.lists(st.dictionaries(st.text(max_size=6), ODD), max_size=4))  # fmt: skip
def test_any_figures_make_a_page(tmp_path_factory, figures, log):
    folder = tmp_path_factory.mktemp("run")
    record = {"probe": "x", "figures": figures, "tables": {"t": log}, "notes": list(figures)}
    (folder / "run.json").write_text(json.dumps(record))  # with NaN and Infinity, as Python reads
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    out = write_report([], [folder], folder / "r.html", data=True)
    (run,) = Page(out).data("data")["runs"]
    assert list(run["figures"]) == list(figures)
    rows = json.loads((folder / "r.json").read_text(), parse_constant=pytest.fail)
    assert len(rows) == max(1, len(figures))
    assert len(list(csv.reader((folder / "r.csv").read_text().splitlines(True)))) > 1


def test_the_same_folders_give_the_same_bytes(tmp_path):
    study = write_study(tmp_path)
    run = write_run(tmp_path / "run", {"stem": {"psnr": 1.0}})
    (run / "timing.json").write_text('{"seconds": 1.0}')
    first = write_report([study], [run], tmp_path / "r.html").read_bytes()
    (run / "timing.json").write_text('{"seconds": 2.0}')
    assert write_report([study], [run], tmp_path / "r.html").read_bytes() == first
    own = write_run_report(run).read_bytes()
    run.rename(tmp_path / "elsewhere")
    assert write_run_report(tmp_path / "elsewhere").read_bytes() == own
    again = write_report([], [tmp_path / "elsewhere"], tmp_path / "elsewhere" / "report.html")
    assert again.read_bytes() == own


def test_tables_beside_the_page(tmp_path):
    study = write_study(tmp_path)
    run = write_run(tmp_path / "run", {"stem": {"psnr": 1.0, "site": "odd"}})
    write_report([study], [run], tmp_path / "deep" / "all.html", data=True)
    rows = json.loads((tmp_path / "deep" / "all.json").read_text())
    assert rows[0]["labels"] == {"k": "0", "part": "as it is"}
    assert rows[0]["figures"]["psnr"] == 40.0
    assert rows[0]["run"] == "../store/00"
    table = list(csv.DictReader(io.StringIO((tmp_path / "deep" / "all.csv").read_text())))
    assert len(table) == len(rows) == 9
    assert table[0]["psnr"] == "40.0"
    assert table[3]["status"] == "failed"
    assert table[8]["site"] == "stem"
    assert table[8]["site (figure)"] == "odd"


def test_one_image_is_kept_once(tmp_path):
    study = write_study(tmp_path)
    page = Page(write_report([study, study], [], tmp_path / "r.html"))
    data = page.data("data")
    assert len(data["sections"]) == 2
    assert len(data["runs"]) == 6
    assert len(page.data("images")) == 6 * 4 + 1, "and the target once for all runs"
    uri = page.data("images")[0][0]
    assert uri.startswith("data:image/png;base64,")


def test_small_images_come_back_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    album = Album()
    number = album.add({"image/a": pixels})["image/a"]
    uri, width, height, small = album.pictures[number]
    with Image.open(io.BytesIO(__import__("base64").b64decode(uri.partition(",")[2]))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), pixels)
    assert (width, height, small) == (28, 28, True)


def test_images_of_many_runs_have_room():
    """Noise, which nothing compresses: what one run may take shrinks with their number."""
    random = np.random.default_rng(0)
    images = {f"image/{i}": random.integers(0, 256, (224, 224, 3), np.uint8) for i in range(3)}
    for runs, most in ((1, ROOM), (200, ROOM / 200)):
        album = Album(runs)
        album.add(images)
        assert 0 < sum(len(uri) for uri, *_ in album.pictures) <= most


@pytest.mark.parametrize("shape", [(1, 1, 4, 6), (3, 4, 6), (1, 2, 4, 6), (4, 4, 6)])
def test_pixels_of_any_channels(shape):
    array = np.full(shape, 0.5, np.float32)
    array.flat[0] = np.nan
    array.flat[-1] = 7.0
    pixels = as_pixels(array)
    assert pixels.dtype == np.uint8
    assert pixels.shape == ((4, 6, 3) if shape[-3] == 3 else (4, 6))
    assert pixels.flat[0] == 0
    assert pixels.flat[-1] in (128, 255)


def test_views_pair_what_belongs_together():
    images = {"image/stem, a, seed 1": 0, "image/stem, b, seed 1": 1, "target/a": 2, "target/b": 3,
              "start/seed 0": 4, "start/seed 1": 5}  # fmt: skip
    first, second = views_of({}, images)
    assert first["images"] == [["target", 2], ["start", 5], ["reconstruction", 0]]
    assert second["images"] == [["target", 3], ["start", 5], ["reconstruction", 1]]
    (alone,) = views_of({"Bag": {}, "Coat": {}}, {"image/Coat": 0, "image/Bag": 1})
    assert alone == {"sites": ["Bag", "Coat"], "images": [["Bag", 1], ["Coat", 0]]}
    photo, rest = views_of({"x": {}, "y": {}}, {"image/x": 0, "photo/x": 1})
    assert (photo["images"], rest["sites"]) == ([["photo", 1], ["x", 0]], ["y"])


def test_curves_of_logs():
    log = [{"step": i, "objective": {"Bag": i * 2.0, "Coat": None}, "photo": "cat"}
           for i in range(1, 1000)]  # fmt: skip
    found = curves_of(log)
    assert found["over"] == "step"
    (points,) = found["curves"]["objective"].values()
    assert points[0] == [1, 2.0]
    assert points[-1] == [999, 1998.0]
    assert len(points) <= 301
    assert curves_of([{"done": True}, {"done": False}])["curves"] == {}


def test_words_of_numbers():
    said = [text_of(v) for v in (0.0, -0.5, 1e5, 123.4, 1e-9, math.nan, math.inf, 3, 5e-324)]
    assert said == ["0", "-0.500", "100000", "123", "1e-9", "–", "–", "3", "4.94e-324"]
    assert text_of(True) == "yes"
    rows = [{"v": "a"}, {"v": "b"}, {"v": "a"}, {"v": None}, {}]
    assert summary_of(rows, "v") == "a ×2, b"


def test_bad_folders_are_told_in_three_lines(tmp_path):
    def refused(*folders):
        with pytest.raises(RunError) as caught:
            write_report(*find_folders(folders), tmp_path / "r.html")
        assert len(str(caught.value).splitlines()) == 3
        assert not (tmp_path / "r.html").exists()
        return str(caught.value)

    good = write_run(tmp_path / "good", {"stem": {}})
    assert "good" in refused(tmp_path / "god")
    (tmp_path / "empty").mkdir()
    assert "neither" in refused(good, tmp_path / "empty")
    (tmp_path / "empty" / "checkpoint.safetensors").touch()
    assert "surgeon resume" in refused(tmp_path / "empty")
    assert "it is a file" in refused(good / "run.json")
    (good / "result.safetensors").write_bytes(b"no tensors")
    assert "result.safetensors can't be read" in refused(good)
    for text in ("{", "[]"):
        (good / "run.json").write_text(text)
        assert "run.json" in refused(good)


def test_a_folder_of_runs_stands_for_them(tmp_path):
    for name in ("10", "b", "2", "a"):
        write_run(tmp_path / "runs" / name, {"stem": {}})
    (tmp_path / "runs" / "notes").mkdir()
    studies, runs = find_folders([tmp_path / "runs", tmp_path / "runs" / "a"])
    assert (studies, [run.name for run in runs]) == ([], ["2", "10", "a", "b"])


def test_a_cell_whose_run_is_gone_says_so(tmp_path):
    study = write_study(tmp_path)
    (tmp_path / "store" / "00" / "run.json").unlink()
    page = Page(write_report([study], [], tmp_path / "r.html"))
    assert "can't be read" in page.text
    assert "39 dB" in page.text


def test_a_study_that_has_hardly_begun(tmp_path):
    begun = [
        {},
        {"cells": [{}], "findings": [{}], "curves": [{}]},
        {"cells": [{"labels": {"k": "1"}, "status": "pending"}]},
    ]
    for i, text in enumerate(begun):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "study.json").write_text(json.dumps(text))
    page = Page(write_report(find_folders([tmp_path])[0], [], tmp_path / "r.html"))
    assert "3 studies" in page.text
    assert "not run yet" in page.text


def test_nothing_else_is_overwritten(tmp_path):
    run = write_run(tmp_path / "run", {"stem": {}})
    mine = tmp_path / "thesis.html"
    mine.write_text("<p>precious</p>")
    with pytest.raises(RunError, match="no report"):
        write_report([], [run], mine)
    with pytest.raises(RunError, match=r"run\.json is there already"):
        write_report([], [run], run / "run.html", data=True)
    with pytest.raises(RunError, match=r"\.html"):
        write_report([], [run], tmp_path / "r.txt")
    assert mine.read_text() == "<p>precious</p>"
    write_report([], [run], mine, overwrite=True)
    write_report([], [run], mine)


def test_half_precision_images_are_read(tmp_path):
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    folder = write_real_run(
        Result(probe="x", figures={"stem": {"a": 1.0}}, images={"stem": image}), tmp_path / "run"
    )
    page = Page(folder / "report.html")
    assert len(page.data("images")) >= 1


def test_a_run_is_kept_though_its_page_fails(tmp_path, monkeypatch):
    def broken(folder):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("surgeon.reports.write_run_report", broken)
    with pytest.warns(UserWarning, match=r"no report\.html.*a bug"):
        folder = write_real_run(Result(probe="x"), tmp_path / "run")
    assert (folder / "run.json").exists()


def test_reading_needs_no_torch(tmp_path):
    write_run(tmp_path / "run", {"stem": {"psnr": 1.0}})
    code = (
        "import sys; from surgeon_cli.app import main\n"
        f"assert main(['report', {str(tmp_path / 'run')!r}]) == 0\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.csv").exists()
