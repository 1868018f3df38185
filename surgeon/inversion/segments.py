"""Segments: the map from one site's value to another's, such as one half-block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from surgeon.anatomist import functions
from surgeon.anatomist.graph import Op
from surgeon.anatomist.mixing import ops_mix_tokens
from surgeon.anatomist.site import Site
from surgeon.errors import PlanError

if TYPE_CHECKING:
    from surgeon.subject import Subject

_LINEAR_MAPS = functions.FREE | functions.CONVOLUTION | {
    "linear", "matmul", "batch_norm", "avg_pool2d", "adaptive_avg_pool2d", "mean", "cat", "stack",
}  # fmt: skip


def plain_attention() -> AbstractContextManager[None]:
    """Attention by plain matrix products: the fused kernels have no forward-mode derivative."""
    return sdpa_kernel(SDPBackend.MATH)


class Segment:
    """A map of tensors: the value at `source` in, the value at `target` out.

    Only what lies between is computed. Use it while its subject is operated.

    Attributes:
        source, target: sites; source comes first. No source: the image, in pixels of [0, 1].
        tokenwise: whether each token goes its own way.
        affine: whether it is linear up to a constant.
        flops: of one forward of one image.

    Raises:
        PlanError: the target also depends on the image by ways that don't lead through the source.
    """

    def __init__(self, subject: Subject, source: Site | None, target: Site) -> None:
        self.subject, self.source, self.target = subject, source, target
        injected = () if source is None else (source,)
        self.program = subject.program(inject=injected, capture=(target,), stop=target)
        if source is not None and self.program.needs_input:
            raise PlanError(
                f"the segment from {source.name} to {target.name}",
                f"{target.name} depends on the image by other ways than {source.name}",
                "a source that all of it goes through, such as a block or a residual add",
            )
        graph = self.program.graph
        ops = [graph.ops[i] for i in sorted(self.program.needs.ops)]
        start = graph.calls[0].inputs[0] if source is None else source.value
        self.live_ops, varying = _way(ops, start, self.program.aliases)
        self.flops = sum(op.flops for op in self.live_ops)
        self.tokenwise = (
            source is not None
            and start is not None
            and not ops_mix_tokens(graph, start, self.live_ops, len(source.shape))
        )
        self.affine = all(
            (op.name in _LINEAR_MAPS and sum(v in varying for v in dict.fromkeys(op.inputs)) <= 1)
            or op.name in ("add", "sub", "cat", "stack")
            for op in self.live_ops
        )

    @property
    def parameters(self) -> list[str]:
        """Paths of the parameters and buffers that it reads."""
        values = self.program.graph.values
        return [values[v].name for v in sorted(self.program.needs.values) if values[v].name]

    def __call__(self, x: Tensor) -> Tensor:
        """The target's value for a source's value x: (batch, ...) as at the sites."""
        if self.source is not None and not self.live_ops:
            return x  # all between is bypassed
        if self.source is None:
            return self.subject.through(self.program, {}, x)[self.target]
        return self.subject.through(self.program, {self.source: x})[self.target]

    def jvp(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Value and directional derivative along v, of x's shape."""
        with plain_attention():
            value_and_derivative: tuple[Any, ...] = torch.func.jvp(self, (x,), (v,))
        value, derivative = value_and_derivative
        return value, derivative

    def vjp(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Value, and the function that pulls a cotangent of its shape back to x's."""
        value_and_pull: tuple[Any, ...] = torch.func.vjp(self, x)
        value, pull = value_and_pull
        return value, lambda u: pull(u)[0]

    def __repr__(self) -> str:
        kinds = [name for name in ("tokenwise", "affine") if getattr(self, name)]
        source = self.source.name if self.source else "image"
        return f"Segment({source} -> {self.target.name}{', '.join(['', *kinds])})"


def _way(
    ops: list[Op], start: int | None, aliases: Mapping[int, int]
) -> tuple[list[Op], set[int | None]]:
    """The functions that a value bears on, and all values that vary with it."""
    varying, found = {start}, []
    for op in ops:
        for value in op.inputs:  # a bypassed module hands on what it was given
            chain = [value]
            while chain[-1] in aliases and chain[-1] not in varying:
                chain.append(aliases[chain[-1]])
            if chain[-1] in varying:
                varying.update(chain)
        if not varying.isdisjoint(op.inputs):
            varying.update(op.outputs)
            found.append(op)
    return found, varying
