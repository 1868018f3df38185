"""The command line as a user meets it: output, exit codes, three-line errors, no leftovers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from surgeon import hookimpl
from surgeon.probe import GeneratorProbe, Result
from surgeon.registry import registry
from surgeon_cli.app import main


@pytest.fixture
def surgeon(capsys):
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def fails(done, code=1):
    got, out, err = done
    assert got == code, err
    if code == 1:
        lines = err.strip().splitlines()
        assert [line[:6].strip() for line in lines] == ["asked:", "found:", "try:"], err
    assert "Traceback" not in err
    return err


def test_help_and_usage(surgeon):
    code, out, _ = surgeon("--help")
    assert code == 0
    for command in ("apply", "study", "plan", "anatomy", "models", "recipes", "studies", "probes",
                    "plugins", "schema", "export", "verify"):  # fmt: skip
        assert command in out
        assert surgeon(command, "--help")[0] == 0
    fails(surgeon("aply"), code=2)
    fails(surgeon("apply"), code=2)
    fails(surgeon("apply", "x.toml", "--nonsense"), code=2)


def test_apply_the_quickstart(surgeon, tmp_path):
    code, out, err = surgeon(
        "apply", "surgeon:quickstart", "--set", "probes.invert.steps=12", "--out", "run"
    )
    assert code == 0, err
    assert "model restored" in err
    assert "picture: run/invert.png" in out
    folder = tmp_path / "run"
    assert sorted(p.name for p in folder.iterdir()) == [
        "invert.png", "metrics.jsonl", "recipe.toml", "report.html", "result.safetensors",
        "run.json", "timing.json",
    ]  # fmt: skip
    record = json.loads((folder / "run.json").read_text())
    assert set(record["figures"]) == {"stem", "blocks[2]", "blocks[5]"}
    assert record["figures"]["stem"]["gradient_evaluations"] <= 12
    again = tomllib.loads((folder / "recipe.toml").read_text())
    assert again["probes"]["invert"]["steps"] == 12
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        assert {"task", "loss", "embedding_distance", "gradient_evaluations"} <= set(
            json.loads(line)
        )


def test_the_same_recipe_gives_the_same_bytes(surgeon, tmp_path):
    for name in ("a", "b"):
        assert (
            surgeon("apply", "surgeon:bypass", "--set", "probes.invert.steps=6", "--out", name)[0]
            == 0
        )
    for file in ("run.json", "result.safetensors", "metrics.jsonl", "invert.png", "recipe.toml"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_json(surgeon):
    code, out, _ = surgeon(
        "apply", "surgeon:only", "--set", "probes.invert.steps=3", "--json", "--out", "r"
    )
    assert code == 0
    report = json.loads(out)
    assert report["restored"] is True
    assert report["runs"]["invert"]["figures"]["blocks[4]"]["psnr"]


def test_default_folder_is_never_taken_twice(surgeon, tmp_path):
    for _ in range(2):
        assert surgeon("apply", "surgeon:only", "--set", "probes.invert.steps=2")[0] == 0
    names = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert len(names) == 2
    assert names[1] == names[0] + "-2"


def test_apply_dry_run_and_plan_touch_nothing(surgeon, tmp_path):
    code, out, _ = surgeon("apply", "surgeon:drop_residual", "--dry-run")
    assert code == 0
    assert out == surgeon("plan", "surgeon:drop_residual")[1]
    assert "drop_residual: 2 places" in out
    assert "10 more beyond the stop" in out
    assert "saved" in out
    assert list(tmp_path.iterdir()) == []
    planned = json.loads(surgeon("plan", "surgeon:drop_residual", "--json")[1])
    assert planned["operations"][0]["count"] == 2
    assert planned["costs"]["operated"]["flops"] < planned["costs"]["full"]["flops"]


def test_seed_device_and_dtype(surgeon, tmp_path):
    quick = ["--set", "probes.invert.steps=2", "--set", "probes.invert.sites=blocks[0]"]
    for i, more in enumerate([["--seed", 1], ["--seed", 2], ["--dtype", "float64"],
                              ["--device", "cpu"]]):  # fmt: skip
        assert surgeon("apply", "surgeon:swap", *quick, "--out", f"r{i}", *more)[0] == 0
    records = [json.loads((tmp_path / f"r{i}" / "run.json").read_text()) for i in range(4)]
    assert records[0]["figures"] != records[1]["figures"]
    assert records[2]["dtype"] == "float64"
    fails(surgeon("apply", "surgeon:swap", "--device", "gpu"))
    fails(surgeon("apply", "surgeon:swap", "--dtype", "float63"))


class Brightness(GeneratorProbe):
    """A second probe, registered without settings."""

    def run(self, subject, inputs, settings):
        yield {"photos": len(inputs.photos)}
        return Result(figures={"all": {"mean": float(inputs.photos[0].pixels.mean())}})


class Broken:
    """What a source may do wrong."""

    def names(self):
        raise RuntimeError("no network")


class Extras:
    @staticmethod
    @hookimpl
    def register_probes(register):
        register("brightness", "test_cli:Brightness", summary="how bright?")
        register("lost", "nowhere.at_all:Probe", settings="nowhere.at_all:Settings")

    @staticmethod
    @hookimpl
    def register_operations(register):
        register("lost", "nowhere.at_all:Operation")

    @staticmethod
    @hookimpl
    def register_model_sources(register):
        register("broken", "test_cli:Broken")


@pytest.fixture
def extras(monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    registry().register("extras", Extras(), "extras 1")
    yield
    registry().unregister("extras")


def test_several_probes_get_a_folder_each(surgeon, tmp_path, extras):
    (tmp_path / "r.toml").write_text(RECIPE)
    code, _, err = surgeon("apply", "r.toml", "--probe", "invert", "--probe", "brightness",
                           "--out", "r")  # fmt: skip
    assert code == 0, err
    figures = {}
    for name in ("invert", "brightness"):
        assert (tmp_path / "r" / name / f"{name}.png").exists()
        record = json.loads((tmp_path / "r" / name / "run.json").read_text())
        assert record["probe"] == name
        figures[name] = record["figures"]
    assert "psnr" in next(iter(figures["invert"].values()))
    assert list(figures["brightness"]) == ["all"]
    assert not (tmp_path / "r" / "run.json").exists()
    again = tomllib.loads((tmp_path / "r" / "brightness" / "recipe.toml").read_text())
    assert list(again["probes"]) == ["brightness"]


def test_one_broken_plugin_breaks_no_list(surgeon, extras):
    code, out, err = surgeon("schema")
    assert code == 0
    schema = json.loads(out)
    assert {"brightness", "invert"} <= set(schema["properties"]["probes"]["properties"])
    assert "lost" not in schema["properties"]["probes"]["properties"]
    assert "bypass" in schema["$defs"]
    for kind in ("operation", "probe"):
        assert f"left out {kind} lost of extras (extras 1)" in err
    code, out, err = surgeon("models", "vit_b_32")
    assert code == 0
    assert "torchvision/vit_b_32" in out
    assert "left out source broken of extras (extras 1): no network" in err


def test_a_runs_recipe_repeats_it(surgeon, tmp_path):
    """--seed and --set stand in the recipe that is written."""
    (tmp_path / "r.toml").write_text(RECIPE)
    for name in ("a.png", "a.jpg"):
        Image.new("L", (28, 28), 90 if name == "a.png" else 30).save(tmp_path / name)
    asked = ["--seed", 5, "--set", "input.image=.", "--set", "probes.invert.steps=3"]
    assert surgeon("apply", "r.toml", *asked, "--out", "first")[0] == 0
    written = tomllib.loads((tmp_path / "first" / "recipe.toml").read_text())
    assert written["probes"]["invert"]["seeds"] == [5]
    assert written["model"]["seed"] == 5
    assert surgeon("apply", "first/recipe.toml", "--out", "second")[0] == 0
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    record = json.loads((tmp_path / "first" / "run.json").read_text())
    assert len(record["figures"]) == len(record["images"]) == 2, "a.png and a.jpg both"


def test_a_selector_in_a_file_names_file_line_and_key(surgeon, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.replace("blocks[0]", "bloks[0]"))
    assert "(r.toml, line 5, operations[0].site, bypass)" in fails(surgeon("plan", "r.toml"))
    (tmp_path / "r.toml").write_text(RECIPE + 'sites = "blocks[9]"\n')
    assert "(r.toml, line 10, probes.invert.sites)" in fails(surgeon("apply", "r.toml"))


def test_what_stands_beside_a_run_is_never_removed(surgeon, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    assert surgeon("apply", "r.toml", "--out", "run")[0] == 0
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert "notes.txt" in fails(surgeon("apply", "r.toml", "--out", "run", "--overwrite"))
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_anatomy(surgeon):
    code, out, _ = surgeon("anatomy", "surgeon/vit_fashion")
    assert code == 0
    assert "6 blocks in 1 stage, 12 residual adds" in out
    for role in ("stem", "class_token", "pos_embed", "blocks[5]", "residual2", "head"):
        assert role in out
    lines = [line.split()[0] for line in out.splitlines() if line.strip().startswith("blocks[0]")]
    assert lines == [
        "blocks[0]", "blocks[0].norm1", "blocks[0].attention", "blocks[0].residual1",
        "blocks[0].norm2", "blocks[0].mlp", "blocks[0].residual2",
    ]  # fmt: skip
    sites = json.loads(surgeon("anatomy", "surgeon/vit_fashion", "blocks[*].mlp", "--json")[1])
    assert len(sites) == 6
    assert "2 sites" in surgeon("anatomy", "surgeon/mixer_fashion", "blocks[:2]")[1]
    assert "blocks[1]" in surgeon("anatomy", "surgeon/vit_fashion", "--option", "depth=2")[1]
    fails(surgeon("anatomy", "surgeon/vit_fashion", "blocks[*].atention"))


def test_models_recipes_probes_plugins(surgeon):
    assert surgeon("models", "surgeon/*")[1].split() == [
        "surgeon/vit_fashion", "surgeon/mixer_fashion", "surgeon/resnet_fashion",
    ]  # fmt: skip
    assert "torchvision/vit_b_32" in json.loads(surgeon("models", "vit_b_32", "--json")[1])
    assert "quickstart" in surgeon("recipes")[1]
    shown = surgeon("recipes", "show", "surgeon:swap")[1]
    assert tomllib.loads(shown)["operations"][0]["op"] == "swap"
    assert "invert" in surgeon("probes")[1]
    assert "operation bypass" in surgeon("plugins")[1]


def test_schema_accepts_what_is_right_and_nothing_else(surgeon):
    schema = json.loads(surgeon("schema")[1])
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for entry in registry().all("recipe"):
        table = tomllib.loads(Path(entry.target).read_text())
        assert list(validator.iter_errors(table)) == []
    good = {"schema": 1, "operations": [{"op": "bypass", "site": "stem"}]}
    assert validator.is_valid(good)
    for bad in (
        {"operations": [{"op": "bypas", "site": "stem"}]},
        {"operations": [{"op": "bypass"}]},
        {"operations": [{"op": "bypass", "site": "stem", "extra": 1}]},
        {"probes": {"invert": {"stepz": 1}}},
        {"modle": {}},
        {"schema": 2},
    ):
        assert not validator.is_valid(bad), bad


def test_export(surgeon, tmp_path):
    code, out, err = surgeon("export", "surgeon:swap", "x.safetensors")
    assert code == 0, err
    assert "3 tensors" in out
    fails(surgeon("export", "surgeon:swap", "x.safetensors"))
    assert surgeon("export", "surgeon:swap", "x.safetensors", "--overwrite")[0] == 0


def greet(name: str, loud: bool = False) -> None:
    print(f"hello {name}{'!' if loud else ''}")


class Greeter:
    @staticmethod
    @hookimpl
    def register_commands(register):
        register("greet", "test_cli:greet", summary="say hello")


def test_a_plugins_command(surgeon, monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    registry().register("greeter", Greeter(), "tests 1")
    try:
        assert "say hello" in surgeon("--help")[1]
        assert surgeon("greet", "you", "--loud")[1] == "hello you!\n"
        fails(surgeon("greet"), code=2)
    finally:
        registry().unregister("greeter")
    fails(surgeon("greet", "you"), code=2)


# --- bad input: three lines, exit code 1, nothing left behind

RECIPE = """\
[model]
name = "surgeon/vit_fashion"
[[operations]]
op = "bypass"
site = "blocks[0]"
[input]
image = "surgeon:chelsea"
[probes.invert]
steps = 2
"""
BAD = {
    "site": ('"blocks[0]"', '"bloks[0]"', "blocks[0]"),
    "site out of range": ('"blocks[0]"', '"blocks[6]"', "6 blocks"),
    "op": ('"bypass"', '"bypas"', "bypass"),
    "key": ("site =", "sight =", "site"),
    "model": ("vit_fashion", "vit_fasion", "surgeon/vit_fashion"),
    "source": ("surgeon/vit", "surgen/vit", "surgeon"),
    "tag": ('name = "surgeon/vit_fashion"', 'name = "surgeon/vit_fashion"\nweights = "fashon"',
            "fashion"),
    "probe setting": ("steps = 2", "stepz = 2", "steps"),
    "probe": ("probes.invert", "probes.invrt", "invert"),
    "type": ("steps = 2", 'steps = "two"', "integer"),
    "expect": ('"blocks[0]"', '"blocks[0]"\nexpect = 2', "expect = 1"),
    "missing image": ("surgeon:chelsea", "nowhere.png", "no such file"),
    "missing packaged image": ("surgeon:chelsea", "surgeon:chelsy", "chelsea"),
    "input size": ('name = "surgeon/vit_fashion"',
                   'name = "surgeon/vit_fashion"\noptions = {img_size = 29, strict_img_size = 1}',
                   ""),
    "probe site": ("steps = 2", 'steps = 2\nsites = "blocks[7]"', "blocks"),
    "bypass of a stem": ('"blocks[0]"', '"stem"', "shape"),
    "no residual": ('"bypass"\nsite = "blocks[0]"', '"drop_residual"\nsite = "stem"', "residual"),
    "two stops": ('site = "blocks[0]"',
                  'site = "blocks[0]"\n[[operations]]\nop = "truncate"\nsite = "blocks[3]"\n'
                  '[[operations]]\nop = "only"\nsite = "blocks[2]"', "truncate"),
    "wholly beyond": ('site = "blocks[0]"',
                      'site = "blocks[4]"\n[[operations]]\nop = "truncate"\nsite = "blocks[1]"',
                      "beyond the stop"),
    "parameter": ('"blocks[0]"', '"class_token"', "parameter"),
    "two sites": ('"bypass"\nsite = "blocks[0]"', '"truncate"\nsite = "blocks[*]"', "one site"),
    "toml": ("[model]", "[model", "line 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_recipes(surgeon, tmp_path, case):
    old, new, hint = BAD[case]
    assert old in RECIPE
    (tmp_path / "r.toml").write_text(RECIPE.replace(old, new))
    err = fails(surgeon("apply", "r.toml", "--out", "run"))
    assert hint in err
    assert [p.name for p in tmp_path.iterdir()] == ["r.toml"]


def test_fused_places_say_what_to_select_instead(surgeon, tmp_path):
    text = RECIPE.replace("surgeon/vit_fashion", "torchvision/vit_b_32").replace(
        "blocks[0]", "encoder.layers.encoder_layer_0.self_attention.out_proj"
    )
    (tmp_path / "r.toml").write_text(text)
    err = fails(surgeon("plan", "r.toml"))
    assert "never called" in err
    assert "select encoder.layers.encoder_layer_0.self_attention instead" in err


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nnonsense"])
def test_corrupt_images(surgeon, tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    (tmp_path / "r.toml").write_text(RECIPE.replace("surgeon:chelsea", "bad.png"))
    fails(surgeon("apply", "r.toml", "--out", "run"))
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_holds_a_run(surgeon, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    assert surgeon("apply", "r.toml", "--out", "run")[0] == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    err = fails(surgeon("apply", "r.toml", "--out", "run", "--set", "probes.invert.steps=3"))
    assert "--overwrite" in err
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    assert surgeon("apply", "r.toml", "--out", "run", "--overwrite")[0] == 0


def test_an_output_folder_that_cannot_be_written(surgeon, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    (tmp_path / "file").write_text("")
    fails(surgeon("apply", "r.toml", "--out", "file/run"))
    fails(surgeon("apply", "r.toml", "--out", "/proc/run"))


LONG = RECIPE.replace(
    "steps = 2",
    'method = "METHOD"\nsteps = 800\nsites = ["blocks[1]", "blocks[2]"]\nlog_every = 7',
)


def started(folder, *arguments):
    """A real process of the command line."""
    return subprocess.Popen(
        [sys.executable, "-c", "from surgeon_cli.app import run; run()", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def after_a_while(process, folder, seconds):
    """Wait until the run has a checkpoint, then some more; or until it has ended."""
    until = time.monotonic() + 120
    while not (folder / "checkpoint.safetensors").exists():
        if process.poll() is not None:
            return
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(seconds)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "timing.json"}


def test_ctrl_c_in_the_middle(surgeon, tmp_path):
    """A real signal: exit code 130, no traceback, no half-written run; it can be gone on with."""
    (tmp_path / "r.toml").write_text(LONG.replace("METHOD", "adam"))
    process = started(tmp_path, "apply", "r.toml", "--out", "run")
    after_a_while(process, tmp_path / "run", 0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "go on with: surgeon resume run" in err
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["checkpoint.safetensors"]
    assert "surgeon resume" in fails(surgeon("apply", "r.toml", "--out", "run"))
    assert surgeon("resume", "run")[0] == 0
    assert surgeon("apply", "r.toml", "--out", "whole")[0] == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert "has ended" in fails(surgeon("resume", "run"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lbfgs", "descent"])
def test_killed_and_resumed_the_bytes_are_the_same(surgeon, tmp_path, method):
    (tmp_path / "r.toml").write_text(LONG.replace("METHOD", method))
    assert surgeon("apply", "r.toml", "--out", "whole")[0] == 0
    process = started(tmp_path, "apply", "r.toml", "--out", "run")
    for seconds in (0.3, 1.0):
        after_a_while(process, tmp_path / "run", seconds)
        process.kill()
        process.communicate()
        if not (tmp_path / "run" / "checkpoint.safetensors").exists():
            break  # it had ended
        process = started(tmp_path, "resume", "run")
    process.communicate(timeout=120)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_resume_refuses_what_it_cannot_go_on_with(surgeon, tmp_path):
    fails(surgeon("resume", "nowhere"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"nonsense")
    assert "can't be read" in fails(surgeon("resume", "run"))


def test_verify_says_what_no_longer_holds(surgeon, tmp_path):
    code, _, err = surgeon(
        "apply", "surgeon:diagnose", "--out", tmp_path / "run", "--set",
        "probes.diagnose.sublayers=[]", "--set", "probes.diagnose.twin_steps=0", "--set",
        "probes.diagnose.collision=false", "--set", 'probes.diagnose.sites="stem"',
    )  # fmt: skip
    assert code == 0, err
    code, out, err = surgeon("verify", tmp_path / "run")
    assert code == 0, err
    assert out.count("confirmed") == 4  # weights, preprocessing, the photo, the map
    record = tmp_path / "run" / "run.json"
    content = json.loads(record.read_text())
    content["figures"]["pixels to stem"]["smallest"] *= 2
    record.write_text(json.dumps(content))
    done = surgeon("verify", tmp_path / "run")
    assert "no longer so: pixels to stem" in " ".join(fails(done).split())
    assert "no longer so" in done[1]
    code, out, _ = surgeon("verify", tmp_path / "run", "--json")
    assert code == 1
    checks = json.loads(out)["checks"]
    assert [c["name"] for c in checks if not c["confirmed"]] == ["pixels to stem"]
    fails(surgeon("verify", tmp_path))
