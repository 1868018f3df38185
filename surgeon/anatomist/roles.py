"""Names for what was read: sites with roles, and sites for every module and parameter."""

from __future__ import annotations

from collections.abc import Iterator

from surgeon.anatomist.graph import Call, Graph
from surgeon.anatomist.reading import Block, Reading, Sublayer
from surgeon.anatomist.residuals import Residual
from surgeon.anatomist.site import Kind, Site


def module_site(graph: Graph, call: Call, role: str | None = None) -> Site:
    """A module call; its value is the first tensor it returns."""
    value = call.outputs[0] if call.outputs else None
    shape = graph.values[value].shape if value is not None else ()
    blocked = None if value is not None else "it returns no tensor"
    return Site(role, call.path, call.nth, call.end, "module", shape, blocked, value)


def add_site(graph: Graph, residual: Residual, role: str | None) -> Site:
    return _at_add(graph, residual, role, residual.call.path, residual.call.nth, "add")


def sublayer_site(graph: Graph, block: Block, sublayer: Sublayer, role: str) -> Site:
    path = sublayer.body.path if sublayer.body else block.call.path
    return _at_add(graph, sublayer.residual, role, path, block.call.nth, "sublayer")


def _at_add(
    graph: Graph, residual: Residual, role: str | None, path: str, call: int, kind: Kind
) -> Site:
    op = residual.op
    shape = graph.values[op.outputs[0]].shape
    return Site(role, path, call, op.index + 1, kind, shape, None, op.outputs[0], op.index)


def parameter_site(graph: Graph, name: str, role: str | None = None) -> Site:
    """A parameter or buffer: it can be swapped, but is no place in the forward."""
    blocked = "a parameter has no place in the forward; it can only be swapped or initialised"
    return Site(role, name, 0, 0, "parameter", graph.parameters[name], blocked)


def sublayer_role(block: Block, index: int) -> str:
    """`attention` and `mlp` where a block has one of each and no more, else `sublayers[j]`."""
    if sorted(s.mixes for s in block.sublayers) == [False, True]:
        return "attention" if block.sublayers[index].mixes else "mlp"
    return f"sublayers[{index}]"


def block_sites(graph: Graph, block: Block, name: str) -> Iterator[Site]:
    """A block, its sublayers, norms and residual adds."""
    yield module_site(graph, block.call, name)
    for j, sublayer in enumerate(block.sublayers):
        yield sublayer_site(graph, block, sublayer, f"{name}.{sublayer_role(block, j)}")
        yield add_site(graph, sublayer.residual, f"{name}.residual{j + 1}")
    for j, norm in enumerate(block.norms):
        yield module_site(graph, norm, f"{name}.norm{j + 1}")


def single_sites(graph: Graph, reading: Reading) -> Iterator[Site]:
    """Stem, tokens, positions, final norm, head: those there are."""
    if reading.stem is not None:
        site = module_site(graph, reading.stem, "stem")
        yield _moved(graph, site, reading.stem_value)
    for name, _ in reading.tokens[:1]:
        yield parameter_site(graph, name, "class_token")
    for position in reading.positions:
        out = position.op.outputs[0]
        kind: Kind = "parameter" if position.is_parameter else "module"
        shape = graph.values[out].shape
        order = position.op.index
        yield Site(
            "pos_embed", position.path, 0, order + 1, kind, shape, None, out, order
        )  # fmt: skip
    if reading.final_norm is not None:
        yield module_site(graph, reading.final_norm, "final_norm")
    for head in reading.head:
        yield module_site(graph, head, "head")


def _moved(graph: Graph, site: Site, value: int | None) -> Site:
    """A site whose value is another layout of what its module returns: the stem, as tokens."""
    if value is None or value == site.value:
        return site
    op = graph.producer[value]
    shape = graph.values[value].shape
    return Site(
        site.role, site.path, site.call, op.index + 1, site.kind, shape, None, value, op.index
    )


def stage_sites(graph: Graph, reading: Reading) -> Iterator[Site]:
    """A stage's value is what its container returns, else what its last block does."""
    last = reading.blocks[-1].stage if reading.blocks else -1
    for stage in range(last + 1):
        calls = [b.call for b in reading.blocks if b.stage == stage]
        others = [b.call for b in reading.blocks if b.stage != stage]
        whole = calls[-1]
        for around in graph.ancestors(calls[-1]):
            held = [c for c in calls if around.start <= c.start and c.end <= around.end]
            crowded = any(around.start <= c.start < around.end for c in others)
            if crowded or around.parent is None:
                break
            if len(held) == len(calls):
                whole = around
                break
        yield module_site(graph, whole, f"stages[{stage}]")


def hidden_modules(graph: Graph) -> dict[str, str]:
    """Modules with parameters of their own that are never called, and what to select instead."""
    called = set(graph.calls_by_path)
    found = {}
    for name in graph.parameters:
        path = name.rpartition(".")[0]
        if path in called or not path:
            continue
        parent = path
        while parent and parent not in called:
            parent = parent.rpartition(".")[0]
        found[path] = (
            f"never called: {parent or 'the model'} uses its weights directly;"
            f" select {parent or 'another site'} instead"
        )
    return found
