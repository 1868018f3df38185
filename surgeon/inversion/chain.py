"""The way from a site back to the pixels, cut where everything passes through one value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from surgeon.anatomist.site import Site
from surgeon.captured import Pins
from surgeon.errors import PlanError
from surgeon.inversion.jacobians import token_jacobians
from surgeon.inversion.ledger import Ledger
from surgeon.inversion.segments import Segment
from surgeon.solvers.common import Map
from surgeon.surgery.edits import Skip

if TYPE_CHECKING:
    from surgeon.subject import Subject

#: How a link can be undone. "identity": nothing to undo. "affine": by linear least squares.
#: "residual": it keeps the shape and adds a branch, so that it may be undone where it stands.
#: "other": it has no inverse of its own; only the image can be looked for.
Kind = Literal["identity", "affine", "residual", "other"]


@dataclass(frozen=True)
class Link:
    """One piece of the way: a segment, and how it can be undone.

    Attributes:
        pinned: tokens at its source that don't depend on the image, (tokens,) bool; None if none.
        spare: tokens at its source whose values nobody needs to go on: the link below has them
            pinned at its own source.
    """

    segment: Segment
    kind: Kind
    pinned: Tensor | None = None
    spare: Tensor | None = None

    @property
    def name(self) -> str:
        """What the log calls it: the site whose value it starts from is undone into."""
        return self.segment.target.name


def chain(subject: Subject, site: Site) -> list[Link]:
    """The links from the pixels to a site, in order of execution.

    Cuts are looked for at the entry of the blocks and after every sublayer; one is made where
    all that follows depends on the image through that one value alone, whatever was operated.

    Args:
        subject: operated.
        site: where the value to invert is.

    Returns:
        Links that follow each other, the first one from the image.
    """
    cuts = _cuts(subject, site)
    links: list[Link] = []
    pinned: Tensor | None = None
    spare: Tensor | None = None
    for source, target in zip([None, *cuts], [*cuts, site], strict=True):
        segment = subject.segment(source, target)
        if source is not None and source == subject.anatomy.entry:
            mask = known(subject, source).mask
            pinned = mask if bool(mask.any()) else None
        spare = spare if segment.tokenwise else None
        links.append(Link(segment, _kind(subject, segment), pinned, spare))
        if not segment.tokenwise:
            pinned, spare = None, pinned
    return links


def _cuts(subject: Subject, site: Site) -> list[Site]:
    anatomy = subject.anatomy
    adds = [s for s in anatomy.sites if s.kind == "sublayer"]
    ends = list(anatomy.select("blocks[*]")) if anatomy.blocks else []
    skipped = [anatomy.call_of(edit.site) for edit in subject.plan.edits if isinstance(edit, Skip)]
    candidates = [
        s
        for s in (anatomy.entry, *adds, *ends)
        if s is not None
        and not s.blocked
        and not any(c and s.op is not None and c.start <= s.op < c.end for c in skipped)
    ]
    found: list[Site] = []
    current = site
    for cut in sorted(candidates, key=lambda s: -s.order):
        if cut.order < current.order and cut.value != current.value and _cuts_off(
            subject, cut, current
        ):  # fmt: skip
            found.insert(0, cut)
            current = cut
    return found


def _cuts_off(subject: Subject, cut: Site, target: Site) -> bool:
    """Whether a target depends on the image through a cut, and through nothing else."""
    try:
        program = subject.program(inject=(cut,), capture=(target,), stop=target)
    except PlanError:
        return False
    return not program.needs_input and cut.value in program.needs.values


def _kind(subject: Subject, segment: Segment) -> Kind:
    source, target = segment.source, segment.target
    if segment.affine:
        same = source is not None and source.shape == target.shape and segment.flops == 0
        return "identity" if same and _passes(subject, segment) else "affine"
    if source is None or source.shape != target.shape:
        return "other"
    kept = [r for r in subject.anatomy.residuals if r.op.outputs[0] == target.value]
    adds = {v for op in segment.live_ops if op.name == "add" for v in op.outputs}
    changed = subject.plan.program.ops.values()
    dropped = {t.value for taps in changed for t in taps.values() if t.drops_skip}
    whole = any(
        r.source == source.value and not r.projected and r.op.outputs[0] not in dropped
        for r in kept
    )
    return "residual" if whole and target.value in adds else "other"


def _passes(subject: Subject, segment: Segment) -> bool:
    assert segment.source is not None
    x = torch.ones(segment.source.shape, device=subject.device, dtype=subject.dtype)
    with torch.no_grad():
        return torch.equal(segment(x), x)


def known(subject: Subject, site: Site, dtype: torch.dtype | None = None) -> Pins:
    """Known tokens at a site, in a precision; none where its value is no sequence of tokens."""
    if len(site.shape) != 3:
        return Pins(torch.zeros(1, dtype=torch.bool), torch.zeros(1, 1, 1))
    names = subject.segment(None, site).parameters
    with subject.in_dtype(dtype or subject.dtype, names):
        return subject.known(site)


class Counted:
    """A segment whose calls a ledger counts, in a precision of its own.

    Args:
        dtype: of its weights while it is ready, and of what it is given.
    """

    def __init__(self, segment: Segment, ledger: Ledger, dtype: torch.dtype) -> None:
        self.segment, self.ledger, self.dtype = segment, ledger, dtype

    @property
    def share(self) -> float:
        """Of the ledger's unit, that one gradient evaluation of the segment is."""
        return self.segment.flops / max(self.ledger.unit, 1)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Its weights in its precision, without gradients: use it inside."""
        subject, names = self.segment.subject, self.segment.parameters
        with torch.no_grad(), subject.in_dtype(self.dtype, names):
            yield

    def __call__(self, x: Tensor) -> Tensor:
        self.ledger.forward(self._flops(x))
        return self.segment(x)

    def _flops(self, x: Tensor) -> int:
        """Of one forward: in proportion, for a batch or some of the tokens."""
        source, size = self.segment.source, self.segment.subject.anatomy.input_size
        one = math.prod(size if source is None else source.shape)
        return round(self.segment.flops * x.numel() / one)

    def jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """The derivative at x along v."""
        self.ledger.jvp(self._flops(x))
        return self.segment.jvp(x, v)[1]

    def jacobians(self, x: Tensor) -> Tensor:
        """(tokens, width out, width in), the Jacobian of each token of a token-wise segment."""
        self.ledger.jvp(self._flops(x), x.shape[-1])
        return token_jacobians(self.segment, x)

    def vjp(self, x: Tensor) -> tuple[Tensor, Map]:
        """The value at x, and what pulls a cotangent back."""
        flops = self._flops(x)
        self.ledger.forward(flops)
        with torch.enable_grad():
            value, pull = self.segment.vjp(x)

        def back(u: Tensor) -> Tensor:
            self.ledger.backward(flops)
            return pull(u).detach()

        return value.detach(), back
