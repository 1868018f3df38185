"""Is the reading right? Compared with what the library itself says of its model, where it does.

The library's word is independent of the reading: timm names each architecture's first layer, its
classifier and, for layer-wise learning rates, which parameters make one block.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from surgeon.anatomist.anatomy import Anatomy
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
    """One block a group and one group a block; groups of joints between stages hold none."""
    if not declared.groups:
        return None
    holders: dict[str, set[str]] = defaultdict(set)
    groups: dict[str, set[str]] = defaultdict(set)
    for path in {block.call.path for block in anatomy.blocks}:
        for name, group in declared.groups.items():
            if name.startswith(path + "."):
                groups[path].add(group)
                holders[group].add(path)
    split = sorted(path for path, found in groups.items() if len(found) > 1)
    shared = sorted(group for group, found in holders.items() if len(found) > 1)
    bare = sorted(set(declared.groups.values()) - set(holders) - {""})
    for text, found in (
        ("blocks over several of the library's groups", split),
        ("groups with several blocks", shared),
        ("groups without a block", bare),
    ):
        if found:
            notes.append(f"{len(found)} {text}: {', '.join(found[:3])}")
    return not (split or shared or bare)
