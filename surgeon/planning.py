"""Plans: a recipe resolved against one model, printable, every conflict decided before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from surgeon.anatomist import functions
from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.look import look
from surgeon.anatomist.site import shape_text
from surgeon.donors import DonorShelf
from surgeon.errors import PlanError, SelectionError, SurgeonError
from surgeon.operations.base import Donors, Operation
from surgeon.recipe import Recipe
from surgeon.sources import preprocessing_of
from surgeon.surgery.edits import Edit, Replace, SetTensor, Skip, Stop
from surgeon.surgery.program import Program, build_program

if TYPE_CHECKING:
    from surgeon.surgery.handles import Handle


@dataclass(frozen=True)
class PlannedOperation:
    """One operation, resolved.

    Attributes:
        sites: names of the places it edits, in order of execution; tensors by path. Of one that
            stops the forward, the stop alone.
        ignored: how many of its places lie beyond the stop, and are left alone.
        passed: names of what it bypasses on the way to its stop.
    """

    operation: Operation
    edits: tuple[Edit, ...]
    sites: tuple[str, ...]
    ignored: int = 0
    passed: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Places edited: adds, modules, tensors; what `expect` is compared with."""
        return len(self.sites)


@dataclass(frozen=True)
class Plan:
    """A recipe resolved against one model. Printing shows what will happen; `apply` does it.

    Attributes:
        operations: as resolved, in the recipe's order.
        program: what is hooked, skipped and computed.
        full: the same for the un-operated model.
        warnings: what a user may not expect.
    """

    recipe: Recipe
    anatomy: Anatomy
    operations: tuple[PlannedOperation, ...]
    program: Program
    full: Program
    warnings: tuple[str, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        return tuple(edit for planned in self.operations for edit in planned.edits)

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
            text += f": {_shortened(planned.sites)}"
            if planned.passed:
                text += f"; bypassed on the way: {_shortened(planned.passed)}"
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
        return "\n".join(lines + [f"  warning: {text}" for text in self.warnings])


def plan(
    model: nn.Module,
    recipe: Recipe,
    *,
    input_size: tuple[int, int, int] | None = None,
    anatomy: Anatomy | None = None,
    donors: Donors | None = None,
) -> Plan:
    """Resolve a recipe against a model, which is left alone.

    Args:
        model: the recipe's own, or any of yours; may be on the meta device.
        input_size: (channels, height, width), where the model doesn't say it.
        donors: where tensors come from, instead of the recipe's donors.

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
    resolved = [_resolve(recipe, i, anatomy, shelf) for i in range(len(recipe.operations))]
    _check_single(recipe)
    resolved = _before_stop(anatomy, recipe, resolved)
    program = _program(anatomy, recipe, resolved)
    return Plan(
        recipe, anatomy, tuple(resolved), program, build_program(anatomy, ()),
        tuple(_warnings(anatomy, resolved, program)),
    )  # fmt: skip


def _own_size(model: nn.Module, recipe: Recipe) -> tuple[int, int, int] | None:
    """The input size that the source of the recipe's model gives."""
    return preprocessing_of(recipe.model, model).input_size if recipe.model else None


def _resolve(recipe: Recipe, index: int, anatomy: Anatomy, shelf: Donors) -> PlannedOperation:
    operation = recipe.operations[index]
    try:
        edits = tuple(operation.resolve(anatomy, shelf))
    except SurgeonError as error:
        key = "site" if isinstance(error, SelectionError) else ""
        raise error.located(_where(recipe, index, key)) from error.__cause__
    sites, passed = _places(edits)
    if operation.expect is not None and len(sites) != operation.expect:
        raise SelectionError(
            f"{operation.op} at {operation.site}, expect = {operation.expect}"
            f" ({_where(recipe, index, 'expect')})",
            f"{len(sites)} places: {_shortened(sites)}",
            f"expect = {len(sites)}, or another selector",
        )
    return PlannedOperation(operation, edits, sites, passed=passed)


def _where(recipe: Recipe, index: int, key: str = "") -> str:
    """Where an operation stands: its number and name, with file and line if it is from a file."""
    whole = ("operations", index)
    return f"{recipe.place((*whole, key), whole)}, {recipe.operations[index].op}"


def _places(edits: Iterable[Edit]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the places that count, and of those bypassed on the way to a stop."""
    names = dict.fromkeys(edit.path if isinstance(edit, SetTensor) else edit.site.name
                          for edit in edits)  # fmt: skip
    stops = tuple(edit.site.name for edit in edits if isinstance(edit, Stop))
    return stops or tuple(names), tuple(n for n in names if n not in stops) if stops else ()


def _program(anatomy: Anatomy, recipe: Recipe, resolved: list[PlannedOperation]) -> Program:
    """What all operations come to; an error names the first one that makes it."""
    edits = [edit for planned in resolved for edit in planned.edits]
    try:
        return build_program(anatomy, edits)
    except PlanError as error:
        for index in range(len(resolved)):
            so_far = [edit for planned in resolved[: index + 1] for edit in planned.edits]
            try:
                build_program(anatomy, so_far)
            except PlanError as first:
                if first.found == error.found:
                    raise error.located(_where(recipe, index)) from error.__cause__
        raise


def _check_single(recipe: Recipe) -> None:
    for kinds in (("only",), ("truncate", "only")):
        found = [(i, o) for i, o in enumerate(recipe.operations) if o.op in kinds]
        if len(found) > 1:
            listed = ", ".join(f'operations[{i}]: {o.op} "{o.site}"' for i, o in found)
            raise PlanError(
                " and ".join(dict.fromkeys(o.op for _, o in found)),
                f"{len(found)} of them: {listed}",
                "one: each says where the forward stops",
            )


def _before_stop(
    anatomy: Anatomy, recipe: Recipe, resolved: list[PlannedOperation]
) -> list[PlannedOperation]:
    """Leave out edits beyond the stop; an operation wholly beyond it is an error."""
    stops = [edit.site for p in resolved for edit in p.edits if isinstance(edit, Stop)]
    if not stops:
        return resolved
    stop = stops[0]
    kept = []
    for index, planned in enumerate(resolved):
        inside = [e for e in planned.edits if _starts(anatomy, e) < stop.order]
        beyond = len(planned.edits) - len(inside)
        if not inside and planned.edits:
            raise PlanError(
                f"{planned.operation.op} at {planned.operation.site}"
                f" ({_where(recipe, index, 'site')})",
                f"it lies wholly beyond the stop at {stop.name}",
                f"a site up to {stop.name}, or a later truncate",
            )
        sites, passed = _places(inside)
        kept.append(PlannedOperation(planned.operation, tuple(inside), sites, beyond, passed))
    return kept


def _starts(anatomy: Anatomy, edit: Edit) -> int:
    """The number of the first function an edit bears on."""
    if isinstance(edit, Stop):
        return 0
    if isinstance(edit, SetTensor):
        readers = [
            op.index
            for op in anatomy.graph.ops
            if any(anatomy.graph.values[v].name == edit.path for v in op.inputs)
        ]
        return min(readers, default=_owner_start(anatomy, edit.path))
    call = anatomy.call_of(edit.site) if isinstance(edit, Skip | Replace) else None
    return call.start if call is not None else (edit.site.op or 0)


def _owner_start(anatomy: Anatomy, path: str) -> int:
    """Where the module that holds a tensor is first called, or the nearest called one around it.

    For tensors that no function reads, such as a batch norm's count of batches.
    """
    while path:
        path = path.rpartition(".")[0]
        calls = anatomy.graph.calls_by_path.get(path)
        if calls:
            return min(call.start for call in calls)
    return 0


def _warnings(anatomy: Anatomy, resolved: list[PlannedOperation], program: Program) -> list[str]:
    found = []
    kinds = {p.operation.op for p in resolved}
    skipped = [
        e.site.name
        for p in resolved
        for e in p.edits
        if isinstance(e, Replace) and e.function is None and e.part == "branch"
    ]
    dropped = [
        e.site.op
        for p in resolved
        for e in p.edits
        if isinstance(e, Replace) and e.function is None and e.part == "skip"
    ]
    both = [name for p in resolved for e in p.edits
            if isinstance(e, Replace) and e.part == "branch" and e.site.op in dropped
            for name in [e.site.name]]  # fmt: skip
    if both and skipped:
        found.append(f"bypassed and dropped at once, so passed through: {_shortened(tuple(both))}")
    if "drop_residual" in kinds and not any(b.sublayers for b in anatomy.blocks):
        found.append("none of the residual adds lies in a block")
    seen: dict[str, int] = {}
    for index, planned in enumerate(resolved):
        for edit in planned.edits:
            if isinstance(edit, SetTensor):
                if edit.path in seen and seen[edit.path] != index:
                    found.append(
                        f"{edit.path} is set by operations[{seen[edit.path]}]"
                        f" and [{index}]; the last wins"
                    )
                seen[edit.path] = index
    return list(dict.fromkeys(found))


def _shortened(names: Mapping[str, None] | tuple[str, ...], most: int = 6) -> str:
    listed = list(names)
    text = ", ".join(listed[:most])
    return f"{text}, ... {listed[-1]}" if len(listed) > most else text


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
