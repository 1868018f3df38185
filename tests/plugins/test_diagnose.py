"""The `diagnose` probe: what it says, keeps and draws."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import surgeon
from surgeon import Bypass, DropResidual, Recipe
from surgeon.diagnosis.collisions import examine
from surgeon.runs.pictures import draw_result
from surgeon.testing import assert_probe_conforms, tiny_vit
from surgeon_diagnose.maps import maps_of, prediction

SIZE = (3, 16, 16)


def photo(seed=0):
    return torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(seed))


def diagnose(recipe=None, model=None, **settings):
    settings = {"dense": 100, **settings}  # not the image's 768 columns
    with surgeon.operate(model or tiny_vit(), recipe or Recipe(), input_size=SIZE) as subject:
        return surgeon.run_probe("diagnose", subject, image=photo(), **settings)


@pytest.mark.slow
def test_it_conforms_token_by_token_and_through_checkpoints():
    assert_probe_conforms(
        "diagnose", recipe=Recipe(), sites="stem", sublayers="blocks[0].mlp", batch=4
    )


def test_a_run_keeps_its_pair_and_figures(tmp_path):
    result = diagnose(sites=["blocks[0]", "blocks[1]"])
    folder = result.save(tmp_path / "run")
    kept = json.loads((folder / "run.json").read_text())["figures"]
    assert list(kept) == ["pixels to blocks[0]", "pixels to blocks[1]", "twin of blocks[0]",
                          "twin of blocks[1]", "blocks[0].attention", "blocks[0].mlp",
                          "blocks[1].attention", "blocks[1].mlp"]  # fmt: skip
    assert kept["pixels to blocks[1]"]["verdict"] == "not injective: proved"
    assert kept["pixels to blocks[1]"]["by"] == "counting"
    assert kept["pixels to blocks[1]"]["elements_stem"] == 32
    attention = kept["blocks[0].attention"]
    assert (attention["verdict"] == "not injective: proved") == (attention["determinant_sign"] < 0)
    assert kept["blocks[0].mlp"]["tokens_judged"] == 5
    tensors = load_file(folder / "result.safetensors")
    pair = [tensors[f"pair/image/{name}"] for name in ("first", "second")]
    assert all(t.dtype == torch.float64 for t in pair)
    with surgeon.operate(tiny_vit(), Recipe(), input_size=SIZE) as subject:
        assert examine(subject, subject.anatomy.select("blocks[1]")[0], *pair).verified
    assert (folder / "diagnose.png").stat().st_size > 10_000


def test_without_residuals_the_norm_is_a_proof():
    result = diagnose(Recipe() | DropResidual("blocks[0]"), sites="blocks[0]")
    for name in ("blocks[0].attention", "blocks[0].mlp"):
        assert result.figures[name]["verdict"] == "not injective: proved", name
    assert "blind to the mean" in " ".join(result.notes)
    bypassed = Recipe() | DropResidual("blocks[0]") | Bypass("blocks[0].norm1")
    found = diagnose(bypassed, sites="blocks[0]").figures["blocks[0].attention"]
    assert found["verdict"] != "not injective: proved"


def test_what_is_too_large_is_said_to_be_open():
    result = diagnose(sites="blocks[0]", dense=4, collision=False, products=0)
    assert result.figures["blocks[0].mlp"]["verdict"] == "not converged"
    assert "at most 4" in " ".join(result.notes)
    assert result.figures["pixels to blocks[0]"]["verdict"] == "not injective: proved"


def test_some_tokens_leave_the_question_open():
    result = diagnose(sites="blocks[0]", sublayers="blocks[0].mlp", tokens=2, collision=False)
    figures, rows = result.figures["blocks[0].mlp"], result.tables["blocks[0].mlp"]
    everything = diagnose(sites="blocks[0]", sublayers="blocks[0].mlp", collision=False)
    whole = everything.tables["blocks[0].mlp"]
    assert figures["verdict"] == "not converged"
    assert {r["token"] for r in rows} == {
        r["token"] for r in sorted(whole, key=lambda r: r["std"])[:2]
    }


def test_no_sublayers_on_request():
    assert list(diagnose(sublayers=[], sites="blocks[0]", twin_steps=0).figures) == [
        "pixels to blocks[0]"
    ]


def test_a_map_is_laid_out_as_the_patches_are():
    rows = [
        {"token": i, "std": float(i), "smallest": None, "determinant_sign": 1} for i in (0, 2, 4)
    ]
    maps = maps_of(rows, (2, 2))
    assert torch.equal(maps["std"].nan_to_num(-1), torch.tensor([[-1.0, 2.0], [-1.0, 4.0]]))
    assert bool(maps["smallest"].isnan().all())
    assert maps_of([], (2, 2)) == {}


def test_the_picture_shows_pair_and_maps():
    result = diagnose(sites="blocks[0]")
    sheet = result.draw(result)
    titles = [panel.title for row in sheet.rows for panel in row]
    assert titles == [
        "photo image", "same output", "|difference|", "inverted from blocks[0]",
        "blocks[0].mlp: token std", "spectral radius of J", "smallest singular value",
        "sign of det(I + J)", "other pre-images found", "inversion error",
    ]  # fmt: skip
    assert "PSNR" in sheet.rows[0][1].caption
    assert "not injective: proved" in sheet.note
    draw_result(result)


def test_twins_near_the_output_and_stop_after_their_steps():
    result = diagnose(sites="blocks[0]", sublayers=[], twin_steps=25)
    embedding, pixels = (result.curves[f"twin of blocks[0]/{n}"] for n in ("embedding", "pixels"))
    assert [x for x, _ in embedding] == list(range(1, 26))
    assert embedding[-1][1] < 0.5 * embedding[0][1]
    assert pixels[-1][1] < pixels[0][1]
    figures = result.figures["twin of blocks[0]"]
    assert figures["input_distance"] == pytest.approx(pixels[-1][1], rel=0.1)
    assert figures["yardstick"] == pytest.approx(
        figures["embedding_distance"] / figures["yardstick_ratio"]
    )
    sheet = result.draw(result)
    chart = next(c for c in sheet.curves if c.title == "a plain inversion")
    assert chart.log_x
    assert chart.log_y
    assert chart.level[0] == figures["yardstick"]


def test_a_map_foretells_what_goes_with_it():
    error = torch.arange(16.0).reshape(4, 4)
    nothing = torch.full((4, 4), float("nan"))
    maps = {"error": error, "std": -error, "smallest": error, "spectral_radius": 0 * error,
            "determinant_sign": nothing, "preimages": nothing}  # fmt: skip
    found = prediction(maps)
    assert found["patches_wrong"] == 4
    assert (found["auc_std"], found["auc_smallest"]) == (1, 0)
    assert list(found) == ["patches_wrong", "auc_std", "auc_smallest"]  # the others say nothing


# --- depth


def test_every_sublayer_up_to_the_deepest_site_has_a_verdict(tmp_path):
    result = diagnose(sites="blocks[1]", twin_steps=0, collision=False)
    names = ["blocks[0].attention", "blocks[0].mlp", "blocks[1].attention", "blocks[1].mlp"]
    assert [n for n in result.figures if n.startswith("blocks")] == names
    assert [n for n in diagnose(sites="blocks[0]", twin_steps=0).figures if n in names] == names[:2]
    found = [result.figures[name] for name in names]
    for before, after in zip(found, found[1:], strict=False):
        assert after["tokens_apart_before"] == pytest.approx(before["tokens_apart"])
    assert "depth.png" in result.files
    assert not [name for name in result.tensors if name.startswith("map/blocks[1]")]
    folder = result.save(tmp_path / "run")
    assert (folder / "depth.png").stat().st_size > 10_000
    checks = surgeon.verify(folder, model=tiny_vit())
    assert [c.name for c in checks if c.confirmed][-4:] == names, checks


def test_a_far_sublayer_is_judged_as_a_named_one_is():
    """The same verdict, and the same extremes to a few hundredths, at a part of the cost."""
    roughly = diagnose(sites="blocks[1]", twin_steps=0, collision=False, dense=20)
    fully = diagnose(sites="blocks[1]", twin_steps=0, collision=False, search=0,
                     sublayers=["blocks[1].attention", "blocks[1].mlp"])  # fmt: skip
    for name in ("blocks[1].attention", "blocks[1].mlp"):
        far, named = roughly.figures[name], fully.figures[name]
        assert far["verdict"] == named["verdict"] == "injective here"
        for key in ("smallest", "largest", "lipschitz_branch"):
            assert far[key] == pytest.approx(named[key], rel=0.03), (name, key)


def test_what_is_bypassed_has_no_verdict():
    recipe = Recipe() | Bypass("blocks[0].mlp") | Bypass("blocks[1]")
    result = diagnose(recipe, sites="blocks[1]", twin_steps=0, collision=False)
    assert [n for n in result.figures if n.startswith("blocks")] == ["blocks[0].attention"]
    assert not result.files


def test_far_tokens_that_cannot_be_bounded_leave_the_question_open(monkeypatch):
    monkeypatch.setattr("surgeon_diagnose.judging.FAR_NUMBERS", 8)
    mild = diagnose(sites="blocks[1]", twin_steps=0, collision=False, batch=1)
    figures = mild.figures["blocks[1].mlp"]
    assert figures["tokens_judged"] == 1
    assert figures["verdict"] == "injective here"
    every = diagnose(sites="blocks[1]", twin_steps=0, collision=False, search=0,
                     sublayers="blocks[1].mlp").tables["blocks[1].mlp"]  # fmt: skip
    rest = [row for row in every if row["std"] > min(r["std"] for r in every)]
    assert 0 < figures["rest_smallest_at_least"] <= min(row["smallest"] for row in rest)
    assert figures["rest_condition_at_most"] >= max(row["condition"] for row in rest)
    steep = tiny_vit()
    with torch.no_grad():
        for parameter in steep.blocks[1].mlp.parameters():
            parameter *= 30
    figures = diagnose(model=steep, sites="blocks[1]", twin_steps=0, collision=False,
                       batch=1).figures["blocks[1].mlp"]  # fmt: skip
    assert figures["rest_smallest_at_least"] <= 0
    assert figures["rest_condition_at_most"] is None
    assert figures["verdict"] != "injective here"


def test_attention_alone_makes_tokens_alike_and_residuals_do_not():
    """Keys and queries at zero: attention is the mean of all tokens, and one layer is enough."""
    model = tiny_vit()
    alone = Recipe() | DropResidual("blocks[*]") | Bypass("blocks[*].mlp")
    found = {}
    for name, recipe in (("whole", Recipe()), ("alone", alone)):
        model = tiny_vit()
        with torch.no_grad():
            for block in model.blocks:
                width = block.attn.qkv.weight.shape[1]
                block.attn.qkv.weight[: 2 * width] = 0
                block.attn.qkv.bias[: 2 * width] = 0
        result = diagnose(recipe, model, sites="blocks[1]", twin_steps=0, collision=False)
        found[name] = result.figures["blocks[0].attention"]
    assert found["alone"]["tokens_apart"] < 1e-12
    assert found["alone"]["stable_rank"] == pytest.approx(1)
    assert found["alone"]["tokens_apart_before"] > 0.1
    assert found["whole"]["tokens_apart"] > 0.1


# --- verify


def seeded(**settings):
    """A run of a model in memory that has certified pre-images, a pair and a determinant's sign."""
    with surgeon.operate(tiny_vit(2), Recipe(), input_size=SIZE) as subject:
        return surgeon.run_probe(
            "diagnose", subject, image=photo(), sites="blocks[0]", starts=40, twin_steps=4,
            dense=100, **settings,
        )  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return seeded().save(tmp_path_factory.mktemp("diagnosis") / "run")


