"""Model sources: what a plugin provides, and building a model from a recipe's [model] table."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from surgeon.errors import ModelError, SurgeonError
from surgeon.preprocessing import Preprocessing
from surgeon.recipe import ModelSpec
from surgeon.registry import registry
from surgeon.weights import SUFFIXES, TensorStore, check_finite, load_into, open_weights, store_of


class Source(Protocol):
    """A library of models. Registered as "module:Class", instantiated without arguments.

    It may also have `labels(name, tag, options, model)`: per class all its names, the one to show
    first, for classes to be asked for by name (`surgeon.labels.Labels`).
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
class Resolved:
    """A model's spec with its source found and its name checked."""

    spec: ModelSpec
    source: Source
    name: str

    @property
    def weights_file(self) -> Path | None:
        """The local file its weights are, if they are one."""
        weights = self.spec.weights
        if weights is None:
            return None
        path = Path(weights)
        looks_like_file = path.suffix in SUFFIXES or "/" in weights or path.exists()
        return path if looks_like_file else None


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
            load_into(model, open_weights(found.weights_file))
    else:
        model = found.source.build_trained(found.name, spec.weights, dict(spec.options))
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
    except Exception:  # a constructor that reads values: build it for real, then let them go
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


def _seeded(found: Resolved, meta: bool = False) -> nn.Module:
    spec = found.spec
    with torch.random.fork_rng(devices=[]), torch.device("meta") if meta else nullcontext():
        torch.manual_seed(spec.seed)
        try:
            return found.source.build(found.name, dict(spec.options))
        except (TypeError, ValueError, AssertionError) as cause:
            if meta and not isinstance(cause, TypeError):
                raise
            listed = ", ".join(f"{k} = {v!r}" for k, v in spec.options.items()) or "no options"
            raise ModelError(
                f"build {spec.name} with {listed}",
                f"{type(cause).__name__}: {cause}",
                "options of the constructor, or none",
            ) from cause
