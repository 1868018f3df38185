"""One architecture, surveyed: what is found, whether its library agrees, which operations run."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.look import look
from surgeon.compat.agreement import Agreement, compare
from surgeon.compat.trial import try_operations
from surgeon.errors import SurgeonError
from surgeon.recipe import ModelSpec
from surgeon.sources import Resolved, load_model, meta_model, preprocessing_of, resolve

#: Frames of the clips that models of videos are looked at with.
FRAMES = 16


@dataclass
class Finding:
    """What was found of one architecture.

    Attributes:
        name: "source/architecture".
        family: the library's own grouping, its module file.
        task: "classification", or what else the library builds it for.
        looked: "meta", "values" (it needs its input's values), or "" where looking failed.
        error: why it could not be looked at, empty if it could.
        parts: role or kind -> a path, or a count.
        operations: operation -> "" where it ran, else why not.
        agreement: what the library says itself, against what was read.
        seconds: CPU time, building included.
    """

    name: str
    family: str = ""
    task: str = "classification"
    model: str = ""
    looked: str = ""
    error: str = ""
    parts: dict[str, Any] = field(default_factory=dict)
    operations: dict[str, str] = field(default_factory=dict)
    agreement: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def survey(name: str) -> Finding:
    """Look at one architecture, untrained, without its values, and try every operation.

    Args:
        name: "source/architecture".

    Returns:
        The finding; whatever goes wrong with the model is in it, not raised.
    """
    began = time.process_time()
    finding = Finding(name)
    try:
        found = resolve(ModelSpec(name))
        finding.family, finding.task = family_of(found)
        model, anatomy = _looked_at(found, finding)
        finding.model = anatomy.model
        finding.parts = parts_of(anatomy)
        finding.agreement = asdict(_agreement(found, model, anatomy))
        finding.operations = try_operations(model, anatomy)
    except SurgeonError as error:
        finding.error = error.found
    except Exception as error:  # another library's model may raise anything
        finding.error = f"{type(error).__name__}: {error}"[:300]
    finding.seconds = round(time.process_time() - began, 2)
    return finding


def family_of(found: Resolved) -> tuple[str, str]:
    """A model's family and task, as its source has them; its first word where it says nothing."""
    told = getattr(found.source, "family", None)
    if told is None:
        return found.name.partition("_")[0], "classification"
    family, task = told(found.name)
    return str(family), str(task)


def _looked_at(found: Resolved, finding: Finding) -> tuple[nn.Module, Anatomy]:
    spec = found.spec
    model = meta_model(spec)
    size = preprocessing_of(spec, model).input_size
    if finding.task == "video":
        size = (size[0], FRAMES, *size[1:])  # type: ignore[assignment]
    try:
        anatomy = look(model, size)
        finding.looked = "meta"
    except SurgeonError:
        if finding.task == "classification":
            raise
        model = load_model(spec)
        anatomy = look(model, size)
        finding.looked = "values"
    return model, anatomy


def _agreement(found: Resolved, model: nn.Module, anatomy: Anatomy) -> Agreement:
    declared = getattr(found.source, "declared", None)
    return compare(anatomy, None if declared is None else declared(found.name, model))


def parts_of(anatomy: Anatomy) -> dict[str, Any]:
    """What an anatomy holds: paths of single roles, counts of the rest."""
    reading = anatomy.reading
    sublayers = [s for block in anatomy.blocks for s in block.sublayers]
    return {
        "input": list(anatomy.input_size),
        "stem": reading.stem.path if reading.stem else "",
        "blocks": len(anatomy.blocks),
        "stages": anatomy.blocks[-1].stage + 1 if anatomy.blocks else 0,
        "residuals": len(anatomy.residuals),
        "outside": len(anatomy.residuals) - len(sublayers),
        "attention": sum(s.mixes for s in sublayers),
        "mlp": sum(not s.mixes for s in sublayers),
        "norms": sum(len(b.norms) for b in anatomy.blocks),
        "pos_embed": reading.positions[0].path if reading.positions else "",
        "class_token": reading.tokens[0][0] if reading.tokens else "",
        "final_norm": reading.final_norm.path if reading.final_norm else "",
        "head": [call.path for call in reading.head],
    }
