"""Operations to edits: places counted, conflicts decided, errors told where they stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from surgeon.anatomist.anatomy import Anatomy
from surgeon.errors import PlanError, SelectionError, SurgeonError
from surgeon.operations.base import Donors, Operation
from surgeon.recipe import Recipe
from surgeon.surgery.edits import Edit, Replace, SetTensor, Skip, Stop
from surgeon.surgery.program import Program, build_program


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


def resolve(recipe: Recipe, index: int, anatomy: Anatomy, shelf: Donors) -> PlannedOperation:
    """One operation of a recipe, resolved.

    Raises:
        SelectionError, PlanError, RecipeError: it can't be; says where the operation stands.
    """
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
            f"{len(sites)} places: {shortened(sites)}",
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


def whole_program(
    anatomy: Anatomy, recipe: Recipe, resolved: list[PlannedOperation], own: tuple[Edit, ...] = ()
) -> Program:
    """What all operations, and a user's own edits, come to; an error names the first to make it."""
    edits = [edit for planned in resolved for edit in planned.edits]
    try:
        return build_program(anatomy, [*edits, *own])
    except PlanError as error:
        for index in range(len(resolved)):
            so_far = [edit for planned in resolved[: index + 1] for edit in planned.edits]
            try:
                build_program(anatomy, so_far)
            except PlanError as first:
                if first.found == error.found:
                    raise error.located(_where(recipe, index)) from error.__cause__
        raise


def check_single(recipe: Recipe) -> None:
    """See that at most one operation says where the forward stops.

    Raises:
        PlanError: several do.
    """
    for kinds in (("only",), ("truncate", "only")):
        found = [(i, o) for i, o in enumerate(recipe.operations) if o.op in kinds]
        if len(found) > 1:
            listed = ", ".join(f'operations[{i}]: {o.op} "{o.site}"' for i, o in found)
            raise PlanError(
                " and ".join(dict.fromkeys(o.op for _, o in found)),
                f"{len(found)} of them: {listed}",
                "one: each says where the forward stops",
            )


def before_stop(
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


def warnings_of(anatomy: Anatomy, resolved: list[PlannedOperation], program: Program) -> list[str]:
    """What a user may not expect of a plan."""
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
        found.append(f"bypassed and dropped at once, so passed through: {shortened(tuple(both))}")
    if "drop_residual" in kinds and not any(b.sublayers for b in anatomy.blocks):
        found.append("none of the residual adds lies in a block")
    seen: dict[str, int] = {}
    for index, planned in enumerate(resolved):
        for edit in planned.edits:
            if isinstance(edit, SetTensor):
                if edit.tensor.note:
                    found.append(f"resampled: {edit.tensor.note}")
                if edit.path in seen and seen[edit.path] != index:
                    found.append(
                        f"{edit.path} is set by operations[{seen[edit.path]}]"
                        f" and [{index}]; the last wins"
                    )
                seen[edit.path] = index
    return list(dict.fromkeys(found))


def shortened(names: Mapping[str, None] | tuple[str, ...], most: int = 6) -> str:
    """Names in a line: the first few, and the last."""
    listed = list(names)
    text = ", ".join(listed[:most])
    return f"{text}, ... {listed[-1]}" if len(listed) > most else text
