"""Notebook use: what shows itself, what an interrupted cell keeps, the tutorial notebook."""

from __future__ import annotations

import json
import math
import os
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import surgeon
from surgeon import Bypass, Recipe, Truncate
from surgeon.notebook import html_of
from surgeon.probe import Result
from surgeon.runs import interrupts

SIZE = (3, 16, 16)
EVIL = "<script>alert(1)</script>\"'&"
ROOT = Path(__file__).resolve().parent.parent.parent


class Piece(HTMLParser):
    """A piece of HTML: closed tags, no scripts, its text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)
        assert not self.open, self.open
        assert "script" not in self.tags

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + " "


def shown(value):
    return Piece(value._repr_html_())


def test_everything_shows_itself(vit, images):
    recipe = Recipe() | Bypass("blocks[0].attention") | Truncate("blocks[1]")
    assert "blocks[0].attention" in shown(recipe).text
    anatomy = surgeon.anatomy(vit, input_size=SIZE)
    found = shown(anatomy)
    assert "blocks[1].mlp" in found.text
    assert found.tags.count("tr") == min(len(anatomy.sites), 40) + 1
    assert "2 sites" in shown(anatomy.select("blocks[*].attention")).text
    planned = shown(surgeon.plan(vit, recipe, input_size=SIZE))
    assert "bypass" in planned.text
    assert "GFLOP" in planned.text
    with surgeon.operate(vit, recipe, input_size=SIZE) as subject:
        result = surgeon.run_probe("invert", subject, image=images[:1], steps=3, method="lbfgs")
    piece = shown(result)
    assert piece.tags.count("img") == 2
    assert "PSNR" in piece.text
    assert result.figure()._repr_png_().startswith(b"\x89PNG")


def test_texts_stay_texts_and_any_numbers_show():
    odd = {"a": math.nan, "b": None, "c": math.inf, EVIL: EVIL, "d": True, "e": -(10**30)}
    image = torch.full((1, 2, 4, 4), math.nan)
    result = Result(probe=EVIL, figures={EVIL: odd, "x": {}}, images={EVIL: image}, notes=[EVIL])
    piece = shown(result)
    assert piece.text.count(EVIL) >= 5
    many = Result(images={str(i): torch.zeros(1, 3, 4, 4) for i in range(40)})
    assert shown(many).tags.count("img") == 12
    assert "28 more" in shown(many).text
    with pytest.raises(TypeError, match="int"):
        html_of(3)


def test_a_study_shows_its_verdicts(tmp_path):
    from surgeon.studies.findings import Finding
    from surgeon.studies.running import StudyResult
    from surgeon.studies.study import Study

    study = Study.read("surgeon:depth")
    finding = Finding(EVIL, "refuted", 1.25, 3.0, "as said")
    text = shown(StudyResult(study, tmp_path, [], None, [finding], 0)).text
    for part in ("Depth", "refuted", "1.25", "as said", EVIL):
        assert part in text


@pytest.mark.parametrize("method", ["lbfgs", "adam", "exact"])
def test_an_interrupted_run_keeps_its_last_images(vit, images, method):
    with surgeon.operate(vit, Recipe(), input_size=SIZE) as subject:
        settings = {"image": images[:1], "sites": ["stem", "blocks[0]"], "method": method,
                    "steps": 60, "log_every": 1}  # fmt: skip
        whole = surgeon.run_probe("invert", subject, **settings)

        class Stops:
            def update(self, step):
                if step.state["task"] == 1 and step.state["began"]:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as caught:
            surgeon.run_probe("invert", subject, progress=Stops(), **settings)
    assert not getattr(caught.value, "__notes__", [])
    kept = surgeon.interrupted()
    assert torch.equal(kept.images["stem"], whole.images["stem"])
    assert kept.figures["stem"] == whole.figures["stem"]
    assert kept.probe == "invert"
    assert "interrupted" in kept.notes[0]
    kept.figure()
    shown(kept)
    kept.save("kept")
    assert (Path("kept") / "report.html").exists()


@pytest.mark.parametrize("name", ["generate", "dream"])
def test_other_probes_keep_theirs(name):
    recipe = Recipe("surgeon/vit_fashion", weights="fashion")
    settings = {"generate": {"classes": ["Bag", "Coat", "Dress"], "batch": 2, "steps": 8},
                "dream": {"sites": "blocks[2]", "octaves": 2, "steps": 3}}[name]  # fmt: skip

    class Stops:
        steps = 0

        def update(self, step):
            self.steps += 1
            if self.steps == (10 if name == "generate" else 4):
                raise KeyboardInterrupt

    with surgeon.operate(recipe.load(), recipe) as subject:
        with pytest.raises(KeyboardInterrupt) as caught:
            surgeon.run_probe(name, subject, image="surgeon:coffee", progress=Stops(), **settings)
    assert not getattr(caught.value, "__notes__", [])
    found = surgeon.interrupted()
    assert list(found.images) == (["Bag", "Coat", "Dress"] if name == "generate" else ["coffee"])
    found.figure()
    shown(found)


def test_what_cannot_be_kept_is_said_and_the_interrupt_goes_on(monkeypatch):
    class Broken:
        def glimpse(self, *arguments):
            raise ValueError("nothing to see")

    monkeypatch.setattr(interrupts, "_kept", [])
    error = KeyboardInterrupt()
    for probe in (object(), Broken()):
        interrupts.keep_glimpse("x", probe, None, None, None, {}, [], error)
    assert error.__notes__ == ["its last images could not be kept: ValueError('nothing to see')"]
    assert surgeon.interrupted() is None


def test_in_no_notebook_nothing_is_shown(monkeypatch):
    from surgeon.notebook import show_if_notebook

    shown_values = []

    class Display:
        display = staticmethod(shown_values.append)

    class Module:
        display = Display
        shell = None

        @classmethod
        def get_ipython(cls):
            return cls.shell

    monkeypatch.setitem(sys.modules, "IPython", Module)
    show_if_notebook("a")
    Module.shell = type("Terminal", (), {})()
    show_if_notebook("b")
    Module.shell = type("Zmq", (), {"kernel": object()})()
    show_if_notebook("c")
    assert shown_values == ["c"]


def executed(notebook, folder):
    from nbclient import NotebookClient

    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "JUPYTER_RUNTIME_DIR": str(folder)}
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable
    with client.setup_kernel(env=environment):
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
    return notebook


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's own libraries, on sockets and event loops
def test_the_tutorial_notebook_runs(tmp_path):
    import nbformat

    path = ROOT / "docs" / "tutorial.ipynb"
    text = json.loads(path.read_text())
    code = [cell for cell in text["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    done = executed(nbformat.read(path, as_version=4), tmp_path)
    kinds = [set(output.get("data", ())) for cell in done.cells if cell.cell_type == "code"
             for output in cell.outputs]  # fmt: skip
    assert sum("text/html" in kind for kind in kinds) >= 5, "plans, anatomies and results show"
    assert sum("image/png" in kind for kind in kinds) >= 1, "figures show"
    assert not [
        o for cell in done.cells for o in cell.get("outputs", ()) if o.output_type == "error"
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_stopped_cell_shows_its_last_image(tmp_path):
    """A real kernel, interrupted as the stop button does it."""
    import nbformat

    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(text) for text in (
        "import os, signal, surgeon\nfrom surgeon import Recipe\n"
        'recipe = Recipe("surgeon/vit_fashion", weights="fashion")\n'
        "class Stops:\n    n = 0\n    def update(self, step):\n        self.n += 1\n"
        "        if self.n == 20: os.kill(os.getpid(), signal.SIGINT)\n",
        "with surgeon.operate(recipe.load(), recipe) as subject:\n"
        '    surgeon.run_probe("invert", subject, image="surgeon:rocket", method="adam",\n'
        "                      steps=100_000, progress=Stops())",
        "surgeon.interrupted()",
    )]  # fmt: skip
    notebook.cells[1].metadata["tags"] = ["raises-exception"]
    done = executed(notebook, tmp_path)
    stopped = done.cells[1].outputs
    assert stopped[-1].ename == "KeyboardInterrupt"
    for outputs in (stopped, done.cells[2].outputs):
        (html,) = (o.data["text/html"] for o in outputs if "data" in o and "text/html" in o.data)
        assert "data:image/png" in html
        assert "interrupted after" in html
