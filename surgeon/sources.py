"""Model sources: what a plugin provides, and building a model from a recipe's [model] table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from surgeon.errors import ModelError, SurgeonError
from surgeon.preprocessing import Preprocessing
from surgeon.recipe import ModelSpec
from surgeon.registry import Entry, registry
from surgeon.weights import TensorStore, check_finite, load_into, open_weights, store_of
from surgeon.weights_files import local_file


class Source(Protocol):
    """A library of models. Registered as "module:Class", instantiated without arguments.

    A source may also have `family(name) -> (family, task)`, the library's own grouping, and
    `declared(name, model) -> Declared`, its own word on a model; `surgeon compat` asks for both.
    `converted(name, model, state)` renames a checkpoint of another layout by the library's own
    loader; it returns None where that knows no such layout.
    `weights_file(name, tag)` is the local file of a tag's weights, for sources that have them in
    files of their own; a study's runs are told apart by its content.
    `labels(name, tag, options, model)` gives per class all its names, the one to
    show first, for classes to be asked for by name (`surgeon.labels.Labels`).
    """

    def names(self) -> list[str]:
        """Every architecture it can build."""

    def tags(self, name: str) -> list[str]:
        """Tags of the trained weights of an architecture, the default first."""

    def build(self, name: str, options: dict[str, Any]) -> nn.Module:
        """An untrained model, from torch's random state, on torch's default device."""

    def build_trained(self, name: str, tag: str, options: dict[str, Any]) -> nn.Module:
        """A model with the weights of a tag.

        Raises:
            WeightsError: they can't be had; says which file to put where.
        """

    def preprocessing(
        self, name: str, tag: str | None, options: dict[str, Any], model: nn.Module
    ) -> Preprocessing:
        """What the model expects; with no tag, as the architecture's default weights do."""


@dataclass(frozen=True)
class Declared:
    """What a library itself says of one of its models: something to compare a reading with.

    Attributes:
        stem: paths of its first layers; empty where it doesn't say.
        head: paths of its classifiers, none for a model without; None where it doesn't say.
        groups: parameter -> the block it belongs to, "" where it belongs to none; empty where it
            doesn't say.
    """

    stem: tuple[str, ...] = ()
    head: tuple[str, ...] | None = None
    groups: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolved:
    """A model's spec with its source found and its name checked."""

    spec: ModelSpec
    source: Source
    name: str

    @property
    def weights_file(self) -> Path | None:
        """The local file its weights are, if they are one."""
        return local_file(self.spec.weights)


def all_names(
    pattern: str | None = None, *, broken: Callable[[Entry, Exception], None] | None = None
) -> list[str]:
    """Every architecture of every source, as "source/architecture".

    Args:
        pattern: with `*` or `?` it must match the whole name, without them a part of it.
        broken: told of a source that fails; left out, its error is raised.
    """
    names: list[str] = []
    for entry in registry().all("source"):
        try:
            names += [f"{entry.name}/{name}" for name in entry.load()().names()]
        except Exception as cause:  # whatever a plugin raises costs only itself
            if broken is None:
                raise
            broken(entry, cause)
    if not pattern:
        return names
    wild = pattern if any(c in pattern for c in "*?") else f"*{pattern}*"
    return [name for name in names if fnmatchcase(name, wild)]


def resolve(spec: ModelSpec) -> Resolved:
    """Find a spec's source and check its name and tag.

    Raises:
        ModelError: no such source or architecture.
        WeightsError: no such tag; the nearest are given.
    """
    from surgeon.errors import WeightsError, nearest

    kind, slash, name = spec.name.partition("/")
    if not slash:
        raise ModelError(
            f'model "{spec.name}"', "no source before the name", f"torchvision/{kind}, timm/{kind}"
        )
    source: Source = registry().find("source", kind, ModelError).load()()
    names = source.names()
    if name not in names:
        near = ", ".join(f"{kind}/{n}" for n in nearest(name, names).split(", "))
        raise ModelError(f'model "{spec.name}"', f"no such architecture among {len(names)}", near)
    found = Resolved(spec, source, name)
    if spec.weights is not None and found.weights_file is None:
        tags = source.tags(name)
        if spec.weights not in tags:
            raise WeightsError(
                f'weights "{spec.weights}" of {spec.name}',
                f"no such tag among {len(tags)}, and no such file",
                nearest(spec.weights, tags) or "leave weights out, or a .safetensors file",
            )
    return found


