"""What coordinates buy a search in the image: L-BFGS in pixels and in scaled spectra.

    python benchmarks/search_coordinates.py [--rows resnet lite0] [--images coffee] [--steps 100]
        [--decays 0 .35 .5 .65]

Rows are those of `exact_rows.py` whose links can't be undone one by one, so that `exact` searches
the image. L-BFGS goes on in Fourier coordinates whose amplitudes are scaled by
1 / frequency^decay; a decay of 0 is pixels. Embedding error and PSNR after the same number of
gradient evaluations, from the same start.
"""

from __future__ import annotations

import argparse

import torch
from exact_rows import ROWS, recipe_of

import surgeon
from surgeon.imaging.metrics import psnr
from surgeon.imaging.photos import load_photos
from surgeon.inversion.chain import Counted
from surgeon.inversion.coordinates import Coordinates, Spectrum
from surgeon.inversion.image_search import lbfgs
from surgeon.inversion.ledger import Ledger
from surgeon.inversion.matching import start_image


def searched(counted, aim, start, steps, decay):
    """(best image, its embedding error) after so many gradient evaluations."""
    counted.ledger.spent = 0.0
    coordinates = Coordinates(Spectrum(*start.shape[-2:], decay)) if decay else None
    image, memory, found = start, None, (start, float("inf"))
    while counted.ledger.spent + 1 <= steps:
        left = steps - counted.ledger.spent
        image, best, error, memory = lbfgs(counted, image, aim, memory, left, coordinates)
        found = min(found, (best, error), key=lambda pair: pair[1])
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", nargs="*", default=["resnet", "lite0"], choices=list(ROWS))
    parser.add_argument("--images", nargs="*", default=["coffee", "chelsea"])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--decays", nargs="*", type=float, default=[0, 0.35, 0.5, 0.65])
    options = parser.parse_args()
    for name in options.rows:
        recipe = recipe_of(ROWS[name], 0)
        with surgeon.operate(recipe.load(), recipe) as subject:
            for image in options.images:
                (photo,) = load_photos(f"surgeon:{image}", subject.preprocessing)
                target = photo.pixels
                start = start_image(target.shape, 0)
                for site in subject.sites(ROWS[name].sites):
                    segment = subject.segment(None, site)
                    counted = Counted(segment, Ledger(segment.flops), torch.float32)
                    text = f"{name:<16}{image:<9}{site.name:<14}"
                    with counted.ready():
                        aim = counted(target)
                        for decay in options.decays:
                            best, error = searched(counted, aim, start, options.steps, decay)
                            text += f"  {decay}: {error:.2g}, {psnr(target, best):.1f} dB"
                    print(text, flush=True)


if __name__ == "__main__":
    main()
