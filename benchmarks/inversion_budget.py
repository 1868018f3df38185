"""What a budget of gradient evaluations buys: the post, descent, Adam and L-BFGS at 120 of them.

    python benchmarks/inversion_budget.py [--steps 120] [--image surgeon:chelsea]

Untrained ViT-B/32, sites blocks[0] and blocks[11], with the model's normalisation and without (the
post's author fed raw pixels, and so does its preset in both rows). The last column is how many
times smaller L-BFGS's embedding error is than that of the post's descent, `preset = "post"`.
"""

from __future__ import annotations

import argparse

import surgeon
from surgeon import Recipe
from surgeon.recipe import InputSpec

METHODS = {
    "post": {"preset": "post"},
    "descent": {"method": "descent"},
    "adam": {"method": "adam"},
    "lbfgs": {"method": "lbfgs"},
}
SITES = ["blocks[0]", "blocks[11]"]


def figures(model, recipe, method, options):
    with surgeon.operate(model, recipe) as subject:
        result = surgeon.run_probe(
            "invert", subject, image=options.image, steps=options.steps, sites=SITES,
            **METHODS[method],
        )  # fmt: skip
    return result.figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--image", default="surgeon:chelsea")
    options = parser.parse_args()
    recipe = Recipe("torchvision/vit_b_32", seed=0)
    model = recipe.load()
    print(f"embedding error / row-space error at {options.steps} gradient evaluations")
    print(f"{'':<30}" + "".join(f"{m:>18}" for m in METHODS) + f"{'post / lbfgs':>18}")
    for normalize in (True, False):
        operated = recipe.updated(input=InputSpec(normalize=normalize))
        found = {m: figures(model, operated, m, options) for m in METHODS}
        for site in SITES:
            cells, errors = "", {}
            for method in METHODS:
                row = found[method][site]
                errors[method] = row["embedding_relative"]
                cells += f"{row['embedding_relative']:>9.2g} /{row['row_space_error']:>7.2g}"
            label = f"{site}, {'normalised' if normalize else 'raw pixels'}"
            ratio = errors["post"] / errors["lbfgs"]
            print(f"{label:<30}{cells}{ratio:>18.1f}", flush=True)


if __name__ == "__main__":
    main()
