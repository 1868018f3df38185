"""An anatomy as rows to print: roles, paths, shapes, parameters, in order of execution."""

from __future__ import annotations

from dataclasses import dataclass

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.site import Site, shape_text


@dataclass(frozen=True)
class Row:
    """One line of the tree.

    Attributes:
        depth: 0 for stem, blocks and head, 1 for what is in a block.
        parameters: number of values the site owns.
        mark: why it can't be hooked, empty if it can.
    """

    depth: int
    role: str
    kind: str
    path: str
    shape: tuple[int, ...]
    parameters: int
    mark: str = ""


def rows(anatomy: Anatomy, *, modules: bool = False) -> list[Row]:
    """The tree's lines.

    Args:
        modules: every module without a role as well.
    """
    found = [(_position(anatomy, s), _row(anatomy, s)) for s in anatomy.sites]
    for path, reason in anatomy.hidden.items():
        inside = [i for i, b in enumerate(anatomy.blocks) if path.startswith(b.call.path + ".")]
        start = anatomy.blocks[inside[0]].call.start if inside else len(anatomy.graph.ops)
        after = _calls_before(anatomy, path, start)
        kind = anatomy.graph.modules[path]
        count = _count(anatomy, [n for n in anatomy.graph.parameters if n.startswith(path + ".")])
        found.append(((after, 2.5), Row(1, "x", kind, path, (), count, reason)))
    if modules:
        named = {(s.path, s.call) for s in anatomy.sites if s.kind == "module"}
        for call in anatomy.graph.calls[1:]:
            if (call.path, call.nth) not in named and call.outputs:
                site = anatomy.select(f"{call.path}#{call.nth}")[0]
                found.append(((call.start, 1.5), _row(anatomy, site)))
    return [row for _, row in sorted(found, key=lambda item: item[0])]


def _position(anatomy: Anatomy, site: Site) -> tuple[float, float]:
    """Where a site's line goes: a module where it begins, an add where it is."""
    call = anatomy.call_of(site)
    if call is not None and site.op is None:
        staged = bool(site.role and site.role.startswith("stages["))
        return (call.start, -1 if staged else _depth(site))
    if site.kind == "sublayer":
        body = [c for c in anatomy.graph.calls_by_path[site.path] if c.nth == site.call]
        branch = next(r for r in anatomy.residuals if r.op.index == site.op)
        first = branch.ops[0].index
        return (max(first, body[0].start) if body else first, 2)
    return (site.op if site.op is not None else -1, 3)


def _calls_before(anatomy: Anatomy, path: str, start: int) -> float:
    parent = path.rpartition(".")[0]
    calls = anatomy.graph.calls_by_path.get(parent, ())
    return calls[0].start if calls else start


def _depth(site: Site) -> int:
    return 1 if site.role and "." in site.role else 0


def _row(anatomy: Anatomy, site: Site) -> Row:
    kind = anatomy.graph.modules.get(site.path, "")
    if site.kind == "add":
        kind = "+"
    elif site.kind == "parameter":
        kind = "parameter"
    parameters = _count(anatomy, anatomy.parameters_of(site))
    mark = "" if site.kind == "parameter" else (site.blocked or "")
    depth = _depth(site) if site.role else 2
    return Row(depth, site.role or "", kind, site.path, site.shape, parameters, mark)


def _count(anatomy: Anatomy, names: list[str]) -> int:
    """Number of parameters; buffers don't count."""
    total = 0
    for name in names:
        if name in anatomy.graph.buffers:
            continue
        size = 1
        for n in anatomy.graph.parameters[name]:
            size *= n
        total += size
    return total


def summary(anatomy: Anatomy) -> str:
    """One line: blocks, stages, residual adds, parameters."""
    stages = anatomy.blocks[-1].stage + 1 if anatomy.blocks else 0
    total = _count(anatomy, list(anatomy.graph.parameters))
    return (
        f"{anatomy.model}: {len(anatomy.blocks)} blocks in {stages} stage{'s' * (stages != 1)},"
        f" {len(anatomy.residuals)} residual adds, {total / 1e6:.2f} M parameters,"
        f" input {shape_text(anatomy.input_size)}"
    )


def text(anatomy: Anatomy) -> str:
    """The tree as plain text."""
    lines = [summary(anatomy)]
    for row in rows(anatomy):
        shape = shape_text(row.shape) if row.shape else ""
        count = f"{row.parameters:,}" if row.parameters else ""
        line = f"{'  ' * (row.depth + 1)}{row.role:<24} {row.kind:<22} {shape:<16} {count:>12}"
        lines.append(f"{line}  {row.path}{f'  ! {row.mark}' if row.mark else ''}".rstrip())
    return "\n".join(lines)
