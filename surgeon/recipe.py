"""Recipes: a model, donors, operations, input and probe settings, as data. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import StrictBool, StrictInt, StrictStr
from pydantic.dataclasses import dataclass as checked_dataclass

from surgeon.errors import RecipeError
from surgeon.notebook import Shown
from surgeon.operations.base import STRICT, Operation
from surgeon.toml_lines import Key, key_text

if TYPE_CHECKING:
    from torch import nn


@checked_dataclass(frozen=True, config=STRICT)
class ModelSpec:
    """A model to build.

    Attributes:
        name: "source/architecture".
        weights: the source's own tag, or a .safetensors or .pth file; None: untrained.
        seed: initialisation of everything untrained.
        options: passed to the source's constructor: `img_size`, `in_chans`, `depth`.
    """

    name: StrictStr
    weights: StrictStr | None = None
    seed: StrictInt = 0
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read "source/name" or "source/name@weights".

        >>> ModelSpec.parse("torchvision/vit_b_32@IMAGENET1K_V1").weights
        'IMAGENET1K_V1'
        """
        name, _, weights = text.partition("@")
        if "/" not in name:
            raise RecipeError(
                f'model "{text}"', "no source before the name", f"torchvision/{name}, timm/{name}"
            )
        return cls(name, weights or None)

    @property
    def label(self) -> str:
        """As `parse` reads it."""
        return f"{self.name}@{self.weights}" if self.weights else self.name

    def __hash__(self) -> int:
        return hash(_canonical(_plain(self)))


@checked_dataclass(frozen=True, config=STRICT)
class InputSpec:
    """What a probe is given.

    Attributes:
        image: a file, a folder, or a packaged one as "surgeon:NAME".
        normalize: apply the model's own mean and standard deviation inside the subject; False: raw
            pixels in [0, 1].
    """

    image: StrictStr | None = None
    normalize: StrictBool = True


