"""The literature's bound on the Lipschitz constant of self-attention, at a point.

Dot-product attention has no global one (Kim, Papamakarios and Mnih 2021). Where the n tokens are no
longer than R, one head x -> V sum_j P_ij x_j with P_ij ~ exp(x_i^T A x_j) has at most

    sqrt(3) |V| sqrt(|A|^2 R^4 (4 n + 1) + n)

(Castin, Ablin and Peyre 2024, "How smooth is attention?", theorem 3.3). Biases of queries and keys
are taken in by a further coordinate of 1; heads are put together by their output's projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.anatomist import functions
from surgeon.anatomist.graph import Op
from surgeon.inversion.segments import Segment

_ATTENTION = ("multi_head_attention_forward", "scaled_dot_product_attention")


@dataclass(frozen=True)
class _Heads:
    """Weights of an attention: (3 width, width) for queries, keys and values, the projection of its
    output, and their biases."""

    weight: Tensor
    bias: Tensor
    out: Tensor
    shift: Tensor
    count: int

    def __call__(self, tokens: Tensor) -> Tensor:
        """Attention as the bound takes it to be; (tokens, width) in and out."""
        every = (tokens @ self.weight.T + self.bias).chunk(3, -1)
        query, key, value = (m.unflatten(-1, (self.count, -1)).transpose(0, 1) for m in every)
        scores = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
        mixed: Tensor = (scores @ value).transpose(0, 1).flatten(1) @ self.out.T + self.shift
        return mixed


def attention_bound(segment: Segment, x: Tensor, *, residual: bool) -> float | None:
    """A bound on the operator norm of an attention branch's Jacobian.

    Args:
        segment: a layer normalisation, then attention, with or without its residual.
        x: (1, tokens, width), float64, the value at its source; weights are in float64 too.
        residual: whether the segment adds its input.

    Returns:
        None where it is not recognised as that, or what was recognised gives other values.
    """
    source, ops = segment.source, segment.live_ops
    norms = [op for op in ops if op.name in functions.NORMALISATION]
    mixers = [op for op in ops if op.name in _ATTENTION]
    if source is None or source.value is None or x.ndim != 3:
        return None
    if len(norms) != 1 or len(mixers) != 1:  # a norm may be bypassed
        return None
    if norms[0].name != "layer_norm" or source.value not in norms[0].inputs:
        return None
    heads = _heads(segment, mixers[0])
    normed = _normed(segment, norms[0], x[0])
    if heads is None or normed is None:
        return None
    tokens, slope = normed
    with torch.no_grad():
        branch = segment(x)[0] - (x[0] if residual else 0.0)
        if not torch.allclose(heads(tokens), branch, rtol=1e-6, atol=1e-9 * float(x.norm())):
            return None
    return slope * _bound(heads, tokens)


def _bound(heads: _Heads, tokens: Tensor) -> float:
    """Of attention alone, on the ball that these tokens are in; (tokens, width)."""
    count, width = tokens.shape
    fourth = (float(tokens.square().sum(1).max()) + 1) ** 2  # R^4 with the further coordinate
    augmented = torch.cat([heads.weight, heads.bias[:, None]], 1)
    query, key, _ = (m.unflatten(0, (heads.count, -1)) for m in augmented.chunk(3))
    value = heads.weight[2 * width :].unflatten(0, (heads.count, -1))
    # |K^T Q| by the small matrices' own: R_k R_q^T of their triangular factors.
    factors = [torch.linalg.qr(m.mT).R for m in (query, key)]
    scores = torch.linalg.matrix_norm(factors[1] @ factors[0].mT, 2) / math.sqrt(query.shape[1])
    passed = torch.linalg.matrix_norm(value, 2)
    each = 3 * passed**2 * (scores**2 * fourth * (4 * count + 1) + count)
    return float(torch.linalg.matrix_norm(heads.out, 2) * each.sum().sqrt())


def _normed(segment: Segment, op: Op, x: Tensor) -> tuple[Tensor, float] | None:
    """The normalised tokens, and how much the normalisation can stretch a change of them."""
    path = segment.program.graph.calls[op.call].path
    norm = segment.subject.model.get_submodule(path)
    if not isinstance(norm, torch.nn.LayerNorm) or tuple(norm.normalized_shape) != x.shape[-1:]:
        return None
    with torch.no_grad():
        least = float((x.double().var(-1, correction=0) + norm.eps).sqrt().min())
        most = 1.0 if norm.weight is None else float(norm.weight.abs().max())
        weight = None if norm.weight is None else norm.weight.double()
        shift = None if norm.bias is None else norm.bias.double()
        tokens = torch.nn.functional.layer_norm(
            x.double(), norm.normalized_shape, weight, shift, norm.eps
        )
    return tokens, most / least


def _heads(segment: Segment, op: Op) -> _Heads | None:
    """The weights by their shapes, whatever they are called."""
    graph = segment.program.graph
    if op.name == "multi_head_attention_forward":
        module = segment.subject.model.get_submodule(graph.calls[op.call].path)
        found, count = [_tensor(segment, v) for v in op.inputs], getattr(module, "num_heads", 1)
    else:
        linear = [o for o in segment.live_ops if o.name == "linear"]
        found = [_tensor(segment, v) for o in linear for v in o.inputs]
        shape = graph.values[op.inputs[0]].shape
        count = shape[1] if len(shape) == 4 else 1
    tensors = [t for t in found if t is not None]
    matrices, vectors = ([t for t in tensors if t.ndim == n] for n in (2, 1))
    if len(matrices) != 2 or not isinstance(count, int):
        return None
    width = matrices[0].shape[1]
    if matrices[0].shape[0] != 3 * width or tuple(matrices[1].shape) != (width, width):
        return None
    bias = next((v for v in vectors if len(v) == 3 * width), matrices[0].new_zeros(3 * width))
    shift = next((v for v in vectors if len(v) == width), matrices[0].new_zeros(width))
    return _Heads(matrices[0], bias, matrices[1], shift, count)


def _tensor(segment: Segment, value: int) -> Tensor | None:
    name = segment.program.graph.values[value].name
    if not name:
        return None
    owner, _, last = name.rpartition(".")
    found: Tensor = getattr(segment.subject.model.get_submodule(owner), last)
    return found.detach().double()
