"""What exact inversion gives back of untrained networks: a row for each model, surgery and photo.

    python benchmarks/exact_rows.py [--rows NAME ...] [--images coffee chelsea] [--seeds 0 1 2]
        [--sites ...] [--lbfgs]

With `--lbfgs` L-BFGS has what exact spent as well, rounded up to a whole evaluation; the ratio of
embedding errors is L-BFGS's to exact's.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import surgeon
from surgeon import Bypass, DropResidual, Recipe, Truncate
from surgeon.recipe import InputSpec

sys.path.insert(0, str(Path(__file__).parent))


@dataclass(frozen=True)
class Row:
    """One model with its surgery: where its value is known, and what may be spent."""

    model: str
    sites: list[str]
    steps: int = 50
    surgery: list = field(default_factory=list)
    raw: bool = False


B32, L16 = "torchvision/vit_b_32", "torchvision/vit_l_16"
LAST = ["blocks[11]"]
NORMS = ["blocks[*].norm1", "blocks[*].norm2", "final_norm"]
ROWS = {
    "first": Row(B32, ["blocks[0]", "blocks[5]", "blocks[11]"]),
    "every": Row(B32, [f"blocks[{i}]" for i in range(12)]),
    "positions": Row(B32, LAST, surgery=[Bypass("pos_embed")]),
    "attention": Row(B32, LAST, surgery=[Bypass("blocks[*].attention")]),
    "mlp": Row(B32, LAST, surgery=[Bypass("blocks[*].mlp")]),
    "norms": Row(B32, LAST, surgery=[Bypass(NORMS)]),
    "norms timm": Row("timm/vit_base_patch32_224", LAST, surgery=[Bypass(NORMS)]),
    "raw": Row(B32, LAST, steps=150, raw=True),
    "large": Row(L16, ["blocks[23]"], steps=100),
    "large raw": Row(L16, ["blocks[23]"], steps=150, raw=True),
    "mixer": Row("timm/mixer_b16_224", LAST, steps=150),
    "resnet": Row("torchvision/resnet50", ["path:layer1", "path:layer2"], steps=100),
    "attention alone": Row(
        B32, ["blocks[0]"], 100,
        [DropResidual("blocks[0].attention"), Bypass("blocks[*].mlp"), Truncate("blocks[0]")],
    ),
    "lite0": Row("lite0", ["path:blocks.0", "path:blocks.1", "path:blocks.2"], steps=100),
}  # fmt: skip


def recipe_of(row: Row, seed: int) -> Recipe:
    if row.model == "lite0":
        from real_weights import lite0_recipe

        return lite0_recipe()
    recipe = Recipe(row.model, seed=seed)
    for operation in row.surgery:
        recipe = recipe | operation
    return recipe.updated(input=InputSpec(normalize=False)) if row.raw else recipe


def inverted(subject, image: str, site: str, seed: int, method: str, steps: int) -> dict:
    result = surgeon.run_probe(
        "invert", subject, image=f"surgeon:{image}", method=method, steps=steps, sites=site,
        seeds=[seed],
    )  # fmt: skip
    (figures,) = result.figures.values()
    return figures


def line(name: str, image: str, seed: int, site: str, figures: dict, other: dict | None) -> str:
    def short(key: str) -> str:
        value = figures[key]
        return f"{value:>9.2g}" if value is not None else f"{'':>9}"

    text = f"{name:<16}{image:<9}{seed:>2}  {site:<14}{figures['gradient_evaluations']:>7.1f}"
    text += "".join(short(k) for k in ("embedding_relative", "token_error", "row_space_error"))
    text += f"{figures['psnr']:>7.1f}"
    if other is not None:
        ratio = other["embedding_relative"] / max(figures["embedding_relative"], 1e-300)
        text += f"{other['embedding_relative']:>9.2g}{ratio:>9.3g}"
    return f"{text}  {figures['stopped']}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", nargs="*", default=["first"], choices=list(ROWS))
    parser.add_argument("--images", nargs="*", default=["coffee", "chelsea"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--sites", nargs="*")
    parser.add_argument("--lbfgs", action="store_true")
    options = parser.parse_args()
    heads = ("row", "photo", "seed", "site", "GE", "embedding", "token", "row space", "PSNR")
    print(" ".join(heads), "L-BFGS's embedding, ratio" if options.lbfgs else "")
    for name in options.rows:
        row = ROWS[name]
        for seed in options.seeds:
            recipe = recipe_of(row, seed)
            with surgeon.operate(recipe.load(), recipe) as subject:
                for image in options.images:
                    for site in options.sites or row.sites:
                        found = inverted(subject, image, site, seed, "exact", row.steps)
                        other = None
                        if options.lbfgs:
                            spent = math.ceil(found["gradient_evaluations"])
                            other = inverted(subject, image, site, seed, "lbfgs", spent)
                        print(line(name, image, seed, site, found, other), flush=True)


if __name__ == "__main__":
    main()
