"""Accuracy against the block whose attention is taken out, and the time of 10,000 images.

python benchmarks/evaluate_blocks.py [--model surgeon/vit_fashion@fashion] [--site attention]
    [--data surgeon:fashion_mnist] [--limit 10000] [--out blocks.png]
"""

from __future__ import annotations

import argparse
import re
import time

import surgeon
from surgeon import Bypass, ModelSpec, Recipe
from surgeon.runs.pictures import Curves, Sheet, draw_sheet


def evaluate(recipe, options):
    """The figures, the un-operated model left aside."""
    with surgeon.operate(recipe.load(), recipe) as subject:
        result = surgeon.run_probe(
            "evaluate", subject, data=options.data, limit=options.limit, compare=False, batch=500
        )
    return next(iter(result.figures.values()))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="surgeon/vit_fashion@fashion")
    parser.add_argument("--site", default="attention")
    parser.add_argument("--data", default="surgeon:fashion_mnist")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", default="blocks.png")
    options = parser.parse_args()
    recipe = Recipe(ModelSpec.parse(options.model))
    began = time.perf_counter()
    whole = evaluate(recipe, options)
    seconds = time.perf_counter() - began
    print(f"un-operated  {whole['accuracy']:.4f}  ({whole['images']} images, {seconds:.1f} s)")
    roles = [site.role or "" for site in surgeon.anatomy(recipe.load()).select("blocks[*]")]
    points = []
    for number in range(len([r for r in roles if re.fullmatch(r"blocks\[\d+\]", r)])):
        found = evaluate(recipe | Bypass(f"blocks[{number}].{options.site}"), options)
        low, high = found["accuracy_low"], found["accuracy_high"]
        print(f"blocks[{number}].{options.site} bypassed  {found['accuracy']:.4f}"
              f"  ({low:.4f} to {high:.4f})")  # fmt: skip
        points.append((number, found["accuracy"]))
    title = f"{options.model}: accuracy without the {options.site} of one block"
    chart = Curves({"bypassed": points}, "block", "accuracy", log_y=False,
                   level=(whole["accuracy"], "un-operated"),
                   ticks=[str(n) for n, _ in points])  # fmt: skip
    draw_sheet(Sheet(title, [], (chart,))).savefig(options.out)


if __name__ == "__main__":
    main()
