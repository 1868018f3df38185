"""Is the reading right? Compared with what the library itself says of its model, where it does.

The library's word is independent of the reading: timm names each architecture's first layer, its
classifier and, for layer-wise learning rates, which parameters make one block.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.blocks import parent_of
from surgeon.sources import Declared


@dataclass(frozen=True)
class Agreement:
    """What the library says against what was read; None where the library says nothing.

    Attributes:
        stem: whether the declared first layers are in the stem.
        head: whether the classifiers are the same; of a model without one, whether none was found.
        blocks: whether each declared group of parameters holds one block and each block one group.
        notes: what differs.
    """

    stem: bool | None = None
    head: bool | None = None
    blocks: bool | None = None
    notes: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """Nothing differs from what the library says."""
        return False not in (self.stem, self.head, self.blocks)


def compare(anatomy: Anatomy, declared: Declared | None) -> Agreement:
    """Compare an anatomy with the library's own word."""
    if declared is None:
        return Agreement()
    notes: list[str] = []
    return Agreement(
        _same_stem(anatomy, declared, notes),
        _same_head(anatomy, declared, notes),
        _same_blocks(anatomy, declared, notes),
        tuple(notes),
    )


def _same_stem(anatomy: Anatomy, declared: Declared, notes: list[str]) -> bool | None:
    if not declared.stem:
        return None
    stem = anatomy.reading.stem
    path = stem.path if stem is not None else "none"
    same = any(layer == path or layer.startswith(path + ".") for layer in declared.stem)
    if not same:
        notes.append(f"stem is {path}, the library's first layer {', '.join(declared.stem)}")
    return same


def _same_head(anatomy: Anatomy, declared: Declared, notes: list[str]) -> bool | None:
    if declared.head is None:
        return None
    found = {call.path for call in anatomy.reading.head}
    same = found == set(declared.head)
    if not same:
        notes.append(
            f"head is {', '.join(sorted(found)) or 'none'},"
            f" the library's classifier {', '.join(declared.head) or 'none'}"
        )
    return same


def _same_blocks(anatomy: Anatomy, declared: Declared, notes: list[str]) -> bool | None:
    """One block a group and one group a block.

    Blocks where the library has none are right if they, or others of their list, add residuals: it
    counts what lies between its stages as their joints, whatever it does. Groups without a layer,
    norms that is, need no block.
    """
    if not declared.groups:
        return None
    holders: dict[str, set[str]] = defaultdict(set)
    groups: dict[str, set[str]] = defaultdict(set)
    for path in {block.call.path for block in anatomy.blocks}:
        for name, group in declared.groups.items():
            if name.startswith(path + "."):
                groups[path].add(group)
                holders[group].add(path)
    beside = holders.pop("", set())
    lists = {parent_of(b.call.path) for b in anatomy.blocks if b.sublayers}
    working = {b.call.path for b in anatomy.blocks if parent_of(b.call.path) in lists}
    layered = {g for name, g in declared.groups.items() if len(anatomy.graph.parameters[name]) > 1}
    if beside & working:
        notes.append(
            f"{len(beside & working)} blocks more than the library's: {_few(beside & working)}"
        )
    differences = {
        "blocks over several of the library's groups": {p for p, g in groups.items() if len(g) > 1},
        "groups with several blocks": {g for g, found in holders.items() if len(found) > 1},
        "groups without a block": layered - set(holders) - {""},
        "blocks where the library has none": beside - working,
    }
    notes += [f"{len(found)} {text}: {_few(found)}" for text, found in differences.items() if found]
    return not any(differences.values())


def _few(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3])
