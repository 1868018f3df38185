"""The `diagnose` probe: what it says, keeps and draws."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import surgeon
from surgeon import Bypass, DropResidual, Recipe
from surgeon.diagnosis.collisions import examine
from surgeon.runs.pictures import draw_result
from surgeon.testing import assert_probe_conforms, tiny_vit
from surgeon_diagnose.picture import maps_of

SIZE = (3, 16, 16)


def photo(seed=0):
    return torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(seed))


def diagnose(recipe=None, model=None, **settings):
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
    assert list(kept) == ["pixels to blocks[0]", "pixels to blocks[1]", "blocks[0].attention",
                          "blocks[0].mlp"]  # fmt: skip
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
    result = diagnose(sites="blocks[0]", dense=4, collision=False)
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
    assert list(diagnose(sublayers=[], sites="blocks[0]").figures) == ["pixels to blocks[0]"]


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
    assert titles == ["photo image", "same output", "|difference|", "token std",
                      "smallest singular value", "sign of det(I + J)"]  # fmt: skip
    assert "PSNR" in sheet.rows[0][1].caption
    assert "not injective: proved" in sheet.note
    draw_result(result)


def test_no_image_is_an_error():
    with surgeon.operate(tiny_vit(), Recipe(), input_size=SIZE) as subject:
        with pytest.raises(surgeon.SurgeonError, match="image"):
            surgeon.run_probe("diagnose", subject)
