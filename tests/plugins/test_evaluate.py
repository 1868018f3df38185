"""evaluate: counted by hand, resumable, and its data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

import surgeon
from surgeon import Bypass, Recipe, Truncate
from surgeon.datasets import ArrayDataset, open_dataset
from surgeon.errors import ImageError, ProbeError
from surgeon.labels import class_index, labels_of
from surgeon.probe import Inputs
from surgeon.statistics import paired_change, wilson
from surgeon.testing import assert_restores, tiny_vit
from surgeon_evaluate.probe import Evaluate
from surgeon_evaluate.settings import EvaluateSettings
from surgeon_models.fashion_mnist import load
from surgeon_models.packaged_source import card

VIT = Recipe("surgeon/vit_fashion", weights="fashion")


def evaluate(recipe, **settings):
    model = recipe.load()
    with assert_restores(model), surgeon.operate(model, recipe) as subject:
        return surgeon.run_probe("evaluate", subject, **settings)


def test_figures_are_counted_as_by_hand():
    recipe = VIT | Bypass("blocks[5].attention")
    figures = evaluate(recipe, limit=300, batch=77).figures["fashion_mnist"]
    data = load()
    images, labels = data.batch(0, 300, surgeon.Preprocessing((1, 28, 28)))
    model = VIT.load()
    with torch.no_grad():
        before = model((images - 0.2860) / 0.3530)
        with surgeon.operate(model, recipe) as subject:
            after = subject(images)
    right, was = after.argmax(1) == labels, before.argmax(1) == labels
    assert figures["images"] == 300
    assert figures["accuracy"] == float(right.double().mean())
    assert figures["unoperated_accuracy"] == float(was.double().mean())
    assert figures["accuracy_change"] == pytest.approx(
        figures["accuracy"] - figures["unoperated_accuracy"]
    )
    fifth = after.sort(1, descending=True).indices[:, :5]
    assert figures["top5"] == float((fifth == labels[:, None]).any(1).double().mean())
    same = after.argmax(1) == before.argmax(1)
    assert figures["agreement"] == float(same.double().mean())
    shift = (after - before).norm(dim=1).mean()
    assert figures["logit_shift"] == pytest.approx(float(shift), rel=1e-5)
    assert figures["accuracy"] < figures["unoperated_accuracy"]


def test_the_table_adds_up_to_the_whole():
    result = evaluate(VIT | Bypass("blocks[0].attention"), limit=200, examples=3)
    rows = result.tables["classes"]
    assert sum(row["images"] for row in rows) == 200
    right = sum(row["accuracy"] * row["images"] for row in rows)
    assert right / 200 == pytest.approx(result.figures["fashion_mnist"]["accuracy"])
    assert [row["class"] for row in rows] == card("vit_fashion")["labels"]
    assert len(result.images) == 3
    for name in result.images:
        truth, _, rest = name.partition(": ")[2].partition("; was ")
        was, now = rest.split(", now ")
        assert (was == truth) != (now == truth)
    assert result.figure() is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_fashion", "resnet_fashion"])
def test_the_cards_accuracy_to_the_last_digit(name):
    figures = evaluate(Recipe(f"surgeon/{name}", weights="fashion"), batch=500).figures
    assert figures["fashion_mnist"]["accuracy"] == card(name)["test_accuracy"]
    assert figures["fashion_mnist"]["images"] == card(name)["test_images"]
    assert "agreement" not in figures["fashion_mnist"]


def test_any_state_is_enough_to_go_on_from():
    recipe, settings = VIT | Bypass("blocks[2].mlp"), EvaluateSettings(limit=120, batch=50)
    with surgeon.operate(recipe.load(), recipe) as subject:
        inputs = Inputs((), recipe)
        probe = Evaluate()
        step = probe.step(subject, inputs, settings, probe.start(subject, inputs, settings))
        kept = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in step.state.items()}
        results = []
        for each in (probe, Evaluate()):
            state, done = step.state, False
            while not done:
                following = each.step(subject, inputs, settings, state)
                state, done = following.state, following.done
            results.append(each.finish(subject, inputs, settings, state))
        assert results[0].figures == results[1].figures
        for key, value in kept.items():
            now = step.state[key]
            assert torch.equal(now, value) if isinstance(value, torch.Tensor) else now == value


def test_folders_by_index_by_name_and_by_synset(tmp_path):
    labels = (("tench", "n01440764"), ("Ankle boot",))
    for folder in ("1", "n01440764", "ankle_boot"):
        (tmp_path / folder).mkdir()
        Image.new("L", (40, 28), 51).save(tmp_path / folder / "x.png")
    data = open_dataset(str(tmp_path), labels)
    images, found = data.batch(0, 3, surgeon.Preprocessing((1, 28, 28)))
    assert found.tolist() == [1, 1, 0]
    assert images.shape == (3, 1, 28, 28)
    torch.testing.assert_close(images, torch.full_like(images, 0.2))
    (tmp_path / "boots").mkdir()
    Image.new("L", (28, 28)).save(tmp_path / "boots" / "x.png")
    with pytest.raises(ProbeError, match="Ankle boot"):
        open_dataset(str(tmp_path), labels)


def test_a_folder_is_evaluated(tmp_path):
    data = load()
    for i in range(20):
        place = tmp_path / "photos" / str(int(data.labels[i]))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[i, 0]).save(place / f"{i}.png")
    found = evaluate(VIT, data=str(tmp_path / "photos")).figures["photos"]
    assert found["accuracy"] == evaluate(VIT, limit=20).figures["fashion_mnist"]["accuracy"]


def test_torchvisions_datasets_open_what_is_there(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    from surgeon_models import fashion_mnist

    for part in ("images-idx3", "labels-idx1"):
        file = fashion_mnist._DATA / f"t10k-{part}-ubyte.gz"
        (raw / file.stem).write_bytes(fashion_mnist.gzip.decompress(file.read_bytes()))
        # torchvision asks for the training part to be there as well
        (raw / file.stem.replace("t10k", "train")).write_bytes(b"")
    data = open_dataset(f"torchvision:FashionMNIST:{tmp_path}", ())
    images, labels = data.batch(5, 9, surgeon.Preprocessing((1, 28, 28)))
    wanted, right = load().batch(5, 9, surgeon.Preprocessing((1, 28, 28)))
    assert torch.equal(images, wanted)
    assert torch.equal(labels, right)
    assert data.classes[9] == "Ankle boot"
    with pytest.raises(ImageError, match="root, download=True"):
        open_dataset(f"torchvision:CIFAR10:{tmp_path}", ())
    with pytest.raises(ImageError, match="FashionMNIST"):
        open_dataset("torchvision:FashionMnist:.", ())


def test_images_of_another_size_are_fitted():
    data = ArrayDataset("x", np.full((2, 1, 20, 30), 102, np.uint8), np.array([0, 1]))
    images, _ = data.batch(0, 2, surgeon.Preprocessing((3, 12, 12)))
    torch.testing.assert_close(images, torch.full((2, 3, 12, 12), 0.4))


def test_what_it_cannot_evaluate():
    with pytest.raises(ProbeError, match="no truncate"):
        evaluate(VIT | Truncate("blocks[2]"))
    with pytest.raises(ImageError, match="try:   fashion_mnist"):
        evaluate(VIT, data="surgeon:fashion")
    with pytest.raises(ImageError, match="surgeon:fashion_mnist"):
        evaluate(VIT, data="fashion_mnist")
    with surgeon.operate(tiny_vit(), Recipe(), input_size=(3, 16, 16)) as subject:
        result = surgeon.run_probe("evaluate", subject, limit=10)
    assert any("your own" in note for note in result.notes)


def test_classes_by_name():
    labels = (("crane",), ("dalmatian", "coach dog"), ("crane",), ("sloth bear", "coach dog"))
    assert class_index("Dalmatian", labels) == 1
    assert class_index("3", labels) == 3
    wrong = {
        "crane": "0 .crane., 2",
        "coach dog": "1 ",
        "dalmation": "dal",
        4: "0 to 3",
        -1: "0 to",
    }
    for asked, hint in wrong.items():
        with pytest.raises(ProbeError, match=hint):
            class_index(asked, labels)
    spec = surgeon.ModelSpec("timm/tf_efficientnet_lite0")
    found = labels_of(spec, spec and Recipe(spec).load())
    assert found[251] == ("dalmatian", "coach dog", "carriage dog", "n02110341")


def test_intervals_against_their_definitions():
    """Wilson's ends are where the normal test of the share is just met."""
    from scipy import stats

    low, high = wilson(37, 50)
    for end in (low, high):
        assert abs(37 / 50 - end) / math.sqrt(end * (1 - end) / 50) == pytest.approx(1.959964)
    sign = [1] * 4 + [-1] * 9 + [0] * 87
    mean, low, high = paired_change(4, 9, 100)
    assert mean == pytest.approx(np.mean(sign))
    half = stats.norm.ppf(0.975) * np.std(sign) / 10
    assert (low, high) == pytest.approx((mean - half, mean + half))
