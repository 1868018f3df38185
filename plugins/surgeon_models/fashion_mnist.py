"""The packaged test images of Fashion-MNIST, which the packaged models' cards are measured on."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from surgeon.datasets import ArrayDataset
from surgeon_models.packaged_source import card

_DATA = Path(__file__).parent / "data"


def load() -> ArrayDataset:
    """10,000 images (1, 28, 28) of ten classes; see data/LICENCE.md."""
    images = gzip.decompress((_DATA / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((_DATA / "t10k-labels-idx1-ubyte.gz").read_bytes())
    return ArrayDataset(
        "fashion_mnist",
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28),
        np.frombuffer(labels, np.uint8, offset=8).astype(np.int64),
        tuple(card("vit_fashion")["labels"]),
    )
