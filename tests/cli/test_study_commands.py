"""surgeon study, studies, resume of a study."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

import surgeon
from surgeon.registry import registry
from surgeon_cli.app import main

FILE = """\
schema = 1
title = "Two blocks"
tier = "packaged"
probes = ["invert"]
[axes]
k = [0, 1]
[recipe.model]
name = "surgeon/vit_fashion"
[[recipe.operations]]
op = "truncate"
site = "blocks[${k}]"
[recipe.input]
image = "surgeon:rocket"
[recipe.probes.invert]
method = "adam"
steps = 2
[[findings]]
claim = "something comes back"
check = "above"
figure = "psnr"
threshold = 0.0
"""


@pytest.fixture
def file():
    Path("two.toml").write_text(FILE)
    return "two.toml"


def test_study_shows_its_findings_and_makes_nothing_twice(file, capsys):
    assert main(["study", file]) == 0
    shown = capsys.readouterr()
    assert "Two blocks: 2 cells, 2 runs made now" in shown.out
    assert "confirmed: something comes back\n  psnr at least 0 in 2 of 2 values" in shown.out
    assert "two 100%" in shown.err
    for name in ("study.json", "table.csv", "table.json", "figure.png", "report.html"):
        assert Path("runs/two", name).exists()
    assert main(["study", file, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["made"] == 0
    assert [cell["status"] for cell in told["cells"]] == ["done", "done"]
    assert told["cells"][0]["run"].startswith("../store/")


def test_a_failed_cell_is_exit_1_and_resume_tries_it_again(file, capsys):
    arguments = ["study", file, "--out", "out", "--store", "store", "--set", "axes.k=[0, 9]"]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert "failed: k=9, invert" in shown.err
    assert 'selector "blocks[9]"' in shown.err
    assert "found: 1 cells failed" in shown.err
    assert "surgeon resume out" in shown.err
    assert "undecided: something comes back" in shown.out
    assert main(["resume", "out"]) == 1
    assert "0 runs made now" in capsys.readouterr().out


def test_cells_that_fail_alike_are_told_once(file, capsys):
    arguments = ["study", file, "--set", "axes.k=[9]", "--set", "recipe.input.image=${photo}"]
    assert main([*arguments, "--set", 'axes.photo=["surgeon:rocket", "surgeon:coffee"]']) == 1
    shown = capsys.readouterr().err
    assert "found: 2 cells failed" in shown
    assert shown.count("failed: k=9") == shown.count('selector "blocks[9]"') == 1
    assert "and 1 more of the same" in shown


def test_ctrl_c_is_exit_130_and_says_how_to_go_on(file, capsys, monkeypatch):
    from surgeon_cli import render

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(render.ProgressLines, "at", interrupt)
        assert main(["study", file, "--out", "out"]) == 130
    assert "go on with: surgeon resume out" in capsys.readouterr().err
    assert main(["resume", "out"]) == 0
    assert main(["resume", "out"]) == 1
    assert "the study has ended" in capsys.readouterr().err


def test_a_dry_run_says_what_it_measured(file, capsys):
    assert main(["study", file, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "2 cells, 0 made before, 2 runs to make" in shown
    assert "2 of 2" in shown
    assert "estimated from a few steps" in shown
    assert not Path("runs").exists()
    assert main(["study", file, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] == 2
    assert told["seconds"] > 0


def test_errors_in_three_lines(capsys):
    Path("wrong.toml").write_text(FILE.replace("threshold", "thresold"))
    assert main(["study", "wrong.toml"]) == 1
    assert "findings[0].thresold (wrong.toml, line 21)" in capsys.readouterr().err
    assert main(["study", "surgeon:dept"]) == 1
    assert "depth" in capsys.readouterr().err
    assert main(["study", "nothing.toml"]) == 1
    assert "No such file" in capsys.readouterr().err


def test_packaged_studies_are_listed_shown_and_fit_the_schema(capsys):
    assert main(["studies"]) == 0
    assert "depth" in capsys.readouterr().out
    assert main(["studies", "show", "depth"]) == 0
    text = capsys.readouterr().out
    assert 'title = "Depth"' in text
    assert main(["schema", "study"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(tomllib.loads(text), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(text.replace("title", "titel")), schema)
    assert main(["schema", "stud"]) == 2


def test_a_group_runs_its_tier_and_ends_in_one_report(tmp_path, capsys):
    class Plugin:
        @staticmethod
        @surgeon.hookimpl
        def register_studies(register):
            named, wrong = FILE.replace("packaged", "named"), FILE.replace("op =", "o =")
            for name, text in (("1", FILE), ("2", named), ("3", wrong)):
                (tmp_path / f"{name}.toml").write_text(text)
                register(f"many/{name}", str(tmp_path / f"{name}.toml"), summary="x")

    registry().register("many", Plugin(), "tests 1")
    try:
        assert main(["study", "surgeon:many", "--tier", "packaged"]) == 1
        shown = capsys.readouterr()
        assert Path("runs/many/1/study.json").exists()
        assert not Path("runs/many/2").exists()
        assert "studies that did not run: surgeon:many/3" in shown.err
        assert "operations[0].op (surgeon:many/3, line 9)" in shown.err
        assert "report: runs/many/report.html" in shown.out
        assert main(["study", "surgeon:many/1"]) == 0
        assert "0 runs made now" in capsys.readouterr().out
    finally:
        registry().unregister("many")
