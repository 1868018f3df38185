"""Edits, captures and injections worked out for one graph: what to hook, skip, catch and stop.

Pure data about the recorded graph, so that a plan can be drawn and checked without touching a
model; `install` carries a program out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.graph import Call, Graph
from surgeon.anatomist.site import Site, shape_text
from surgeon.errors import PlanError
from surgeon.surgery.edits import Edit, Replace, Skip, Stop
from surgeon.surgery.liveness import AddEdit, Changes, Needs, aliases, needs, site_value
from surgeon.surgery.taps import CallKey, OwnOp, Tap


@dataclass(frozen=True)
class Program:
    """Everything `install` needs.

    Attributes:
        modules: module call -> tap on what it returns.
        ops: module call -> its own functions to catch.
        bypassed: module call -> position, among the tensors it is given, of the one it returns.
        dead: module calls that need not run.
        needs: what is computed.
        captures: sites whose values are taken out.
        aliases: what a bypassed call returns -> the value it passes.
    """

    graph: Graph
    modules: dict[CallKey, Tap]
    ops: dict[CallKey, dict[OwnOp, Tap]]
    bypassed: dict[CallKey, int]
    dead: dict[CallKey, Call]
    needs: Needs
    captures: tuple[Site, ...] = ()
    aliases: Mapping[int, int] = field(default_factory=dict)

    @property
    def needs_input(self) -> bool:
        """Whether the image itself is needed."""
        values = self.graph.values
        return any(values[v].origin == "input" for v in self.needs.values)

    @property
    def flops(self) -> int:
        """Of one forward of one image: multiply-adds times two."""
        return self.needs.flops(self.graph)

    @cached_property
    def taps(self) -> tuple[tuple[str, Tap], ...]:
        """(path, tap) of all that a forward has to come to before its own end."""
        own = [(path, tap) for (path, _), taps in self.ops.items() for tap in taps.values()]
        found = [*((path, tap) for (path, _), tap in self.modules.items() if path), *own]
        return tuple((p, t) for p, t in found if t.value in self.needs.values and not t.injected)


def build_program(
    anatomy: Anatomy,
    edits: Iterable[Edit],
    *,
    installed: Iterable[Edit] = (),
    captures: Sequence[Site] = (),
    injections: Sequence[Site] = (),
    stop: Site | None = None,
) -> Program:
    """Work out a program.

    Args:
        edits: resolved edits; `SetTensor` is not a matter of the forward and is passed over.
        installed: edits already on the model: they shape what is needed, but are not repeated.
        captures: sites whose values are wanted.
        injections: sites whose values come from outside.
        stop: where to stop, instead of where the edits say.

    Raises:
        PlanError: a site that can't be hooked or is beyond the stop, a bypass that would change the
            shape, two stops.
    """
    builder = _Builder(anatomy)
    fresh = list(edits)
    for edit in (*installed, *fresh):
        builder.note(edit)
    for edit in fresh:
        builder.carry(edit)
    for site in injections:
        builder.inject(site)
    return builder.finish(captures, stop)


class _Builder:
    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.graph = anatomy.graph
        self.changes = Changes()
        self.modules: dict[CallKey, Tap] = {}
        self.ops: dict[CallKey, dict[OwnOp, Tap]] = {}
        self.bypassed: dict[CallKey, int] = {}
        self.stops: list[Site] = []

    # --- taps

    def tap(self, site: Site) -> Tap:
        value = hookable(site)
        around = self.bypassed_around(site)
        if around is not None and around.outputs[0] == value:
            return self.modules.setdefault((around.path, around.nth), Tap(value))
        if site.op is None:
            return self.modules.setdefault((site.path, site.call), Tap(value))
        op = self.graph.ops[site.op]
        owner = self.graph.calls[op.call]
        inner = self.graph.inner_calls.get(owner.index, ())
        before = next((c.index for c in inner if c.start > op.index), None)
        after = self.graph.calls[op.after].path if op.after is not None else ""
        turn = sum(c.path == after and c.index < (op.after or 0) for c in inner)
        key = OwnOp(op.after, turn, before, op.name, op.nth)
        tap = self.ops.setdefault((owner.path, owner.nth), {}).setdefault(key, Tap(value))
        operands = self.operands_of(site)
        if operands:
            tap.skip_position = 0 if operands[0] == op.inputs[0] else 1
            self.changes.operands[op.index] = operands
        return tap

    def bypassed_around(self, site: Site) -> Call | None:
        """The outermost bypassed call that a site lies in, itself left out."""
        own = self.anatomy.call_of(site) if site.op is None else None
        start = self.graph.calls[own.parent or 0] if own else self.graph.calls[0]
        if site.op is not None:
            start = self.graph.calls[self.graph.ops[site.op].call]
        around = [c for c in (start, *self.graph.ancestors(start))
                  if c.index in self.changes.bypassed]  # fmt: skip
        return around[-1] if around else None

    def operands_of(self, site: Site) -> tuple[int, int] | None:
        """(skip, branch) values of a site's add; of a position embedding's, (stream, embedding)."""
        for residual in self.anatomy.residuals:
            if residual.op.index == site.op:
                return residual.skip, residual.branch
        for position in self.anatomy.reading.positions:
            if position.op.index == site.op:
                stream = self.graph.live_inputs(position.op)[0]
                other = [v for v in position.op.inputs if v != stream]
                return stream, other[0]
        return None

    # --- edits

    def note(self, edit: Edit) -> None:
        """What an edit does to the graph."""
        if isinstance(edit, Stop):
            hookable(edit.site)
            self.stops.append(edit.site)
        elif isinstance(edit, Skip):
            call, position = self.passing(edit.site)
            self.changes.bypassed[call.index] = call.inputs[position]
        elif isinstance(edit, Replace) and edit.part != "value":
            operands = self.operands_of(edit.site)
            if operands is None or edit.site.op is None:
                raise PlanError(
                    f"replace the {edit.part} of {edit.site.name}",
                    "it is no add, and has no operands",
                    'part="value"',
                )
            self.changes.operands[edit.site.op] = operands
            if edit.function is None:
                change = self.changes.adds.setdefault(edit.site.op, AddEdit())
                change.drops_skip |= edit.part == "skip"
                change.drops_branch |= edit.part == "branch"

    def carry(self, edit: Edit) -> None:
        """What an edit does to the model, already noted."""
        if isinstance(edit, Skip):
            call, position = self.passing(edit.site)
            self.bypassed[call.path, call.nth] = position
        elif isinstance(edit, Replace) and self.bypassed_around(edit.site) is None:
            tap = self.tap(edit.site)
            if edit.part == "value":
                tap.functions += [edit.function] if edit.function is not None else []
            elif edit.function is None:
                tap.drops_skip |= edit.part == "skip"
                tap.drops_branch |= edit.part == "branch"
            elif tap.skip_position is not None:
                at_skip = edit.part == "skip"
                position = tap.skip_position if at_skip else 1 - tap.skip_position
                tap.operand_functions.setdefault(position, []).append(edit.function)

    def passing(self, site: Site) -> tuple[Call, int]:
        """A module's call and the position of the input that it passes when bypassed."""
        hookable(site)
        call = self.anatomy.call_of(site)
        if call is None:
            raise PlanError(f"skip {site.name}", f"it is a {site.kind}", "select a module")
        position = passing_input(self.graph, call)
        if position is None:
            given = ", ".join(shape_text(self.graph.values[v].shape) for v in call.inputs)
            raise PlanError(
                f"bypass {site.name}",
                f"it returns {shape_text(site.shape)} and is given {given}",
                "a site that keeps the shape, or a sublayer with a skip",
            )
        return call, position

    def inject(self, site: Site) -> None:
        self.tap(site).injected = True
        self.changes.injected.add(site_value(site))

    # --- the whole

    def finish(self, captures: Sequence[Site], stop: Site | None) -> Program:
        for site in captures:
            self.tap(site).captured = True
        ends = [stop] if stop is not None else self.stops
        wanted = [hookable(site) for site in (*captures, *ends)]
        self.check_order(captures, ends)
        if not ends:
            wanted += self.graph.calls[0].outputs
        needed = needs(self.graph, self.changes, wanted)
        self.check_reached(needed)
        if ends:
            self.tap(max((*captures, *ends), key=lambda site: site.order)).stops = True
        dead = {(call.path, call.nth): call for call in needed.dead}
        return Program(
            self.graph, self.modules, self.ops, self.bypassed, dead, needed, tuple(captures),
            aliases(self.graph, self.changes),
        )  # fmt: skip

    def check_order(self, captures: Sequence[Site], ends: Sequence[Site]) -> None:
        stops = list(dict.fromkeys(self.stops))
        if len(stops) > 1:
            names = " and ".join(site.name for site in stops)
            raise PlanError("stop", f"two stops: {names}", "keep one truncate or only")
        for site in (*captures, *ends):
            if stops and site.order > stops[0].order:
                raise PlanError(
                    f"the value of {site.name}",
                    f"the forward stops at {stops[0].name}, before it",
                    f"a site up to {stops[0].name}, or a later truncate",
                )

    def check_reached(self, needed: Needs) -> None:
        for index in self.changes.bypassed:
            call = self.graph.calls[index]
            inside = [i for i in range(call.start, call.end) if i in needed.ops]
            if inside:
                raise PlanError(
                    f"a value inside {call.path}",
                    f"{call.path} is bypassed and computes nothing",
                    "a site outside it",
                )


def hookable(site: Site) -> int:
    """The value of a site.

    Raises:
        PlanError: it can't be hooked; the message says what to select instead.
    """
    if site.blocked is not None or site.value is None:
        raise PlanError(
            f"hook {site.name}",
            site.blocked or "it has no value",
            "another site: surgeon anatomy lists those there are",
        )
    return site.value


def passing_input(graph: Graph, call: Call) -> int | None:
    """Position of the first tensor a call is given that has the shape of what it returns."""
    if not call.outputs:
        return None
    shape = graph.values[call.outputs[0]].shape
    for position, value in enumerate(call.inputs):
        if value in graph.live and graph.values[value].shape == shape:
            return position
    return None
