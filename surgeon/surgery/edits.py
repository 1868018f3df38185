"""The closed set of edits. Operations resolve to these; only `install` carries them out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from surgeon.anatomist.site import Site

if TYPE_CHECKING:
    from torch import Tensor

#: What an edit acts on: a site's value, or one operand of an add (of a residual add its skip and
#: its branch; of the add of a position embedding the stream and the embedding).
Part = Literal["value", "skip", "branch"]


@dataclass(frozen=True)
class TensorSource:
    """A tensor that need not be in memory yet.

    Attributes:
        shape: its shape, as its file's header says.
        load: reads it. Called when the edit is applied, once.
        origin: where it is from, for messages: "donor trained: encoder.ln.weight".
        note: what loading does to the values besides reading them, empty if nothing.
    """

    shape: tuple[int, ...]
    load: Callable[[], Tensor]
    origin: str = "given"
    note: str = ""


@dataclass(frozen=True)
class SetTensor:
    """A parameter or buffer holds other values while operated."""

    path: str
    tensor: TensorSource


@dataclass(frozen=True)
class Replace:
    """A function on a site's value, or on one operand of its add.

    Attributes:
        function: Tensor -> Tensor of the same shape. None leaves the operand out of the add;
            where both would be left out, the skip passes.
    """

    site: Site
    function: Callable[[Tensor], Tensor] | None
    part: Part = "value"


@dataclass(frozen=True)
class Skip:
    """A module returns its input and computes nothing."""

    site: Site


@dataclass(frozen=True)
class Stop:
    """The forward ends here; the site's value is the output."""

    site: Site


Edit = SetTensor | Replace | Skip | Stop
