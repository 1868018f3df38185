"""Trained small models, block by block: recovered, another pre-image, or not converged.

    python benchmarks/trained_inversion.py DATA [--model surgeon/vit_fashion] [--images 50]

DATA is `t10k-images-idx3-ubyte.gz` of Fashion-MNIST. Recovered: PSNR at least 60 dB. Another
pre-image: outputs together to 1e-8, inputs apart. L-BFGS has the same budget; the last columns
count the images on which exact ends with the smaller embedding error, and the medians of both.
"""

from __future__ import annotations

import argparse
import gzip
from statistics import median

import numpy as np
import torch

import surgeon
from surgeon import Recipe


def images_of(path, count):
    """(count, 1, 28, 28) in [0, 1]."""
    with gzip.open(path) as file:
        raw = np.frombuffer(file.read(), dtype=np.uint8, offset=16)
    return torch.from_numpy(raw.reshape(-1, 1, 28, 28)[:count].copy()).float() / 255


def inverted(subject, image, site, method, steps):
    result = surgeon.run_probe(
        "invert", subject, image=image[None], sites=site, method=method, steps=steps
    )
    (figures,) = result.figures.values()
    return figures


def row(subject, images, site, steps):
    found = [inverted(subject, image, site, "exact", steps) for image in images]
    other = [inverted(subject, image, site, "lbfgs", steps) for image in images]
    recovered = sum(f["psnr"] >= 60 for f in found)
    apart = sum(f["psnr"] < 60 and f["embedding_relative"] <= 1e-8 for f in found)
    pairs = [
        (a["embedding_relative"], b["embedding_relative"])
        for a, b in zip(found, other, strict=True)
    ]
    better = sum(a <= b for a, b in pairs)
    return (
        recovered, apart, len(found) - recovered - apart,
        median(f["gradient_evaluations"] for f in found),
        better, median(a for a, _ in pairs), median(b for _, b in pairs),
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--model", default="surgeon/vit_fashion")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sites", default="blocks[*]")
    options = parser.parse_args()
    images = images_of(options.data, options.images)
    recipe = Recipe(options.model, weights="fashion")
    model = recipe.load()
    print(f"{options.model}, {options.images} images, {options.steps} gradient evaluations")
    print(
        "site        recovered  another  not converged    GE  exact better  median error  L-BFGS's"
    )
    with surgeon.operate(model, recipe) as subject:
        for site in subject.sites(options.sites):
            a, b, c, cost, better, mine, others = row(subject, images, site.name, options.steps)
            print(
                f"{site.name:<12}{a:>9}{b:>9}{c:>15}{cost:>6.0f}{better:>14}"
                f"{mine:>14.1e}{others:>10.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
