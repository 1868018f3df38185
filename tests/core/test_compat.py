"""The sweep: isolated, resumable, honest; and what it found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import timm
import torch
from torch import nn

from surgeon.anatomist.look import look
from surgeon.compat import known as packaged
from surgeon.compat.agreement import compare
from surgeon.compat.page import page, remark, right
from surgeon.compat.pool import sweep
from surgeon.compat.store import Findings
from surgeon.compat.survey import survey
from surgeon.compat.trial import try_operations
from surgeon.recipe import ModelSpec
from surgeon.sources import Declared, all_names, meta_model

# --- workers

WORKER = """
import json, os, sys, time
print("ready", flush=True)
for line in sys.stdin:
    name = line.strip()
    with open("asked.txt", "a") as log:
        log.write(name + "\\n")
    if "crash" in name:
        os.kill(os.getpid(), 11)
    if "hang" in name:
        time.sleep(60)
    if "slow" in name:
        time.sleep(0.2)
    print(json.dumps({"name": name, "error": ""}), flush=True)
"""


@pytest.fixture
def command(tmp_path):
    file = tmp_path / "worker.py"
    file.write_text(WORKER)
    return [sys.executable, str(file)]


def test_a_crash_and_a_hang_cost_only_their_own_names(command):
    names = ["a", "crash", "b", "hang", "c", "d", "crash-again", "e"]
    found = {f["name"]: f["error"] for f in sweep(names, processes=2, timeout=2, command=command)}
    assert set(found) == set(names)
    assert all(found[name] == "" for name in "abcde")
    assert found["crash"] == found["crash-again"] == "crashed: its process ended with -11"
    assert "no answer in 2 s" in found["hang"]


def test_one_worker_serves_many_names(command):
    assert len(list(sweep([str(i) for i in range(50)], processes=1, command=command))) == 50


def test_a_sweep_that_is_left_ends_its_workers(command):
    for finding in sweep(["a", "b", "hang"], processes=1, command=command):
        if finding["name"] == "b":
            break  # the generator is closed here: it must not wait for "hang"
    assert not subprocess.run(["pgrep", "-f", command[1]], capture_output=True, text=True).stdout


def test_findings_survive_a_line_cut_short(tmp_path):
    store = Findings(tmp_path / "f.jsonl")
    store.add({"name": "a", "error": ""})
    with store.file.open("a") as out:
        out.write('{"name": "b", "err')
    again = Findings(store.file)
    assert set(again.by_name) == {"a"}
    again.add({"name": "c", "error": ""})
    assert set(Findings(store.file).by_name) == {"a", "c"}


def test_findings_of_other_versions_are_looked_for_again(tmp_path, monkeypatch):
    store = Findings(tmp_path / "f.jsonl")
    store.add({"name": "a", "error": ""})
    monkeypatch.setattr("surgeon.compat.store.version", lambda name: "0")
    assert not Findings(store.file).by_name


SWEEP = """
import sys
from pathlib import Path
from surgeon.compat.pool import sweep
from surgeon.compat.store import Findings
store = Findings(Path("found.jsonl"))
names = [f"slow-{i}" for i in range(12)]
for finding in sweep([n for n in names if n not in store.by_name], command=sys.argv[1:]):
    store.add(finding)
