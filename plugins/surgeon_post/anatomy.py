"""The `anatomy` probe: a labelled diagram of the model, drawn from its own anatomy."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, ClassVar

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.functions import ATTENTION
from surgeon.anatomist.reading import Block
from surgeon.anatomist.site import shape_text
from surgeon.anatomist.tree import rows, summary
from surgeon.errors import ProbeError
from surgeon.probe import GeneratorProbe, Inputs, Result
from surgeon.subject import Subject
from surgeon_post.settings import AnatomySettings


class AnatomyProbe(GeneratorProbe):
    """Counts and a diagram: everything in order of execution on the left, one block on the right.

    Every box, arrow and shape is read from the recorded forward of the un-operated model; none is
    known of any architecture.
    """

    Settings: ClassVar[type[AnatomySettings]] = AnatomySettings

    def run(
        self, subject: Subject, inputs: Inputs, settings: AnatomySettings
    ) -> Generator[Mapping[str, Any] | None, None, Result]:
        from surgeon_post.diagram import diagram, pixels_of

        anatomy = subject.anatomy
        if settings.block >= len(anatomy.blocks):
            raise ProbeError(
                f"draw block {settings.block}",
                f"{anatomy.model} has {len(anatomy.blocks)} blocks",
                f"block = 0 to {len(anatomy.blocks) - 1}",
            )
        figure = diagram(anatomy, settings.block)
        result = Result(draw=lambda _: figure)
        result.figures[anatomy.model] = counts(anatomy)
        result.images["anatomy"] = pixels_of(figure)
        result.tables["anatomy"] = [
            {
                "role": row.role,
                "kind": row.kind,
                "shape": shape_text(row.shape) if row.shape else "",
                "parameters": row.parameters,
                "path": row.path,
            }
            for row in rows(anatomy)
        ]
        result.notes.append(summary(anatomy))
        yield {"model": anatomy.model}
        return result


def counts(anatomy: Anatomy) -> dict[str, Any]:
    """How many of each part, and what every block has in common."""
    adds = [len(block.sublayers) for block in anatomy.blocks]
    return {
        "blocks": len(anatomy.blocks),
        "stages": anatomy.blocks[-1].stage + 1 if anatomy.blocks else 0,
        "adds": len(anatomy.residuals),
        "adds_least": min(adds, default=0),
        "adds_most": max(adds, default=0),
        "alike": len({_form(anatomy, block) for block in anatomy.blocks}),
        "mixer_first": all(_mixer_first(block) for block in anatomy.blocks),
        "norm_first": all(_norm_first(block) for block in anatomy.blocks),
        "softmaxes": sum(op.name in ATTENTION for op in anatomy.graph.ops),
        "sites": len(anatomy.sites),
    }


def _form(anatomy: Anatomy, block: Block) -> tuple[object, ...]:
    """What makes two blocks look the same in a diagram."""
    shape = anatomy.graph.values[block.call.outputs[0]].shape
    return (block.call.kind, shape, tuple(s.mixes for s in block.sublayers), len(block.norms))


def _mixer_first(block: Block) -> bool:
    """Whether it mixes tokens first and works on each after."""
    return [s.mixes for s in block.sublayers] == [True, False]


def _norm_first(block: Block) -> bool:
    """Whether each branch begins with a norm of its own."""
    starts = {norm.start for norm in block.norms}
    return all(bool(s.residual.ops) and s.residual.ops[0].index in starts for s in block.sublayers)
