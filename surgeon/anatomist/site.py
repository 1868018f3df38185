"""Sites and selections of them. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

from surgeon.notebook import Shown

Kind = Literal["module", "sublayer", "add", "parameter"]


@dataclass(frozen=True, slots=True)
class Site:
    """One place in one model.

    Attributes:
        role: its name in every family, such as "blocks[3].attention"; None if it has none.
        path: dotted name in `named_modules()`; of an add the module that runs it, of a sublayer its
            mixer or mlp (else its block), of a parameter its own name.
        call: number of the call, of a module called several times in one forward.
        order: place in the order of execution, the number of functions run before its value is.
        kind: what it is.
        shape: of its value, for a batch of one; a parameter's own shape.
        blocked: why it can't be hooked, None if it can.
        value: number of its value in the recorded graph; None where it has none (a parameter).
        op: for an add or a sublayer, number of the add in the graph.
    """

    role: str | None
    path: str
    call: int
    order: int
    kind: Kind
    shape: tuple[int, ...]
    blocked: str | None = None
    value: int | None = field(default=None, repr=False)
    op: int | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Role if it has one, else path; of a later call of a module, with its number."""
        if self.role:
            return self.role
        return f"{self.path}#{self.call}" if self.call else self.path or "(root)"

    def __str__(self) -> str:
        return f"{self.name}  {self.kind}  {self.path}  {shape_text(self.shape)}"


def shape_text(shape: Sequence[int]) -> str:
    """Shapes as they appear everywhere: "1x50x768".

    >>> shape_text((1, 50, 768))
    '1x50x768'
    """
    return "x".join(map(str, shape)) or "scalar"


@dataclass(frozen=True)
class Selection(Shown, Sequence[Site]):
    """The sites one selector matched on one model, in order of execution.

    A sequence: `len`, iteration, indexing (a slice gives a selection). Printing lists the sites.
    """

    selector: str
    sites: tuple[Site, ...]

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> Selection: ...
    def __getitem__(self, index: int | slice) -> Site | Selection:
        if isinstance(index, slice):
            return Selection(self.selector, self.sites[index])
        return self.sites[index]

    def __str__(self) -> str:
        head = f"{self.selector}: {len(self)} site{'s' * (len(self) != 1)}"
        return "\n".join([head, *(f"  {site}" for site in self.sites)])