def test_a_token_with_a_negative_determinant_has_a_certified_other():
    result = seeded(sublayers="blocks[0].mlp", collision=False)
    row = result.tables["blocks[0].mlp"][3]
    assert row["determinant_sign"] == -1
    assert row["certified"] == 1
    assert row["preimage_apart"] > 1e-4
    assert row["radius"] + row["radius_other"] < 1e-6
    assert result.figures["blocks[0].mlp"]["preimages_certified"] >= 1
    assert "certified" in " ".join(result.notes)


def test_a_run_is_confirmed_from_its_files(saved):
    checks = surgeon.verify(saved, model=tiny_vit(2))
    assert [c.name for c in checks] == [
        "weights", "preprocessing", "photo image", "pixels to blocks[0]", "blocks[0].attention",
        "blocks[0].mlp",
    ]  # fmt: skip
    assert all(c.confirmed for c in checks), checks


def test_another_model_or_none_is_seen(saved):
    found = {c.name: c.confirmed for c in surgeon.verify(saved, model=tiny_vit(3))}
    assert not found["weights"]
    assert not found["blocks[0].mlp"]
    with pytest.raises(surgeon.SurgeonError, match="in memory"):
        surgeon.verify(saved)


@pytest.mark.parametrize(
    ("tensor", "broken"),
    [
        ("pair/image/second", {"pixels to blocks[0]"}),
        ("pair/image/first", {"pixels to blocks[0]"}),
        ("preimage/blocks[0].mlp/token 3", {"blocks[0].mlp"}),
        ("image/photo image", {"photo image", "pixels to blocks[0]", "blocks[0].attention",
                               "blocks[0].mlp"}),
    ],
)  # fmt: skip
def test_a_changed_tensor_is_seen(saved, tmp_path, tensor, broken):
    folder = shutil.copytree(saved, tmp_path / "run")
    tensors = load_file(folder / "result.safetensors")
    changed = tensors[tensor].clone()
    changed[-1].flatten()[0] += 1e-3
    tensors[tensor] = changed
    save_file(tensors, folder / "result.safetensors")
    checks = surgeon.verify(folder, model=tiny_vit(2))
    assert {c.name for c in checks if not c.confirmed} == broken, checks


