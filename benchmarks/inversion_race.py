"""Error against gradient evaluations: descent, Adam, L-BFGS and exact on the same axes.

    python benchmarks/inversion_race.py [--site blocks[11]] [--steps 200] [--out race.png]

Untrained ViT-B/32 with its own normalisation. The error is the row-space error: 1 at the start, 0
when all that the stem passes on is back. Exact inversion has no image until it arrives, so its line
goes straight from the start to where it ends.
"""

from __future__ import annotations

import argparse

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

import surgeon
from surgeon import Recipe

METHODS = ("descent", "adam", "lbfgs", "exact")


def line(subject, method, options):
    """[(gradient evaluations, row-space error)] of one method, growing its budget."""
    points = [(0.0, 1.0)]
    budgets = [options.steps] if method == "exact" else budgets_to(options.steps)
    for steps in budgets:
        result = surgeon.run_probe(
            "invert", subject, image=options.image, method=method, steps=steps, sites=options.site
        )
        (figures,) = result.figures.values()
        points.append((figures["gradient_evaluations"], figures["row_space_error"]))
        print(f"{method:8} {points[-1][0]:8.1f} {points[-1][1]:.2e}", flush=True)
    return points


def budgets_to(steps):
    found, budget = [], 10
    while budget < steps:
        found.append(budget)
        budget *= 2
    return [*found, steps]


def draw(lines, options):
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for method, points in lines.items():
        x, y = zip(*points, strict=True)
        axes.semilogy(x, y, "o-", label=method, markersize=4)
    axes.set_xlabel("gradient evaluations")
    axes.set_ylabel("row-space error")
    axes.set_title(f"untrained ViT-B/32 from {options.site}, {options.image}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(options.out, dpi=150)
    print(f"wrote {options.out}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--site", default="blocks[11]")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--image", default="surgeon:coffee")
    parser.add_argument("--out", default="race.png")
    options = parser.parse_args()
    recipe = Recipe("torchvision/vit_b_32", seed=0)
    model = recipe.load()
    with surgeon.operate(model, recipe) as subject:
        lines = {method: line(subject, method, options) for method in METHODS}
    draw(lines, options)


if __name__ == "__main__":
    main()
