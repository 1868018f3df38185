"""The part of an image that a patch stem passes on: the row space of its projection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from surgeon.anatomist import functions
from surgeon.imaging.metrics import exact

if TYPE_CHECKING:
    from surgeon.subject import Subject


class RowSpace:
    """Projection onto what a non-overlapping patch stem can see.

    Attributes:
        patch: (height, width) of a patch, in pixels.
        rank: dimensions of a patch that are passed on.
        basis: (rank, channels * height * width), orthonormal, float64, on the CPU.
        values: (rank,), the singular values of the projection along it.
    """

    def __init__(self, weight: Tensor) -> None:
        self.patch = (int(weight.shape[2]), int(weight.shape[3]))
        rows = exact(weight).flatten(1)
        _, values, basis = torch.linalg.svd(rows, full_matrices=False)
        self.rank = int((values > values.max() * 1e-10).sum())
        self.basis, self.values = basis[: self.rank], values[: self.rank]
        self.full = self.rank == rows.shape[1]

    def project(self, image: Tensor) -> Tensor:
        """An image (batch, channels, height, width) less what the stem is blind to; float64,
        on the CPU."""
        image = exact(image)
        if self.full:
            return image
        patches = F.unfold(image, self.patch, stride=self.patch)
        seen = self.basis.T @ (self.basis @ patches)
        return F.fold(seen, image.shape[-2:], self.patch, stride=self.patch)

    def even(self, image: Tensor) -> Tensor:
        """The image along each direction of the basis, divided by how strongly the stem passes it.

        After the stem's projection all directions weigh the same: the best preconditioner of a
        least-squares problem in the image. Symmetric; of the image's dtype, on its device.
        """
        basis, values = self.basis.to(image), self.values.to(image)
        patches = F.unfold(image, self.patch, stride=self.patch)
        seen = basis.T @ ((basis @ patches) / values[:, None])
        return F.fold(seen, image.shape[-2:], self.patch, stride=self.patch)

    def error(self, target: Tensor, image: Tensor, start: Tensor) -> float:
        """|P(a - a_g)| / |P(a - a_0)|: 1 at the start, 0 when all that the stem passes is back."""
        left = torch.linalg.vector_norm(self.project(target - image))
        first = torch.linalg.vector_norm(self.project(target - start))
        return float(left / first) if float(first) > 0 else 0.0


def stem_weight(subject: Subject) -> Tensor | None:
    """The patch projection of a subject in terms of its un-normalised pixels.

    Returns:
        (width, channels, patch height, patch width), or None if the stem is no single projection of
        patches that don't overlap.
    """
    graph, stem = subject.anatomy.graph, subject.anatomy.reading.stem
    if stem is None:
        return None
    ops = [op for op in graph.ops[stem.start : stem.end] if op.name in functions.LAYER]
    if len(ops) != 1 or ops[0].name != "conv2d":
        return None
    op = ops[0]
    names = [graph.values[v].name for v in op.inputs if len(graph.values[v].shape) == 4]
    name = next((n for n in names if n), None)
    image = graph.values[op.inputs[0]].shape
    out = graph.values[op.outputs[0]].shape
    if name is None or image != (1, *subject.anatomy.input_size):
        return None
    weight = _tensor(subject, name)
    tiled = (
        all(out[axis] * weight.shape[axis] == image[axis] for axis in (2, 3))
        and weight.shape[1] == image[1]
    )
    if not tiled:
        return None
    if subject.preprocessing.std:
        std = torch.tensor(subject.preprocessing.std, dtype=weight.dtype, device=weight.device)
        weight = weight / std[None, :, None, None]
    return weight


def row_space(subject: Subject) -> RowSpace | None:
    """The row space of a subject's stem, None where it has no such stem."""
    weight = stem_weight(subject)
    return None if weight is None else RowSpace(weight)


def _tensor(subject: Subject, name: str) -> Tensor:
    owner, _, last = name.rpartition(".")
    found: Tensor = getattr(subject.model.get_submodule(owner), last)
    return found.detach()