@pytest.mark.parametrize(
    ("label", "figure", "value"),
    [
        ("pixels to blocks[0]", "verdict", "injective here"),
        ("pixels to blocks[0]", "pair_psnr", 3.0),
        ("blocks[0].attention", "smallest", 0.5),
        ("blocks[0].mlp", "tokens_proved", 5),
    ],
)
def test_a_changed_figure_is_seen(saved, tmp_path, label, figure, value):
    folder = shutil.copytree(saved, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    assert figure in record["figures"][label]
    record["figures"][label][figure] = value
    (folder / "run.json").write_text(json.dumps(record))
    checks = surgeon.verify(folder, model=tiny_vit(2))
    assert [c.name for c in checks if not c.confirmed] == [label]


def test_a_pair_of_no_pre_images_is_not_certified(saved, tmp_path):
    """Moved by far less than an eye sees, it is another value with another output."""
    folder = shutil.copytree(saved, tmp_path / "run")
    tensors = load_file(folder / "result.safetensors")
    tensors["preimage/blocks[0].mlp/token 3"][1] *= 1 + 1e-9
    save_file(tensors, folder / "result.safetensors")
    (check,) = [c for c in surgeon.verify(folder, model=tiny_vit(2)) if not c.confirmed]
    assert "apart in its output" in check.found


def test_a_probe_without_verdicts_cannot_be_verified(tmp_path):
    with surgeon.operate(tiny_vit(), Recipe(), input_size=SIZE) as subject:
        result = surgeon.run_probe("invert", subject, image=photo(), sites="stem", steps=2)
    folder = result.save(tmp_path / "run")
    with pytest.raises(surgeon.SurgeonError, match="no verdicts"):
        surgeon.verify(folder, model=tiny_vit())


def test_no_image_is_an_error():
    with surgeon.operate(tiny_vit(), Recipe(), input_size=SIZE) as subject:
        with pytest.raises(surgeon.SurgeonError, match="image"):
            surgeon.run_probe("diagnose", subject)
