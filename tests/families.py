"""Every family of both libraries, real tensors: operations against oracles that don't know surgeon.

Plain hooks, timm's own `forward_intermediates`, identities that hold in exact arithmetic, and a
count of residual adds by autograd's graph.
"""

from __future__ import annotations

from contextlib import contextmanager

import timm
import torch
import torchvision
from oracles import no_fast_path

import surgeon
from surgeon import Bypass, DropResidual, Recipe, Truncate

#: Autograd nodes that do work: without one a way through a block is a skip.
_WORK = (
    "Convolution", "Addmm", "MmBackward", "BmmBackward", "Attention", "Pool", "MeanBackward",
    "FftC2C", "FftR2C", "FftC2R", "Upsample", "Amax", "BatchNorm",
)  # fmt: skip
_LAYERS = ("Convolution", "Addmm", "MmBackward", "BmmBackward", "Attention")


def build(library, name, options, seed=0):
    """An untrained model in double precision, every weight moved away from its initial value."""
    torch.manual_seed(seed)
    if library == "timm":
        model = timm.create_model(name, **options)
    else:
        extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(name, weights=None, **extra, **options)
    model = model.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and (tensor.ndim < 2 or not tensor.any()):
                tensor += (
                    0.1 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).abs()
                )
    return model


def images(size, batch=1, seed=1):
    return torch.rand(batch, *size, generator=torch.Generator().manual_seed(seed)).double()


@contextmanager
def frozen(model):
    """Weights frozen, as while operated: torch chooses among its kernels by that."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


# --- hooks


class Tap:
    """What a module is given and returns, on its nth call of a forward, by plain hooks."""

    def __init__(self, module, nth=0):
        self.module, self.nth, self.calls = module, nth, 0

    def __enter__(self):
        self.handles = [self.module.register_forward_hook(self.hook, with_kwargs=True)]
        return self

    def __exit__(self, *error):
        self.handles[0].remove()

    def hook(self, module, args, kwargs, out):
        if self.calls == self.nth:
            tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
            flat = [t for a in args if isinstance(a, (list, tuple)) for t in a]
            # Clones: what follows may work in place on what it is given.
            self.given, self.out = (tensors or flat)[0].clone(), first(out).clone()
        self.calls += 1


def first(out):
    while not isinstance(out, torch.Tensor):
        out = next(iter(out.values())) if isinstance(out, dict) else out[0]
    return out


# --- the checks


def check(library, name, options, size):
    """Everything, for one model; returns what was checked, for the record."""
    with no_fast_path():  # as it is in every operated model
        return _check(library, name, options, size)


def _check(library, name, options, size):
    model = build(library, name, options)
    x = images(size)
    anatomy = surgeon.anatomy(model, size)
    with torch.no_grad():
        plain = first(model(x))  # some models fill caches of their own in their first forward
    before = surgeon.fingerprint(model, full=True)
    check_truncation(model, anatomy, x)
    check_gradient(model, anatomy, x)
    dropped = check_residuals(model, anatomy, x)
    assert not before.difference(surgeon.fingerprint(model, full=True))
    with torch.no_grad():
        assert torch.equal(first(model(x)), plain)
    counted, read = check_count(model, anatomy, x)
    return {"blocks": len(anatomy.blocks), "residuals": read, "by autograd": counted,
            "identities": dropped}  # fmt: skip


def operated(model, anatomy, x, *operations):
    recipe = Recipe(operations=operations)
    with surgeon.operate(model, recipe, input_size=anatomy.input_size) as subject:
        return subject.raw(x)


def at(anatomy, index):
    call = anatomy.blocks[index].call
    return call.path, call.nth


def chosen(count):
    return sorted({0, count // 2, count - 1})


@torch.no_grad()
def check_truncation(model, anatomy, x):
    """Equal, bit for bit, to what a plain hook sees at the first, middle and last block."""
    for index in chosen(len(anatomy.blocks)):
        path, nth = at(anatomy, index)
        with Tap(model.get_submodule(path), nth) as tap, frozen(model):
            model(x)
        found = operated(model, anatomy, x, Truncate(f"blocks[{index}]"))
        assert torch.equal(found, tap.out), f"truncated at {path}"
        assert found.isfinite().all()
    check_intermediates(model, anatomy, x, found)


def check_intermediates(model, anatomy, x, last):
    """timm's own features after the last block, where it gives one feature a block."""
    if not hasattr(model, "forward_intermediates") or last.ndim != 3:
        return
    try:
        with frozen(model):
            features = model.forward_intermediates(x, intermediates_only=True, norm=False)
    except (TypeError, AssertionError):
        return
    if len(features) != len(anatomy.blocks) or features[-1].ndim != 4:
        return
    theirs = features[-1].flatten(2).transpose(1, 2)
    if last.shape[-1] != theirs.shape[-1]:
        return  # a block that returns pixel tokens before patch tokens
    assert torch.equal(last[:, last.shape[1] - theirs.shape[1] :], theirs)


