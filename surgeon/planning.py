"""Plans: a recipe resolved against one model, printable, every conflict decided before it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from surgeon.anatomist import functions
from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.look import look
from surgeon.anatomist.site import shape_text
from surgeon.donors import DonorShelf
from surgeon.notebook import Shown
from surgeon.operations.base import Donors
from surgeon.recipe import Recipe
from surgeon.resolving import (
    PlannedOperation,
    before_stop,
    check_single,
    resolve,
    shortened,
    warnings_of,
    whole_program,
)  # fmt: skip
from surgeon.sources import preprocessing_of
from surgeon.surgery.edits import Edit, Stop
from surgeon.surgery.program import Program, build_program

if TYPE_CHECKING:
    from surgeon.surgery.handles import Handle


@dataclass(frozen=True)
class Plan(Shown):
    """A recipe resolved against one model. Printing shows what will happen; `apply` does it.

    Attributes:
        operations: as resolved, in the recipe's order.
        program: what is hooked, skipped and computed.
        full: the same for the un-operated model.
        warnings: what a user may not expect.
        own: edits that came beside the recipe.
    """

    recipe: Recipe
    anatomy: Anatomy
    operations: tuple[PlannedOperation, ...]
    program: Program
    full: Program
    warnings: tuple[str, ...] = ()
    own: tuple[Edit, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All of them, in the order of the operations."""
        return (*(edit for planned in self.operations for edit in planned.edits), *self.own)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the operated model's output, for a batch of one."""
        stops = [edit.site for edit in self.edits if isinstance(edit, Stop)]
        if stops:
            return stops[0].shape
        outputs = self.anatomy.graph.calls[0].outputs
        return self.anatomy.graph.values[outputs[0]].shape if outputs else ()

    def costs(self) -> dict[str, dict[str, int]]:
        """FLOPs, activation bytes and parameters of one forward of one image, full and operated."""
        return {"full": _costs(self.full), "operated": _costs(self.program)}

    def apply(self, model: nn.Module, *, trainable: bool = False) -> Handle:
        """Put the plan on the model it was made for. All or nothing.

        Args:
            trainable: leave weights trainable and the training mode as it is; otherwise weights are
                frozen and the model is in evaluation mode while operated.

        Returns:
            The handle that undoes it.
        """
        from surgeon.surgery.apply import apply_edits

        return apply_edits(model, self.edits, self.program, trainable=trainable)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model": self.anatomy.model,
            "recipe": self.recipe.digest,
            "operations": [
                {
                    "op": p.operation.op,
                    "site": p.operation.site,
                    "count": p.count,
                    "sites": list(p.sites),
                    "ignored": p.ignored,
                    "passed": list(p.passed),
                }
                for p in self.operations
            ],
            "output_shape": list(self.output_shape),
            "costs": self.costs(),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        lines = [f"{self.anatomy.model}: {len(self.operations)} operations"]
        for i, planned in enumerate(self.operations):
            text = f"  [{i}] {planned.operation.op}: {planned.count} places"
            if planned.ignored:
                text += f", {planned.ignored} more beyond the stop left alone"
            text += f": {shortened(planned.sites)}"
            if planned.passed:
                text += f"; bypassed on the way: {shortened(planned.passed)}"
            lines.append(text)
        lines.append(f"  output: {shape_text(self.output_shape)}")
        full, operated = _costs(self.full), _costs(self.program)
        for name, unit, scale in (
            ("flops", "GFLOP", 1e9), ("activation_bytes", "MB", 1e6), ("parameters", "M", 1e6)
        ):  # fmt: skip
            before, after = full[name], operated[name]
            share = 1 - after / before if before else 0.0
            lines.append(
                f"  {name.replace('_bytes', 's')}: {before / scale:.2f} -> {after / scale:.2f}"
                f" {unit} ({share:.0%} saved)"
            )
        share = operated["flops"] / full["flops"] if full["flops"] else 1.0
        lines.append(f"  time: about {share:.0%} of the un-operated forward's, by its FLOPs")
        return "\n".join(lines + [f"  warning: {text}" for text in self.warnings])


def plan(
    model: nn.Module,
    recipe: Recipe,
    *,
    input_size: tuple[int, int, int] | None = None,
    anatomy: Anatomy | None = None,
    donors: Donors | None = None,
    edits: Iterable[Edit] = (),
) -> Plan:
    """Resolve a recipe against a model, which is left alone.

    Args:
        model: the recipe's own, or any of yours; may be on the meta device.
        input_size: (channels, height, width), where the model doesn't say it.
        donors: where tensors come from, instead of the recipe's donors.
        edits: further edits, beside the recipe's.

    Returns:
        The plan; `str` of it is what `surgeon plan` prints.

    Raises:
        RecipeError, SelectionError, PlanError: whatever could not be carried out, with the
        operation's number.

    >>> from surgeon.testing import tiny_vit
    >>> from surgeon import Recipe, DropResidual
    >>> plan(tiny_vit(), Recipe() | DropResidual("blocks[*]")).operations[0].count
    4
    """
    if anatomy is None:
        anatomy = look(model, input_size or _own_size(model, recipe))
    shelf = donors or DonorShelf(dict(recipe.donors), recipe.model)
    resolved = [resolve(recipe, i, anatomy, shelf) for i in range(len(recipe.operations))]
    check_single(recipe)
    resolved = before_stop(anatomy, recipe, resolved)
    own = tuple(edits)
    program = whole_program(anatomy, recipe, resolved, own)
    return Plan(
        recipe, anatomy, tuple(resolved), program, build_program(anatomy, ()),
        tuple(warnings_of(anatomy, resolved, program)), own,
    )  # fmt: skip


def _own_size(model: nn.Module, recipe: Recipe) -> tuple[int, int, int] | None:
    """The input size that the source of the recipe's model gives."""
    return preprocessing_of(recipe.model, model).input_size if recipe.model else None


def _costs(program: Program) -> dict[str, int]:
    graph = program.graph
    sizes = {"float64": 8, "float16": 2, "bfloat16": 2, "int64": 8, "bool": 1, "uint8": 1}
    made = {
        v
        for i in program.needs.ops
        if graph.ops[i].name not in functions.MOVEMENT
        for v in graph.ops[i].outputs
        if v in graph.live
    }
    used = {
        graph.values[v].name for v in program.needs.values if graph.values[v].origin == "parameter"
    }
    return {
        "flops": program.flops,
        "activation_bytes": sum(
            graph.values[v].numel * sizes.get(graph.values[v].dtype, 4) for v in made
        ),
        "parameters": sum(_numel(graph.parameters[name]) for name in used - graph.buffers),
    }


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
