"""What checkpoints cost: the share of a run's time that goes into saving them.

    python benchmarks/checkpoints.py

Each write is timed, waiting for the disk included; the share is of the whole run. A checkpoint
waits until all of them, one more like the last included, take 0.7 % of the time.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

import surgeon
from surgeon import Recipe, Truncate
from surgeon.recipe_file import checked_settings
from surgeon.runs.checkpoints import Checkpointer
from surgeon.runs.host import checkpoint_of

RUNS = (
    ("surgeon/vit_fashion", "blocks[3]", {"method": "adam", "steps": 100}),
    ("surgeon/vit_fashion", "blocks[3]", {"method": "adam", "steps": 1000}),
    ("surgeon/vit_fashion", "blocks[3]", {"method": "lbfgs", "steps": 1500}),
    ("torchvision/vit_b_32", "blocks[3]", {"method": "adam", "steps": 100}),
    ("torchvision/vit_b_32", "blocks[3]", {"method": "lbfgs", "steps": 100}),
)


def measured(name: str, site: str, settings: dict[str, object]) -> tuple[float, list[float]]:
    """Seconds of the run, and of each checkpoint in it."""
    spent: list[float] = []
    write = Checkpointer.write

    def timed(self, state, log):
        began = time.perf_counter()
        write(self, state, log)
        spent.append(time.perf_counter() - began)

    recipe = Recipe(name, seed=0).updated(operations=(Truncate(site),))
    recipe = recipe.updated(input=surgeon.recipe.InputSpec(image="surgeon:chelsea"))
    Checkpointer.write = timed
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            surgeon.operate(recipe.load(), recipe) as subject,
        ):
            checked = checked_settings("invert", settings)
            saver = checkpoint_of(Path(folder) / "run", "invert", subject, recipe, checked)
            result = surgeon.run_probe(
                "invert", subject, recipe=recipe, checkpoint=saver, **settings
            )
    finally:
        Checkpointer.write = write
    return result.timing["seconds"], spent


def main() -> None:
    torch.set_num_threads(1)
    for name, site, settings in RUNS:
        seconds, spent = measured(name, site, settings)
        said = ", ".join(f"{key} {value}" for key, value in settings.items())
        share = f"{len(spent)} checkpoints, {sum(spent):.3f} s, {sum(spent) / seconds:.2%}"
        print(f"{name} {site} {said}: {seconds:.2f} s, {share}", flush=True)


if __name__ == "__main__":
    main()
