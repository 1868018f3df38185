"""Trained small models, block by block: recovered, another pre-image, or not converged.

    python benchmarks/trained_inversion.py DATA [--model surgeon/vit_fashion] [--images 50]
        [--steps 200] [--sites 'blocks[*]'] [--log FILE]

DATA is `t10k-images-idx3-ubyte.gz` of Fashion-MNIST. Recovered: PSNR at least 60 dB. Another
pre-image: outputs together to 1e-8, inputs apart. Of those that did not converge, the median and
the worst embedding error. L-BFGS has what exact spent on the image, rounded up to a whole
evaluation; the last columns count the images on which exact's embedding error is no larger, and
give the medians of both. `--log` keeps a line of JSON for every image, with exact's table of steps.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
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
    return figures, next(iter(result.tables.values()), [])


def pairs_of(subject, images, site, steps, log):
    """[(exact's figures, L-BFGS's)] of every image, at what exact spent."""
    found = []
    for number, image in enumerate(images):
        exact, steps_taken = inverted(subject, image, site, "exact", steps)
        spent = max(1, math.ceil(exact["gradient_evaluations"]))
        lbfgs, _ = inverted(subject, image, site, "lbfgs", spent)
        found.append((exact, lbfgs))
        if log:
            case = {"site": site, "image": number, "exact": exact, "lbfgs": lbfgs}
            print(json.dumps({**case, "steps": steps_taken}), file=log, flush=True)
    return found


def row(pairs):
    """The figures of a line of the table."""
    recovered = [a["psnr"] >= 60 for a, _ in pairs]
    apart = [a["psnr"] < 60 and a["embedding_relative"] <= 1e-8 for a, _ in pairs]
    errors = [(a["embedding_relative"], b["embedding_relative"]) for a, b in pairs]
    left = [e for (e, _), r, o in zip(errors, recovered, apart, strict=True) if not (r or o)]
    return (
        sum(recovered), sum(apart), len(left), median(left or [0.0]), max(left, default=0.0),
        median(a["gradient_evaluations"] for a, _ in pairs),
        sum(a <= b for a, b in errors), *(median(e) for e in zip(*errors, strict=True)),
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--model", default="surgeon/vit_fashion")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sites", default="blocks[*]")
    parser.add_argument("--log", type=argparse.FileType("a"))
    options = parser.parse_args()
    images = images_of(options.data, options.images)
    recipe = Recipe(options.model, weights="fashion")
    model = recipe.load()
    print(f"{options.model}, {options.images} images, {options.steps} gradient evaluations")
    print(
        "site        recovered  another  not converged, median and worst    GE  no worse"
        "  median error  L-BFGS's"
    )
    with surgeon.operate(model, recipe) as subject:
        for site in subject.sites(options.sites):
            pairs = pairs_of(subject, images, site.name, options.steps, options.log)
            a, b, c, middle, worst, cost, better, mine, others = row(pairs)
            print(
                f"{site.name:<12}{a:>9}{b:>9}{c:>15}{middle:>9.1e}{worst:>9.1e}{cost:>6.0f}"
                f"{better:>10}{mine:>14.1e}{others:>10.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