"""


def test_killed_outright_it_goes_on_without_repeating(command, tmp_path):
    run = [sys.executable, "-c", SWEEP, *command]
    first = subprocess.Popen(run)
    while not (tmp_path / "found.jsonl").exists():
        time.sleep(0.02)
    time.sleep(0.5)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    done = set(Findings(tmp_path / "found.jsonl").by_name)
    assert 0 < len(done) < 12
    time.sleep(0.5)  # orphaned workers end when their input does
    (tmp_path / "asked.txt").unlink()
    subprocess.run(run, check=True)
    assert len(Findings(tmp_path / "found.jsonl").by_name) == 12
    assert not done & set((tmp_path / "asked.txt").read_text().split())


@pytest.mark.slow
def test_the_command_killed_outright_goes_on_without_repeating(tmp_path):
    """The real survey, its parent killed twice: every name is found once."""
    start = "from surgeon_cli.app import run; run()"
    run = [sys.executable, "-c", start, "compat", "timm/test_*"]
    file = tmp_path / "compat" / "findings.jsonl"

    def lines():
        return file.read_text().splitlines() if file.exists() else []

    for enough in (2, 5):
        survey = subprocess.Popen(run, cwd=tmp_path, stderr=subprocess.DEVNULL)
        while len(lines()) < enough and survey.poll() is None:
            time.sleep(0.05)
        os.kill(survey.pid, signal.SIGKILL)
        survey.wait()
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
    found = [json.loads(line)["name"] for line in lines()]
    assert sorted(found) == sorted(all_names("timm/test_*"))


# --- one survey


def test_a_survey_says_what_it_found():
    finding = survey("timm/test_vit")
    assert finding.error == ""
    assert (finding.family, finding.task, finding.looked) == (
        "vision_transformer", "classification", "meta",
    )  # fmt: skip
    assert finding.parts["blocks"] == 6
    assert finding.parts["residuals"] == 12
    assert all(finding.agreement[part] for part in ("stem", "blocks", "head"))
    assert set(finding.operations.values()) == {""}
    assert json.dumps(finding.to_dict())


def test_a_model_with_two_inputs_is_refused_with_its_reason():
    finding = survey("torchvision/raft_small")
    assert "image2" in finding.error
    assert not right(finding.to_dict())
    assert remark(finding.to_dict()) == finding.error


def test_an_operation_that_fails_alone_does_not_take_its_round_with_it():
    """VGG has no residual add; truncation at its last block, tried with it, still counts."""
    model = meta_model(ModelSpec("torchvision/vgg11"))
    reasons = try_operations(model, look(model))
    assert reasons["truncate"] == ""
    assert "no residual add" in reasons["drop_residual"]


def test_a_constructor_that_reads_values_keeps_its_parameters_without_memory():
    model = meta_model(ModelSpec("torchvision/regnet_y_128gf"))
    assert all(p.is_meta for p in model.parameters())


# --- is a reading right?


def declared(**changes):
    named = {name: f"block {name.split('.')[1]}" if "blocks" in name else ""
             for name, _ in MODEL.named_parameters()}  # fmt: skip
    return Declared(
        **{"stem": ("patch_embed.proj",), "head": ("head",), "groups": named, **changes}
    )


with torch.device("meta"):
    MODEL = timm.create_model("test_vit")


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, None),
        ({"stem": ("blocks.0.attn.qkv",)}, "stem"),
        ({"head": ()}, "head"),
        ({"head": ("norm",)}, "head"),
        ({"groups": {n: "one" for n, _ in MODEL.named_parameters() if "blocks" in n}}, "blocks"),
        ({"groups": {n: n for n, _ in MODEL.named_parameters() if "blocks" in n}}, "blocks"),
    ],
)
def test_each_way_of_being_wrong_is_seen(changes, wrong):
    found = compare(look(MODEL, (3, 160, 160)), declared(**changes))
    assert [part for part in ("stem", "head", "blocks") if not getattr(found, part)] == (
        [wrong] if wrong else []
    )
    assert bool(found.notes) == bool(wrong)
    assert found.right == (wrong is None)


# --- the rules it taught


class Unit(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv(self.norm(x)).relu()


class Tree(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        make = Unit if depth == 1 else lambda w: Tree(w, depth - 1)
        self.tree1, self.tree2 = make(width), make(width)
        self.root = nn.Conv2d(2 * width, width, 1)

    def forward(self, x):
        first = self.tree1(x)
        return self.root(torch.cat([first, self.tree2(first)], dim=1))


def test_a_class_that_holds_itself_is_a_tree_and_no_block():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Tree(8, 1), Tree(8, 2), Tree(8, 2))
    paths = [b.call.path for b in look(model, (3, 16, 16)).blocks]
    assert len(paths) == 2 + 4 + 4
    assert paths[:3] == ["1.tree1", "1.tree2", "2.tree1.tree1"]


class Exits(nn.Module):
    """A head after each block, their scores weighed and summed."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList(Unit(8) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(8, 5) for _ in range(3))
        self.weights = nn.Parameter(torch.ones(3))

    def forward(self, x):
        x, scores = self.stem(x), []
        for i, (block, head) in enumerate(zip(self.blocks, self.heads, strict=True)):
            x = block(x)
            scores.append(self.weights[i] * head(x.mean((2, 3))))
        return torch.stack(scores).sum(0)


def test_heads_that_run_before_the_last_block():
    assert [h.path for h in look(Exits(), (3, 16, 16)).reading.head] == [
        "heads.0",
        "heads.1",
        "heads.2",
    ]


def test_tokens_and_residual_sums_are_features_and_have_no_head():
    siglip = meta_model(ModelSpec("timm/naflexvit_base_patch16_siglip"))
    assert look(siglip, (3, 384, 384)).reading.head == ()
    tokens = meta_model(ModelSpec("timm/qwen3_vit_88m_enc"))
    assert look(tokens).reading.head == ()