def check_gradient(model, anatomy, x):
    """The gradient to the input through the operated model is the plain one's."""
    index = len(anatomy.blocks) // 2
    path, nth = at(anatomy, index)
    inputs = x.clone().requires_grad_()
    with Tap(model.get_submodule(path), nth) as tap:
        model(inputs)
    weights = torch.randn(tap.out.shape, generator=torch.Generator().manual_seed(3)).double()
    expected = torch.autograd.grad((tap.out * weights).sum(), inputs)[0]
    again = x.clone().requires_grad_()
    found = operated(model, anatomy, again, Truncate(f"blocks[{index}]"))
    gradient = torch.autograd.grad((found * weights).sum(), again)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    assert expected.abs().max() > 0


@torch.no_grad()
def check_residuals(model, anatomy, x):
    """skip + branch = output, in double precision; where the skip is plain it is what came in."""
    held = [i for i, b in enumerate(anatomy.blocks) if b.sublayers]
    if not held:
        assert not any(b.sublayers for b in anatomy.blocks)
        return 0
    done = 0
    for index in dict.fromkeys((held[0], held[-1])):
        block = anatomy.blocks[index]
        for j in dict.fromkeys((0, len(block.sublayers) - 1)):
            site = f"blocks[{index}].residual{j + 1}"
            stop = Truncate(site)
            whole = operated(model, anatomy, x, stop)
            branch = operated(model, anatomy, x, DropResidual(site), stop)
            skip = operated(model, anatomy, x, Bypass(site), stop)
            scale = whole.abs().max() + branch.abs().max()
            assert (skip + branch - whole).abs().max() <= 1e-12 * scale, site
            assert branch.abs().max() > 0, f"{site}: nothing in the branch"
            assert not torch.equal(skip, whole), f"{site}: the branch changes nothing"
            residual = block.sublayers[j].residual
            if j == 0 and residual.skip == residual.source and residual.source in block.call.inputs:
                with (
                    Tap(model.get_submodule(block.call.path), block.call.nth) as tap,
                    frozen(model),
                ):
                    model(x)
                if tap.given.shape == skip.shape:
                    assert torch.equal(skip, tap.given), f"{site}: the skip is not what came in"
            done += 1
    dropped = operated(
        model, anatomy, x, DropResidual("blocks[*]"), Truncate(f"blocks[{held[-1]}]")
    )
    kept = operated(model, anatomy, x, Truncate(f"blocks[{held[-1]}]"))
    assert dropped.shape == kept.shape
    assert not torch.equal(dropped, kept)
    return done


# --- residual adds by autograd's graph


def check_count(model, anatomy, x):
    """(adds counted, adds read) over all blocks; the caller compares them."""
    inputs = x[:1].clone().requires_grad_()
    read = sum(len(block.sublayers) for block in anatomy.blocks)
    counted = residuals_by_autograd(model, anatomy, inputs)
    return counted, read


def residuals_by_autograd(model, anatomy, inputs):
    """Adds inside the blocks one of whose operands reaches their common ancestor by a lighter way.

    Each block's graph is cut out: it starts at what the block is given and ends at what it returns.
    """
    total = 0
    taps = []
    for block in anatomy.blocks:
        taps.append(Cut(model.get_submodule(block.call.path), block.call.nth))
    try:
        for tap in taps:
            tap.on()
        with frozen(model):
            model(inputs)
    finally:
        for tap in taps:
            tap.off()
    for tap in taps:
        total += sum(1 for _ in residual_nodes(tap.ends, tap.starts))
    return total


