"""The record of a run: everything that says how a result came about, but for times."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from surgeon.runs.versions import versions
from surgeon.surgery.edits import SetTensor
from surgeon.weights import digest_of, tensors_of

if TYPE_CHECKING:
    from surgeon.operations.base import Operation
    from surgeon.probe import Inputs
    from surgeon.recipe import ModelSpec
    from surgeon.subject import Subject


def run_record(
    subject: Subject, inputs: Inputs, probe: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything that says how a result came about, but for times."""
    recipe = inputs.recipe
    return {
        "probe": probe,
        "settings": settings,
        "recipe": recipe.digest,
        "recipe_toml": recipe.to_toml(),
        "operations": [_in_words(operation) for operation in recipe.operations],
        "model": recipe.model.label if recipe.model else type(subject.model).__name__,
        "seed": recipe.model.seed if recipe.model else None,
        "operated_weights": weights_digest(subject),
        "donors": donor_hashes(subject),
        "images": {p.name: {"sha256": p.sha256, "notes": list(p.notes)} for p in inputs.photos},
        "preprocessing": str(subject.preprocessing),
        "device": str(subject.device),
        "dtype": str(subject.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": dict(versions()),
    }


def weights_digest(subject: Subject) -> str:
    """SHA-256 of an operated model's parameters and buffers."""
    return digest_of(tensors_of(subject.model))


def donor_hashes(subject: Subject) -> dict[str, dict[str, str | None]]:
    """For each donor a SHA-256 of the tensors taken from it, and of its file's header.

    What was not taken is not read, so that a donor of many gigabytes costs what it gives. There is
    no header where the weights are no .safetensors file.
    """
    taken: dict[str, dict[str, torch.Tensor]] = {}
    for planned in subject.plan.operations:
        donor = getattr(planned.operation, "donor", None)
        if isinstance(donor, str):
            tensors = taken.setdefault(donor, {})
            tensors.update({e.path: e.tensor.load() for e in planned.edits
                            if isinstance(e, SetTensor)})  # fmt: skip
    donors = subject.plan.recipe.donors
    return {
        name: {
            "model": donors[name].label if name in donors else None,
            "header": _header_digest(donors.get(name)),
            "tensors": digest_of(tensors),
        }
        for name, tensors in sorted(taken.items())
    }


def _header_digest(spec: ModelSpec | None) -> str | None:
    path = Path(spec.weights) if spec is not None and spec.weights else None
    if path is None or path.suffix != ".safetensors" or not path.is_file():
        return None
    with path.open("rb") as file:
        size = file.read(8)
        return hashlib.sha256(size + file.read(int.from_bytes(size, "little"))).hexdigest()


def _in_words(operation: Operation) -> str:
    """An operation in a few words, for labels: "bypass blocks[*].attention"."""
    site = operation.site if isinstance(operation.site, str) else ", ".join(operation.site)
    return f"{operation.op} {site}"