@dataclass(frozen=True, init=False)
class Recipe(Shown):
    """Operations on a model, with all that a run needs. Immutable; `|` makes longer ones.

        recipe = Recipe(model="torchvision/vit_b_32") | Bypass("blocks[4:8].attention")

    Attributes:
        model: the model to build; None for a recipe to use on a model you hold.
        donors: named models to swap from.
        operations: in order; only the order of swaps of one tensor matters.
        input: image and normalisation.
        probes: probe name -> its settings.
        places: key -> "file, line" of those read from a file, for errors; no part of its identity.
    """

    model: ModelSpec | None
    donors: Mapping[str, ModelSpec]
    operations: tuple[Operation, ...]
    input: InputSpec
    probes: Mapping[str, Mapping[str, Any]]
    places: Mapping[Key, str] = field(repr=False)

    def __init__(
        self,
        model: str | ModelSpec | None = None,
        *,
        weights: str | None = None,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        donors: Mapping[str, str | ModelSpec] | None = None,
        operations: Iterable[Operation] = (),
        input: InputSpec | None = None,
        probes: Mapping[str, Mapping[str, Any]] | None = None,
        places: Mapping[Key, str] | None = None,
    ) -> None:
        spec = ModelSpec.parse(model) if isinstance(model, str) else model
        if spec is not None:
            spec = replace(
                spec,
                weights=weights or spec.weights,
                seed=spec.seed if seed is None else seed,
                options={**spec.options, **(options or {})},
            )
        named = {
            name: ModelSpec.parse(d) if isinstance(d, str) else d
            for name, d in (donors or {}).items()
        }
        put = object.__setattr__
        put(self, "model", spec)
        put(self, "donors", named)
        put(self, "operations", ())
        put(self, "input", input or InputSpec())
        put(self, "probes", {name: dict(settings) for name, settings in (probes or {}).items()})
        put(self, "places", dict(places or {}))
        for operation in operations:
            put(self, "operations", (*self.operations, self._own(operation)))

    def _own(self, operation: Operation) -> Operation:
        """An operation of this recipe: a donor written as a model becomes a named one."""
        donor = getattr(operation, "donor", None)
        if donor is None or donor in self.donors:
            return operation
        if "/" not in donor:
            raise RecipeError(
                f'{operation.op} from donor "{donor}"',
                f"the recipe names {', '.join(self.donors) or 'no donors'}",
                f"add [donors.{donor}], or write the donor as source/name@weights",
            )
        spec = ModelSpec.parse(donor)
        own = re.sub(r"[^A-Za-z0-9_-]+", "_", donor)
        name = next((n for n, known in self.donors.items() if known == spec), own)
        if self.donors.get(name, spec) != spec:
            raise RecipeError(
                f'{operation.op} from donor "{donor}"',
                f'it would be named "{name}", as {self.donors[name].label} is',
                f'donors={{"another": "{donor}"}}, and that name as the donor',
            )
        object.__setattr__(self, "donors", {**self.donors, name: spec})
        return replace(operation, donor=name)  # type: ignore[type-var]

    # --- composing

    def __or__(self, other: Operation | Recipe) -> Recipe:
        """This recipe, then an operation, or then another recipe's.

        Raises:
            RecipeError: two different models, or one donor's name for two models.
        """
        if not isinstance(other, Recipe):
            return self.updated(operations=(*self.operations, other))
        first = len(self.operations)
        if None not in (self.model, other.model) and self.model != other.model:
            asked = f"{self.model} | {other.model}"
            raise RecipeError(
                asked, "two different models", "leave the model out of one of the two recipes"
            )
        for name in self.donors.keys() & other.donors.keys():
            if self.donors[name] != other.donors[name]:
                raise RecipeError(
                    f'donor "{name}" of two recipes',
                    f"{self.donors[name].label} and {other.donors[name].label}",
                    "rename one of them",
                )
        return Recipe(
            self.model or other.model,
            donors={**self.donors, **other.donors},
            operations=(*self.operations, *other.operations),
            input=replace(self.input, **_plain(other.input)),
            probes={**self.probes, **other.probes},
            places={**self.places, **{_moved(k, first): v for k, v in other.places.items()}},
        )

    def updated(self, **changes: Any) -> Recipe:
        """This recipe with some fields replaced."""
        now = {f.name: getattr(self, f.name) for f in fields(self)}
        made = Recipe(**{**now, **changes})
        if "places" not in changes:
            kept = {k: v for k, v in self.places.items() if _value(self, k) == _value(made, k)}
            object.__setattr__(made, "places", kept)
        return made

    def place(self, *keys: Key) -> str:
        """The first of some keys that was read from a file, as "file, line, key"; else the last.

        >>> Recipe().place(("operations", 0, "site"), ("operations", 0))
        'operations[0]'
        """
        for key in keys:
            if key in self.places:
                return f"{self.places[key]}, {key_text(key)}"
        return key_text(keys[-1])

    # --- identity

    def to_dict(self) -> dict[str, Any]:
        """As in its TOML file, defaults left out."""
        table: dict[str, Any] = {"schema": 1}
        if self.model is not None:
            table["model"] = _plain(self.model)
        if self.donors:
            table["donors"] = {name: _plain(spec) for name, spec in self.donors.items()}
        if self.operations:
            table["operations"] = [{"op": o.op, **_plain(o)} for o in self.operations]
        if self.input != InputSpec():
            table["input"] = _plain(self.input)
        if self.probes:
            table["probes"] = {name: dict(settings) for name, settings in self.probes.items()}
        return table

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """SHA-256 of its canonical form, hexadecimal; equal recipes, equal digests."""
        return hashlib.sha256(_canonical(self.to_dict()).encode()).hexdigest()

    # --- files and models

    def to_toml(self) -> str:
        """Its TOML text; `Recipe.from_toml` gives an equal recipe."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str, *, source: str = "recipe") -> Recipe:
        """Read TOML text; errors name `source`, line and key.

        Raises:
            RecipeError: no TOML, an unknown key, a wrong type.
        """
        from surgeon.recipe_file import parse_recipe

        return parse_recipe(text, source)

    @classmethod
    def read(cls, path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """Read a file, or a packaged recipe as "surgeon:NAME".

        Args:
            overrides: "probes.invert.steps=200" and the like, applied before checking.

        Raises:
            RecipeError: missing or wrong; file, line and key are named.
        """
        from surgeon.recipe_file import read_recipe

        return read_recipe(str(path), overrides)

    def load(self, device: str | None = None) -> nn.Module:
        """Build the recipe's own model, un-operated, in evaluation mode.

        Raises:
            RecipeError: the recipe names no model.
            ModelError, WeightsError: it can't be built, or its weights not read.
        """
        from surgeon.sources import load_model

        if self.model is None:
            raise RecipeError(
                "load the recipe's model", "it names none", 'Recipe(model="torchvision/vit_b_32")'
            )
        return load_model(self.model, device=device)

    def __str__(self) -> str:
        return self.to_toml()


def _plain(value: Any) -> dict[str, Any]:
    """A dataclass as TOML would have it: defaults and None left out."""
    found: dict[str, Any] = {}
    for f in fields(value):
        item = getattr(value, f.name)
        default = f.default_factory() if callable(f.default_factory) else f.default
        if item is None or item == default:
            continue
        found[f.name] = list(item) if isinstance(item, tuple) else item
    return found


def _moved(key: Key, first: int) -> Key:
    """A key of a recipe's operations once they follow as many others."""
    return (key[0], first + int(key[1]), *key[2:]) if key[0] == "operations" else key


def _value(recipe: Recipe, key: Key) -> Any:
    """What stands at a key of `places`."""
    if key[0] == "operations":
        number = int(key[1])
        return recipe.operations[number] if number < len(recipe.operations) else None
    settings = recipe.probes.get(str(key[1]), {})
    return settings.get(str(key[2]), settings)


def _canonical(table: Any) -> str:
    return json.dumps(table, sort_keys=True, default=str)