class Cut:
    """The autograd nodes at which one call of a module starts and ends."""

    def __init__(self, module, nth):
        self.module, self.nth, self.calls = module, nth, 0
        self.starts, self.ends = [], []

    def on(self):
        self.handles = [
            self.module.register_forward_pre_hook(self.before, with_kwargs=True),
            self.module.register_forward_hook(self.after),
        ]

    def off(self):
        for handle in self.handles:
            handle.remove()

    def before(self, module, args, kwargs):
        if self.calls != self.nth:
            return None

        # A view of each input: a node of its own, where this block's graph starts.
        def cut(item):
            if isinstance(item, torch.Tensor) and item.requires_grad:
                fresh = item.view_as(item)
                self.starts.append(fresh.grad_fn)
                return fresh
            if isinstance(item, (list, tuple)):
                return type(item)(cut(part) for part in item)
            return item

        return tuple(cut(a) for a in args), {k: cut(v) for k, v in kwargs.items()}

    def after(self, module, args, out):
        if self.calls == self.nth:
            stack = [out]
            while stack:
                item = stack.pop()
                if isinstance(item, torch.Tensor) and item.grad_fn is not None:
                    self.ends.append(item.grad_fn)
                elif isinstance(item, (list, tuple)):
                    stack.extend(item)
                elif isinstance(item, dict):
                    stack.extend(item.values())
        self.calls += 1


def residual_nodes(ends, starts):
    """AddBackward nodes with a lighter and a heavier way to their nearest common ancestor."""
    stops = set(starts)
    order = topological(ends, stops)
    rank = {node: i for i, node in enumerate(order)}  # ancestors have higher ranks
    whole = None
    for node in order:
        if not node.name().startswith("AddBackward"):
            continue
        operands = [n for n, _ in node.next_functions if n is not None and n in rank]
        if len(operands) != 2:
            continue
        found = nearest(operands, rank, stops)
        if found is None and stops & set(operands):  # a skip handed in: its ancestor lies outside
            if whole is None:
                whole = {n: i for i, n in enumerate(topological(ends, set()))}
            found = nearest(operands, whole, set())
        if found is not None and is_residual(found):
            yield node


def nearest(operands, rank, stops):
    """What lies on the ways to the nearest ancestor of two operands; None where there is none."""
    above = [reach(operand, rank, stops) for operand in operands]
    shared = above[0] & above[1]
    if not shared:
        return None
    source = min(shared, key=rank.__getitem__)
    return [ways(operand, source, rank) for operand in operands]


def is_residual(works):
    """The lighter way is the stream itself, or a projection beside a branch that does more."""
    light, heavy = sorted(works, key=lambda w: (w["work"], w["layers"]))
    if not light["chain"]:
        return False
    if light["work"] == 0:
        return heavy["work"] > 0
    return heavy["layers"] > light["layers"] and heavy["bends"]


def topological(ends, stops):
    order, seen = [], set()

    def visit(root):
        stack = [(root, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
                continue
            if node in seen:
                continue
            seen.add(node)
            stack.append((node, True))
            if node not in stops:
                stack.extend((n, False) for n, _ in node.next_functions if n is not None)

    for end in ends:
        visit(end)
    return order[::-1]


def reach(node, rank, stops):
    found, todo = set(), [node]
    while todo:
        item = todo.pop()
        if item in found or item not in rank:
            continue
        found.add(item)
        if item not in stops:
            todo.extend(n for n, _ in item.next_functions if n is not None)
    return found


_BENDS = (
    "Relu", "Gelu", "Silu", "Hardswish", "Sigmoid", "Softmax", "Attention", "LayerNorm",
    "GroupNorm",
    "Tanh", "Clamp", "Mish", "Hardtanh", "Elu", "MaxPool", "Prelu", "Softplus", "RmsNorm", "Rsqrt",
    "Hardsigmoid", "LeakyRelu", "PowBackward", "ExpBackward", "VarMean",
)  # fmt: skip


def ways(node, source, rank):
    """What lies on the ways from an operand to the common ancestor."""
    inside = reach(node, rank, {source}) - {source}
    between = [n for n in inside if leads(n, source, rank)]
    names = [n.name() for n in between]
    work = sum(any(w in name for w in _WORK) for name in names)
    return {
        "work": work,
        # All nodes depend on the image (weights are frozen): one that takes two makes no skip,
        # but for parts that come together again.
        "chain": all(
            sum(m is not None for m, _ in n.next_functions) <= 1
            for n in between
            if "Cat" not in n.name()
        ),
        "layers": sum(any(w in name for w in _LAYERS) for name in names),
        "bends": any(b in name for name in names for b in _BENDS),
    }


def leads(node, source, rank):
    todo, seen = [node], set()
    while todo:
        item = todo.pop()
        if item is source:
            return True
        if item in seen or item not in rank or rank[item] > rank[source]:
            continue
        seen.add(item)
        todo.extend(n for n, _ in item.next_functions if n is not None)
    return False
