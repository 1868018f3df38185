"""Blocks: the repeated owners of residual adds, and their siblings."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from surgeon.anatomist import functions
from surgeon.anatomist.graph import Call, Graph
from surgeon.anatomist.residuals import Residual

_NUMBERED = re.compile(r"^(.*?)(\d+)$")
_CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")


@dataclass(frozen=True)
class ModuleTree:
    """The module tree of a graph, by path."""

    graph: Graph

    @cached_property
    def children(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for path in self.graph.modules:
            if path:
                found.setdefault(parent_of(path), []).append(path)
        return {parent: tuple(paths) for parent, paths in found.items()}

    @cached_property
    def with_parameters(self) -> frozenset[str]:
        return frozenset(
            path for name in self.graph.parameters for path in lineage(parent_of(name))
        )

    @cached_property
    def recursive(self) -> frozenset[str]:
        """Classes some of whose modules hold others of the class: trees, not blocks."""
        modules = self.graph.modules
        nested = {
            kind
            for path, kind in modules.items()
            for outer in lineage(parent_of(path))
            if modules[outer] == kind
        }
        return frozenset(nested - set(_CONTAINERS))

    def list_items(self, parent: str) -> tuple[str, ...]:
        """The children of a list: those with parameters, if all are numbered under one prefix."""
        items = tuple(p for p in self.children.get(parent, ()) if p in self.with_parameters)
        prefixes = {m[1] if (m := _NUMBERED.match(p)) else None for p in items}
        return items if len(prefixes) == 1 and None not in prefixes else ()

    def is_item(self, path: str) -> bool:
        return path in self.list_items(parent_of(path))

    def signature(self, path: str, depth: int = 3) -> object:
        """Equal for modules built alike: class, and for containers and wrappers what is inside."""
        inner = [p for p in self.children.get(path, ()) if p in self.with_parameters]
        kind = self.graph.modules[path]
        if depth and (len(inner) == 1 or kind in _CONTAINERS):
            return kind, tuple(self.signature(p, depth - 1) for p in inner)
        return kind

    def alike(self, items: tuple[str, ...], *, strict: bool) -> bool:
        """Whether modules are built alike: by signature; not strictly, of one class, no wrapper."""
        if strict or len({self.signature(item) for item in items}) == 1:
            return len({self.signature(item) for item in items}) == 1
        kinds = {self.graph.modules[item] for item in items}
        inner = [[p for p in self.children.get(i, ()) if p in self.with_parameters] for i in items]
        return len(kinds) == 1 and not kinds & set(_CONTAINERS) and max(map(len, inner)) > 1

    def composite(self, path: str) -> bool:
        """Whether several modules with parameters lie within."""
        return sum(p.startswith(path + ".") for p in self.with_parameters) > 1


def parent_of(path: str) -> str:
    return path.rpartition(".")[0]


def lineage(path: str) -> list[str]:
    """A path and the paths around it, innermost first, without the root."""
    found = []
    while path:
        found.append(path)
        path = parent_of(path)
    return found


def find_blocks(graph: Graph, residuals: list[Residual]) -> list[Call]:
    """The calls that are blocks, in order of execution.

    A residual's block is the innermost module around its add that is an item of a list of modules
    built alike; failing that, of a list most of whose items hold residuals; failing that, the
    owner of the add itself, if its class is repeated. A class that holds itself is a tree, and no
    block. Siblings of blocks are blocks, and so is what runs between siblings. In a model
    without residuals the functions that join branches stand in for them, and where nothing is
    joined, the layers of its longest list.
    """
    tree = ModuleTree(graph)
    owners = Counter(residual.call.path for residual in residuals) or _joins(graph)
    paths = _paths_from(tree, owners) if owners else _plain_layers(tree)
    calls = [call for path in paths for call in graph.calls_by_path.get(path, ())]
    chosen = {call.index for call in calls}
    inner = {c.path for c in calls if any(a.index in chosen for a in graph.ancestors(c))}
    return sorted(
        (call for call in calls if call.path not in inner), key=lambda c: (c.start, c.index)
    )


def _paths_from(tree: ModuleTree, owners: Counter[str]) -> set[str]:
    modules = tree.graph.modules
    holders = {p for owner in owners for p in lineage(owner)}
    homes = _settle({owner: _home(tree, owner, holders) for owner in owners}, owners)
    kinds = Counter(modules[home] for home in set(homes.values()))
    lone = {h for h in homes.values() if kinds[modules[h]] == 1 and not tree.is_item(h)}
    paths = set(homes.values()) - {""}
    paths = paths - lone or paths
    paths |= {home for home in lone if _between(tree, home, paths)}
    return paths | _siblings(tree, paths)


def _between(tree: ModuleTree, path: str, paths: set[str]) -> bool:
    """Whether a module runs between two of these that are its siblings."""
    calls = tree.graph.calls_by_path
    beside = [calls[p][0].start for p in paths if parent_of(p) == parent_of(path) and p in calls]
    return path in calls and bool(beside) and min(beside) < calls[path][0].start < max(beside)


def _joins(graph: Graph) -> Counter[str]:
    """Owners of functions that join two or more live values: concatenations, sums of branches."""
    return Counter(
        graph.calls[op.call].path
        for op in graph.ops
        if op.name in ("cat", "add", "stack") and len(graph.live_inputs(op)) > 1
    )


def _plain_layers(tree: ModuleTree) -> set[str]:
    """Composite items of lists, outermost; where there are none, convolutions of the longest."""
    graph = tree.graph
    items = [
        p for p in graph.calls_by_path if tree.is_item(p) and graph.modules[p] not in _CONTAINERS
    ]
    composite = {p for p in items if tree.composite(p)}
    if composite:
        return composite
    convolved = {graph.calls[op.call].path for op in graph.ops if op.name in functions.CONVOLUTION}
    lists = Counter(parent_of(p) for p in convolved if tree.is_item(p))
    longest = max(lists, key=lists.__getitem__, default=None)
    return {p for p in convolved if tree.is_item(p) and parent_of(p) == longest}


def _home(tree: ModuleTree, owner: str, holders: set[str]) -> str:
    lists = [
        (p, items)
        for p in lineage(owner)
        if tree.graph.modules[p] not in tree.recursive and (items := tree.list_items(parent_of(p)))
    ]
    called = tree.graph.calls_by_path
    for depth, (path, items) in enumerate(lists):
        if path in called and tree.alike(items, strict=depth > 0):
            return path
    for path, items in lists:
        if path in called and 2 * sum(item in holders for item in items) >= len(items):
            return path
    return owner


def _settle(homes: dict[str, str], owners: Counter[str]) -> dict[str, str]:
    """Give up a home that mostly holds other homes: a stage with one residual of its own."""
    own = Counter[str]()
    within = Counter[str]()
    for owner, home in homes.items():
        own[home] += owners[owner]
        for path in lineage(parent_of(home)):
            within[path] += owners[owner]
    settled = {o: o if within[h] > own[h] else h for o, h in homes.items()}
    return {o: "" if within[h] > own[h] and h == o else h for o, h in settled.items()}


def _siblings(tree: ModuleTree, paths: set[str]) -> set[str]:
    """Modules of a block's class, and items of parallel lists, ends of another class left out."""
    graph = tree.graph
    kinds = {graph.modules[p] for p in paths} - set(_CONTAINERS)
    found = {p for p, kind in graph.modules.items() if kind in kinds and p in graph.calls_by_path}
    patterns = {_pattern(p) for p in paths}
    lists = {
        parent_of(p): tree.list_items(parent_of(p))
        for p in tree.with_parameters
        if _pattern(p) in patterns
    }
    for items in lists.values():
        known = [i for i, item in enumerate(items) if item in paths | found]
        inner = items[known[0] : known[-1] + 1] if known else items
        found |= {
            item
            for item in inner
            if item in graph.calls_by_path
            and tree.composite(item)
            and not any(p.startswith(item + ".") for p in paths)
        }
    kinds = {graph.modules[p] for p in paths | found} - set(_CONTAINERS)
    ends = {item for items in lists.values() for item in items if graph.modules[item] in kinds}
    return found | {item for item in ends if item in graph.calls_by_path and tree.composite(item)}


def _pattern(path: str) -> str:
    return re.sub(r"\d+", "*", path)
