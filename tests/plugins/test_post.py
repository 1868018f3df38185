"""The post's studies: all of them resolve, their checks can say every verdict, cheap ones run."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import surgeon
from surgeon.anatomist.look import look
from surgeon.registry import registry
from surgeon.sources import meta_model, preprocessing_of
from surgeon.studies import Study, run_study, studies_of
from surgeon.studies.table import Row, Table
from surgeon_post import checks, patches

NAMES = [f"post/{n}{tier}" for n in range(1, 28) for tier in ("", "-named")]


def cells(name):
    return Study.read(f"surgeon:{name}").cells()


@cache
def meta(spec):
    model = meta_model(spec)
    return model, look(model, preprocessing_of(spec, model).input_size)


def test_both_tiers_hold_all_experiments():
    for tier in ("packaged", "named"):
        found = studies_of("surgeon:post", tier)
        assert [Study.read(n).experiment for n in found] == [str(n) for n in range(1, 28)]
    assert {f"surgeon:{n}" for n in NAMES} == set(studies_of("surgeon:post"))


@pytest.mark.parametrize("name", NAMES)
def test_every_finding_states_its_threshold_and_why(name):
    study = Study.read(f"surgeon:{name}")
    assert study.question.endswith("?")
    assert study.findings
    text = Path(registry().find("study", name).target).read_text()
    keys = ("threshold", "share", "least", "most", "together", "apart", "wanted")
    for line in text.splitlines():
        if re.match(rf"({'|'.join(keys)}) +=", line):
            last = line.startswith("most") or '"at' in line or "'at" in line
            assert "#" in line or last, f"{name}: no word on why: {line}"


@pytest.mark.parametrize("name", [n for n in NAMES if not n.endswith("named")])
def test_packaged_recipes_resolve(name):
    """Every recipe of the tier makes a plan on the meta device, offline."""
    planned = set()
    for cell in cells(name):
        about = (cell.recipe.model, cell.recipe.operations)
        if about not in planned:
            planned.add(about)
            surgeon.plan(meta(cell.recipe.model)[0], cell.recipe)


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("named")])
def test_named_recipes_resolve(name):
    """Every site of every operation and setting is there, trained weights or not."""
    seen = set()
    for cell in cells(name):
        recipe = cell.recipe
        anatomy = meta(recipe.model)[1]
        sites = recipe.probes.get(cell.probe, {}).get("sites")
        for site in (sites, *(o.site for o in recipe.operations)):
            about = (recipe.model, str(site))
            if site is not None and about not in seen:
                seen.add(about)
                assert len(anatomy.select(site)) > 0


def test_a_trained_row_without_a_network_says_so_in_three_lines(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.hub.set_dir(str(tmp_path / "hub"))

    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    study = Study.read("surgeon:post/21-named", ['axes.way=[{label="x", settings={steps=1}}]'])
    result = run_study(study, tmp_path / "out", store=tmp_path / "store", report=False)
    (cell,) = result.cells
    asked, found, hint = cell.error
    assert cell.status == "failed"
    assert "IMAGENET1K_V1" in asked
    assert "no route to host" in found or "not on this machine" in found
    assert ".pth" in hint
    assert {f.verdict for f in result.findings} == {"undecided", "not applicable"}


@pytest.mark.slow
def test_cheap_experiments_run_to_their_verdicts(tmp_path):
    expected = {
        "13": ["confirmed", "refuted", "confirmed"],
        "22": ["confirmed", "confirmed", "confirmed"],
        "25": ["confirmed"] * 4,
    }
    for number, verdicts in expected.items():
        study = Study.read(f"surgeon:post/{number}")
        result = run_study(study, tmp_path / number, store=tmp_path / "store", report=False)
        assert [f.verdict for f in result.findings] == verdicts, result.findings
        assert (tmp_path / number / "figure.png").exists()


@pytest.mark.slow
def test_attention_without_positions_is_equivariant(tmp_path):
    study = Study.read(
        "surgeon:post/27",
        ['axes.image=["surgeon:boot"]', "recipe.probes.permutation.arrangements=96"],
    )
    result = run_study(study, tmp_path / "27", store=tmp_path / "store", report=False)
    assert result.findings[0].verdict == "confirmed"
    assert result.findings[2].verdict == "refuted"
    added = result.table.where(case="ViT trained, positions added", site="blocks[5]")
    assert added.column("recovered")[0] > 0.9
    assert added.column("equivariance_error")[0] > 0.1


# --- the checks, on tables made by hand


def table(rows, missing=()):
    """A table of (labels, figures) pairs."""
    made = tuple(
        Row(dict(labels), str(figures.pop("site", "blocks[0]")), figures, Path(), "invert")
        for labels, figures in rows
    )
    axes: dict[str, list[str]] = {}
    for row in made:
        for axis, label in row.labels.items():
            if label not in axes.setdefault(axis, []):
                axes[axis].append(label)
    return Table(made, axes, tuple(missing))


def verdicts(check, cases, **settings):
    """What a check says of several tables."""
    return [check(table(rows, missing), {"claim": "c", "check": "x", **settings}).verdict
            for rows, missing in cases]  # fmt: skip


def at(axis, values, figure="psnr", **more):
    return [({axis: label}, {figure: value, **more}) for label, value in values.items()]


MISSING = [{"k": "9", "probe": "invert"}]
THREE = ["confirmed", "refuted", "undecided"]


def test_seen_counts_what_an_eye_can_tell():
    settings = {"by": "spread", "figure": "psnr", "along": "k", "threshold": 6}
    good, bad = at("k", {"0": 150.0, "1": 90.0}), at("k", {"0": 40.0, "1": 20.0})
    assert verdicts(checks.seen, [(good, ()), (bad, ()), (good, MISSING)], **settings) == THREE
    below = at("k", {"0": -10.0, "1": -40.0})
    assert verdicts(checks.seen, [(below, ())], **settings) == ["confirmed"]


def test_holds():
    good = at("k", {"0": True, "1": True}, "right")
    bad = at("k", {"0": True, "1": False}, "right")
    asked = {"figure": "right", "share": 1.0}
    assert verdicts(checks.holds, [(good, ()), (bad, ()), ([], ())], **asked) == THREE
    assert verdicts(checks.holds, [(bad, ())], figure=["right"], share=0.5) == ["confirmed"]


def test_between():
    asked = {"figure": "psnr", "first": {"k": "0"}, "second": {"k": "1"}, "threshold": 3}
    good, bad = at("k", {"0": 30.0, "1": 20.0}), at("k", {"0": 21.0, "1": 20.0})
    half = at("k", {"0": 30.0})
    assert verdicts(checks.between, [(good, ()), (bad, ()), (half, ())], **asked) == THREE


def test_gains():
    asked = {"figure": "psnr", "axis": "k", "over": "0", "among": ["1", "2"], "threshold": 3}
    good = at("k", {"0": 20.0, "1": 21.0, "2": 15.0})
    bad = at("k", {"0": 20.0, "1": 21.0, "2": 30.0})
    cases = [(good, ()), (bad, ()), (at("k", {"0": 20.0}), ())]
    assert verdicts(checks.gains, cases, **asked) == THREE


def test_wavelets():
    def bank(share, threshold):
        size = {"threshold": threshold, "height": 4, "width": 4}
        return at("k", {"0": share}, "wavelets", **size), ()

    cases = [bank(0.5, 0.4), bank(0.9, 0.4), ([], ()), bank(0.5, 0.95)]
    found = verdicts(checks.wavelets, cases, least=0.35, most=0.65)
    assert found == [*THREE, "not applicable"]


def test_injective():
    def maps(*said, **more):
        return at("k", dict(enumerate_labels(said)), "verdict", **more), ()

    proved, here, open_ = "not injective: proved", "injective here", "not converged"
    assert verdicts(checks.injective, [maps(here), maps(here, proved), maps(here, open_)]) == THREE
    other = {"wanted": proved}
    assert verdicts(checks.injective, [maps(proved), maps(here), maps(open_)], **other) == THREE
    bad = maps("ill-conditioned", smallest=1e-3, largest=10.0)
    assert verdicts(checks.injective, [bad]) == ["confirmed"]
    flat = maps("ill-conditioned", smallest=1e-16, largest=10.0)
    assert verdicts(checks.injective, [flat]) == ["undecided"]


def enumerate_labels(values):
    return {str(i): value for i, value in enumerate(values)}.items()


def test_twins():
    def runs(*pairs):
        return [({"k": str(i)}, {"embedding_relative": e, "psnr": p})
                for i, (e, p) in enumerate(pairs)], ()  # fmt: skip

    cases = [runs((0.001, 10.0), (0.5, 40.0)), runs((0.001, 40.0)), runs((0.5, 10.0))]
    assert verdicts(checks.twins, cases, together=0.01, apart=20) == THREE


def test_exactly():
    good, bad = at("k", {"0": 784}, "elements_in"), at("k", {"0": 785}, "elements_in")
    asked = {"values": {"elements_in": 784}}
    assert verdicts(checks.exactly, [(good, ()), (bad, ()), ([], ())], **asked) == THREE


def run_folder(folder, name, tensors):
    """A row whose run holds these tensors."""
    (folder / name).mkdir()
    save_file(tensors, folder / name / "result.safetensors")
    return folder / name


def pictures(folder, images, target):
    rows = []
    for label, image in images.items():
        tensors = {"image/blocks[0]": image, "target/photo": target.clone()}
        path = run_folder(folder, label, tensors)
        rows.append(Row({"part": label}, "blocks[0]", {"psnr": 1.0}, path, "invert"))
    return Table(tuple(rows), {"part": list(images)}, ())


def test_dark_background_and_rough_patches(tmp_path):
    target = torch.full((1, 1, 8, 8), 0.5)
    target[..., :4] = 0.0
    grey = target.clone()
    grey[..., :4] = 0.4
    chequered = target + 0.3 * (torch.arange(8) % 2 * 2 - 1.0)
    asked = {"claim": "c", "axis": "part", "before": "a", "after": "b", "threshold": 0.5}
    found = patches.dark(pictures(tmp_path, {"a": grey, "b": target}, target), asked)
    assert (found.verdict, found.value) == ("confirmed", 0.0)
    swapped = {**asked, "before": "b", "after": "a"}  # never lost
    assert patches.dark(pictures_again(tmp_path), swapped).verdict == "not applicable"
    (tmp_path / "2").mkdir()
    rough = pictures(tmp_path / "2", {"a": chequered, "b": chequered}, target)
    assert patches.rough_patches(rough, {**asked, "side": 4}).verdict == "refuted"
    (tmp_path / "3").mkdir()
    mended = pictures(tmp_path / "3", {"a": chequered, "b": target}, target)
    assert patches.rough_patches(mended, {**asked, "side": 4}).verdict == "confirmed"
    alone = Table(mended.rows[:1], mended.axes, ())
    assert patches.rough_patches(alone, {**asked, "side": 4}).verdict == "undecided"


def pictures_again(folder):
    rows = [Row({"part": label}, "blocks[0]", {"psnr": 1.0}, folder / label, "invert")
            for label in ("a", "b")]  # fmt: skip
    return Table(tuple(rows), {"part": ["a", "b"]}, ())


def test_directions_counts_singular_values(tmp_path):
    def spectrum(name, values):
        tensors = {"spectrum/pixels to x": torch.tensor(values, dtype=torch.float64)}
        path = run_folder(tmp_path, name, tensors)
        return Table((Row({}, "pixels to x", {}, path, "diagnose"),), {}, ())

    asked = {"claim": "c", "threshold": 0.3}
    assert checks.directions(spectrum("a", [1.0, 1e-14, 0.0, 0.0]), asked).verdict == "confirmed"
    assert checks.directions(spectrum("b", [1.0, 0.1, 1e-3, 0.0]), asked).verdict == "refuted"
    assert checks.directions(Table((), {}, ()), asked).verdict == "undecided"


def test_patch_tokens_leave_the_class_token_out(tmp_path):
    def judged(name, std, verdict):
        folder = tmp_path / name
        folder.mkdir()
        tokens = [
            {"token": 0, "std": 0.001, "verdict": "not injective: proved"},
            {"token": 1, "std": std, "verdict": verdict},
            {"token": 2, "std": 0.9, "verdict": "injective here"},
        ]
        (folder / "run.json").write_text(json.dumps({"tables": {"blocks[0].mlp": tokens}}))
        return Row({"normalize": name}, "blocks[0].mlp", {"tokens": 3}, folder, "diagnose")

    raw = judged("false", 0.1, "not injective: proved")
    normal = judged("true", 0.5, "injective here")
    axes = {"normalize": ["true", "false"]}
    asked = {"claim": "c", "check": "x", "by": "compare", "axis": "normalize", "first": False,
             "second": True}  # fmt: skip
    least = {**asked, "figure": "patch_std_least", "measure": "ratio", "wants": "at most"}
    found = patches.patch_tokens(Table((normal, raw), axes, ()), {**least, "threshold": 0.5})
    assert (found.verdict, round(found.value, 6)) == ("confirmed", 0.2)
    proved = {**asked, "figure": "patch_tokens_proved", "threshold": 1}
    found = patches.patch_tokens(Table((normal, raw), axes, ()), proved)
    assert (found.verdict, found.value) == ("confirmed", 1.0)
    assert patches.patch_tokens(Table((raw,), axes, ()), proved).verdict == "undecided"