def load_model(spec: ModelSpec, *, device: str | torch.device | None = None) -> nn.Module:
    """Build a model in evaluation mode.

    Args:
        device: where to put it; the CPU if left out.

    Raises:
        ModelError, WeightsError: see `resolve`; a constructor that refuses the options.
    """
    found = resolve(spec)
    if spec.weights is None or found.weights_file is not None:
        model = _seeded(found)
        if found.weights_file is not None:
            load_into(model, renamed(spec, open_weights(found.weights_file), model))
    else:
        # A head that the weights don't cover is initialised: from the seed, as all that is.
        tag = spec.weights
        model = _seeded(found, lambda options: found.source.build_trained(found.name, tag, options))
    for name, tensor in model.state_dict().items():
        check_finite(tensor, f"{name} of {spec.label}")
    return model.eval().to(device or "cpu")


def meta_model(spec: ModelSpec) -> nn.Module:
    """The model's structure without its values: no memory, no reading of weights."""
    found = resolve(spec)
    try:
        return _seeded(found, meta=True).eval()
    except SurgeonError:
        raise
    except Exception:  # a constructor that reads values: only its parameters go without
        with _EmptyOnMeta():
            return _seeded(found).eval().to("meta")


def preprocessing_of(spec: ModelSpec, model: nn.Module) -> Preprocessing:
    """What a built model expects of its input."""
    found = resolve(spec)
    tag = None if found.weights_file is not None else spec.weights
    return found.source.preprocessing(found.name, tag, dict(spec.options), model)


def weights_store(spec: ModelSpec) -> TensorStore:
    """A model's parameters and buffers by name, read when asked for.

    A local file is opened, not read, and no model is built.
    """
    found = resolve(spec)
    if found.weights_file is not None:
        return open_weights(found.weights_file)
    model = load_model(spec)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return store_of({name: t.detach() for name, t in tensors.items()}, spec.label)


def renamed(spec: ModelSpec, store: TensorStore, model: nn.Module | None = None) -> TensorStore:
    """A weights file's tensors under the library's own names, where the file's are others.

    Args:
        model: of that spec, on the CPU; built where it is needed and not given.

    Returns:
        The store itself where its names are the library's own, or where the source's `converted`
        doesn't know them: `load_into` refuses those.
    """
    found = resolve(spec)
    convert = getattr(found.source, "converted", None)
    if convert is None:
        return store
    if set((model or meta_model(spec)).state_dict()) == set(store.shapes):
        return store
    state = convert(found.name, model or load_model(_untrained(spec)), store.state_dict())
    return store if state is None else store_of(state, store.origin)


def _untrained(spec: ModelSpec) -> ModelSpec:
    return ModelSpec(spec.name, None, spec.seed, spec.options)


class _EmptyOnMeta(TorchFunctionMode):
    """Tensors made to be filled later, parameters that is, have no memory; all others do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _seeded(
    found: Resolved,
    build: Callable[[dict[str, Any]], nn.Module] | None = None,
    *,
    meta: bool = False,
) -> nn.Module:
    """A model built under its spec's seed; the user's own random stream is left alone."""
    spec = found.spec
    build = build or (lambda options: found.source.build(found.name, options))
    with torch.random.fork_rng(devices=[]), torch.device("meta") if meta else nullcontext():
        torch.manual_seed(spec.seed)
        try:
            return build(dict(spec.options))
        except (TypeError, ValueError, AssertionError) as cause:
            if meta and not isinstance(cause, TypeError):
                raise
            listed = ", ".join(f"{k} = {v!r}" for k, v in spec.options.items()) or "no options"
            raise ModelError(
                f"build {spec.name} with {listed}",
                f"{type(cause).__name__}: {cause}",
                "options of the constructor, or none",
            ) from cause