def test_what_runs_between_blocks_is_one():
    model = meta_model(ModelSpec("torchvision/inception_v3"))
    paths = [b.call.path for b in look(model, (3, 299, 299)).blocks]
    assert paths[3:5] == ["Mixed_6a", "Mixed_6b"]
    assert len(paths) == 11


def test_the_adapter_of_cpubone():
    """Its attention and MLPs are lists of residuals in lists: each would be taken for a block."""
    anatomy = look(meta_model(ModelSpec("timm/cpubone_nano")))
    paths = [b.call.path for b in anatomy.blocks]
    assert all(path.count(".") == 2 for path in paths)
    assert len(paths) == len(set(paths))
    assert max(len(b.sublayers) for b in anatomy.blocks) == 3
    assert sum(len(b.sublayers) for b in anatomy.blocks) == len(anatomy.residuals)


# --- what the packaged sweep found


def test_every_architecture_is_in_the_packaged_sweep():
    from importlib.metadata import version

    swept = packaged.versions()
    if any(swept[name] != version(name) for name in ("timm", "torchvision")):
        pytest.skip("made with other versions of the libraries")
    names = [name for name in all_names() if not name.startswith("surgeon/")]
    missing = [name for name in names if packaged.known(name) is None]
    assert not missing
    assert len(names) == 1371 + len(all_names("torchvision/*"))


def test_nearly_all_of_them_are_right():
    """Of the classifiers of both libraries, at least 99.5 % read as the library says."""
    from surgeon.compat.survey import family_of
    from surgeon.sources import resolve

    rows = {
        name: packaged.known(name)
        for name in all_names()
        if not name.startswith("surgeon/")
        and family_of(resolve(ModelSpec(name)))[1] == "classification"
    }
    assert len(rows) >= 1451
    good = sum(
        row is not None and not row.error and row.right is not False for row in rows.values()
    )
    assert good >= 0.995 * len(rows)
    cut = sum(row is not None and "truncate" not in row.refused for row in rows.values())
    assert cut >= 0.995 * len(rows)


def test_the_page_tells_of_every_finding():
    finding = survey("timm/test_vit").to_dict()
    broken = {"name": "timm/broken", "error": "crashed | hard"}
    text = page([finding, broken], {"timm": "1"})
    assert "| timm/test_vit | 6 | 12 |" in text
    assert "crashed \\| hard" in text
    assert "| timm | classification | 2 | 1 | 1 of 2 |" in text


def test_stages_of_one_class_are_no_blocks():
    """Neither where a stage's blocks differ in class, nor where they differ in what they hold."""
    mixed = look(meta_model(ModelSpec("timm/edgenext_x_small")))
    assert {b.call.path.count(".") for b in mixed.blocks} == {3}
    alike = look(meta_model(ModelSpec("torchvision/regnet_x_1_6gf")))
    assert len(alike.blocks) == 2 + 4 + 10 + 2


def test_what_may_be_quantised_one_day_is_not_refused():
    model = meta_model(ModelSpec("torchvision/quantized_resnet18"))
    assert len(look(model).residuals) == 8


@pytest.mark.slow
def test_the_command_surveys_writes_and_goes_on(capsys, tmp_path):
    from surgeon_cli.app import main

    assert main(["compat", "surgeon/*_fashion", "--out", "found", "--jobs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [f["name"].partition("/")[2] for f in found] == [
        "vit_fashion", "mixer_fashion", "resnet_fashion",
    ]  # fmt: skip
    assert all(f["error"] == "" and f["parts"]["blocks"] > 0 for f in found)
    assert "surgeon/mixer_fashion" in (tmp_path / "found" / "compatibility.md").read_text()
    again = time.monotonic()
    assert main(["compat", "surgeon/vit_fashion", "--out", "found"]) == 0
    shown = capsys.readouterr()
    assert "1 of 1 found before" in shown.err
    assert "1 architectures, 1 looked at, 1 with stem, blocks and head right" in shown.out
    assert time.monotonic() - again < 5, "no worker was started"


def test_anatomy_says_whether_a_model_was_tested(capsys):
    from surgeon_cli.app import main

    assert main(["anatomy", "timm/test_vit"]) == 0
    assert "tested: stem, blocks and head as the library has it" in capsys.readouterr().out
    assert main(["anatomy", "timm/test_vit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tested"]["blocks"] == 6
