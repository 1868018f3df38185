"""What diagnose finds on models of real size: the figures of docs/reference/diagnose.md.

python benchmarks/diagnosis.py PART...

    default deep small dark maps collisions fashion lite0 alone large
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

import surgeon
from surgeon import Bypass, DropResidual, ModelSpec, Recipe, Truncate
from surgeon.recipe import InputSpec

OUT = Path("runs/diagnosis")
B32, L16 = ModelSpec("torchvision/vit_b_32"), ModelSpec("torchvision/vit_l_16")
PHOTOS = ["surgeon:chelsea", "surgeon:coffee", "surgeon:rocket"]


def run(
    name: str, recipe: Recipe, image: Any = "surgeon:chelsea", *, check: bool = False,
    **settings: Any,
) -> None:  # fmt: skip
    """A run with its folder, its figures and seconds printed; verified where asked."""
    processor = time.process_time()
    model = recipe.load()
    with surgeon.operate(model, recipe) as subject:
        result = surgeon.run_probe("diagnose", subject, image=image, **settings)
        busy, spent = time.process_time() - processor, subject.ledger.spent
        seconds = result.timing["seconds"]
        print(f"== {name}: {seconds:.0f} s, {busy:.0f} s of processor, {spent:.0f} evaluations")
    folder = result.save(OUT / name, overwrite=True)
    for label, figures in result.figures.items():
        print(label, json.dumps(figures))
    for note in result.notes:
        print("  ", note)
    if check:
        began = time.perf_counter()
        checks = surgeon.verify(folder)
        broken = [check for check in checks if not check.confirmed]
        print(f"   verified in {time.perf_counter() - began:.0f} s: {broken or 'all confirmed'}")
    sys.stdout.flush()


def default() -> None:
    """The default report on ViT-B/32 at one site."""
    run("default", Recipe(B32), sites="blocks[0]")


def deep() -> None:
    """The default report at the last block: 24 sublayers."""
    run("deep", Recipe(B32), sites="blocks[11]")


def small() -> None:
    """The default report on the packaged models, and worked out again."""
    for name in ("vit_fashion", "mixer_fashion", "resnet_fashion"):
        run(name, Recipe(f"surgeon/{name}", weights="fashion"), check=True)


def maps() -> None:
    """What foretells the worst patches of an un-normalised photo."""
    for photo in PHOTOS:
        recipe = Recipe(B32, input=InputSpec(normalize=False))
        run(f"maps-{photo.partition(':')[2]}", recipe, photo, sites="blocks[0]", search=0,
            sublayers="blocks[0].mlp", collision=False)  # fmt: skip


def dark() -> None:
    """Second pre-images of un-normalised and normalised photos, block 0's mlp."""
    for normalize in (False, True):
        for photo in PHOTOS:
            recipe = Recipe(B32, input=InputSpec(normalize=normalize))
            name = f"{photo.partition(':')[2]}-{'normalised' if normalize else 'raw'}"
            run(name, recipe, photo, sites="blocks[0]", sublayers="blocks[0].mlp", search=2,
                tokens=16, collision=False, twin_steps=0)  # fmt: skip


def collisions() -> None:
    """One pair for the first and the last block; three seeds, three photos, raw pixels too."""
    for normalize, seed, photo in [
        *((True, seed, PHOTOS[0]) for seed in (0, 1, 2)),
        *((True, 0, photo) for photo in PHOTOS[1:]),
        (False, 0, PHOTOS[0]),
    ]:
        spec = ModelSpec("torchvision/vit_b_32", seed=seed)
        recipe = Recipe(spec, input=InputSpec(normalize=normalize))
        name = f"collisions-{seed}-{photo.partition(':')[2]}{'' if normalize else '-raw'}"
        run(name, recipe, photo, sites=["blocks[0]", "blocks[11]"], sublayers=[], twin_steps=0,
            check=seed == 0 and photo == PHOTOS[0])  # fmt: skip


def fashion() -> None:
    """A trained small ViT, all of its sublayers; and collisions by search."""
    recipe = Recipe("surgeon/vit_fashion", weights="fashion")
    run("fashion", recipe, sites="blocks[0]", sublayers=["blocks[*].attention", "blocks[*].mlp"],
        dense=800, collision_budget=400)  # fmt: skip
    run("fashion-head", recipe, sublayers=[], twin_steps=0, collision_budget=400)


def lite0() -> None:
    """EfficientNet-Lite0's first stages, real weights."""
    from real_weights import lite0_recipe

    for site in ("stages[0]", "stages[1]"):
        run(f"lite0-{site}", lite0_recipe() | Truncate(site), sublayers=[], twin_steps=0,
            collision_budget=1200)  # fmt: skip


def alone() -> None:
    """Attention alone, without its residual: 1,024 wide, 197 tokens."""
    recipe = Recipe(L16) | DropResidual("blocks[0]") | Bypass("blocks[0].mlp")
    run("alone", recipe, sites="blocks[0]", sublayers="blocks[0].attention", collision=False)


def large() -> None:
    """The sign and the smallest singular value of attention: 38,400 columns."""
    run("large", Recipe(B32), sites="blocks[0]", sublayers="blocks[0].attention", products=2000,
        collision=False, twin_steps=0)  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(int(torch.get_num_threads()))
    for part in sys.argv[1:] or ["default"]:
        globals()[part]()
