"""Segments: the map from one site's value to another's, such as one half-block."""

from __future__ import annotations

from collections.abc import Callable
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
        source, target: sites; source comes first.
        tokenwise: whether each token goes its own way.
        affine: whether it is linear up to a constant.
        flops: of one forward of one image.

    Raises:
        PlanError: the target also depends on the image by ways that don't lead through the source.
    """

    def __init__(self, subject: Subject, source: Site, target: Site) -> None:
        self.subject, self.source, self.target = subject, source, target
        self.program = subject.program(inject=(source,), capture=(target,), stop=target)
        if self.program.needs_input:
            raise PlanError(
                f"the segment from {source.name} to {target.name}",
                f"{target.name} depends on the image by other ways than {source.name}",
                "a source that all of it goes through, such as a block or a residual add",
            )
        graph = self.program.graph
        ops = [graph.ops[i] for i in sorted(self.program.needs.ops)]
        self.live_ops: list[Op] = [op for op in ops if _after(op, ops, graph.live, source)]
        self.flops = sum(op.flops for op in self.live_ops)
        rank = len(source.shape)
        self.tokenwise = source.value is not None and not ops_mix_tokens(
            graph, source.value, self.live_ops, rank
        )
        self.affine = all(
            (op.name in _LINEAR_MAPS and len(_varying(op, self.live_ops, source)) <= 1)
            or op.name in ("add", "sub", "cat", "stack")
            for op in self.live_ops
        )

    def __call__(self, x: Tensor) -> Tensor:
        """The target's value for a source's value x: (batch, ...) as at the sites."""
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
        return f"Segment({self.source.name} -> {self.target.name}{', '.join(['', *kinds])})"


def _after(op: Op, ops: list[Op], live: frozenset[int], source: Site) -> bool:
    return bool(_varying(op, ops, source))


def _varying(op: Op, ops: list[Op], source: Site) -> list[int]:
    """Inputs of an op that vary with the source's value."""
    varying = {source.value}
    for other in ops:
        if other.index >= op.index:
            break
        if not varying.isdisjoint(other.inputs):
            varying.update(other.outputs)
    return [v for v in dict.fromkeys(op.inputs) if v in varying]
