"""Recipes as TOML: reading, checking, and the JSON Schema for editors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from surgeon.errors import ProbeError, RecipeError, nearest
from surgeon.operations.base import Operation
from surgeon.recipe import InputSpec, ModelSpec, Recipe
from surgeon.registry import Entry, registry
from surgeon.toml_files import Where, apply_override, packaged_text, parse_toml, settings_error
from surgeon.toml_lines import Key, key_text

_TABLES = ("schema", "model", "donors", "operations", "input", "probes")


class _File(BaseModel):
    """The tables of a recipe file, but for operations and probes, which plugins define."""

    model_config = ConfigDict(extra="forbid")

    model: ModelSpec | None = None
    donors: dict[str, ModelSpec] = {}
    input: InputSpec = InputSpec()


def read_recipe(path: str, overrides: Iterable[str] = ()) -> Recipe:
    """See `Recipe.read`."""
    return parse_recipe(packaged_text(path, "recipe"), path, overrides)


def parse_recipe(text: str, source: str, overrides: Iterable[str] = ()) -> Recipe:
    """See `Recipe.from_toml`."""
    table = parse_toml(text, source)
    overrides = list(overrides)
    for override in overrides:
        apply_override(table, override)
    return recipe_of(table, Where(source, text, overrides))


def recipe_of(table: dict[str, Any], where: Where) -> Recipe:
    """A recipe of its tables, checked.

    Args:
        where: says where in a file a key stands, for errors.

    Raises:
        RecipeError: an unknown key, a wrong type.
    """
    table = dict(table)
    _check_tables(table, where)
    operations = [
        _operation(item, ("operations", i), where)
        for i, item in enumerate(table.pop("operations", []))
    ]
    probes = table.pop("probes", {})
    _check_probes(probes, where)
    try:
        file = _File(**table)
    except ValidationError as cause:
        where_wrong = cause.errors()[0]["loc"]
        known = InputSpec if where_wrong[:1] == ("input",) else ModelSpec
        names = _TABLES if len(where_wrong) < 2 else [f.name for f in fields(known)]
        raise settings_error(cause, (), where, names) from None
    places = {key: where(key) for key in _keys(operations, probes)}
    recipe = Recipe(file.model, donors=file.donors, input=file.input, probes=probes)
    for i, operation in enumerate(operations):
        try:
            recipe = recipe | operation
        except RecipeError as error:
            raise error.located(where(("operations", i, "donor"))) from None
    object.__setattr__(recipe, "places", places)
    return recipe


def _keys(operations: list[Operation], probes: dict[str, Any]) -> list[Key]:
    """The keys that a plan or a probe may have to point at."""
    found: list[Key] = []
    for i, operation in enumerate(operations):
        found.append(("operations", i))
        found += [("operations", i, f.name) for f in fields(operation)]  # type: ignore[arg-type]
    for name, settings in probes.items():
        found += [("probes", name, key) for key in settings]
    return found


def _check_tables(table: dict[str, Any], where: Where) -> None:
    for key in table:
        if key not in _TABLES:
            raise RecipeError(
                f"{key} ({where((key,))})", "no such key in a recipe", nearest(key, _TABLES)
            )
    if table.pop("schema", 1) != 1:
        raise RecipeError(
            f"schema ({where(('schema',))})", "this Surgeon reads schema 1", "schema = 1"
        )
    for key, kind in (("operations", list), ("probes", dict)):
        if not isinstance(table.get(key, kind()), kind):
            raise RecipeError(
                f"{key} ({where((key,))})",
                f"a {type(table[key]).__name__}",
                "[[operations]]" if key == "operations" else "[probes.invert]",
            )


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_class(name))


def _class(name: str) -> Any:
    return registry().find("operation", name, RecipeError).load()


def _operation(item: Any, key: Key, where: Where) -> Operation:
    if not isinstance(item, dict) or not isinstance(item.get("op"), str):
        names = ", ".join(registry().entries["operation"])
        raise RecipeError(
            f"{key_text(key)}.op ({where((*key, 'op'))})", "it is missing or no string", names
        )
    rest = {name: value for name, value in item.items() if name != "op"}
    try:
        cls = _class(item["op"])
    except RecipeError as error:
        raise error.located(f"{where((*key, 'op'))}, {key_text((*key, 'op'))}") from None
    try:
        operation: Operation = cls(**rest)
    except ValidationError as cause:
        known = list(_adapter(item["op"]).json_schema()["properties"])
        raise settings_error(cause, key, where, known) from None
    return operation


def _check_probes(probes: dict[str, Any], where: Where) -> None:
    for name, settings in probes.items():
        key: Key = ("probes", name)
        if not isinstance(settings, dict):
            raise RecipeError(f"{key_text(key)} ({where(key)})", "no table", f"[probes.{name}]")
        try:
            checked_settings(name, settings, where)
        except ProbeError as error:
            raise RecipeError(error.asked, error.found, error.hint) from error.__cause__


class NoSettings(BaseModel):
    """Of a probe that registered none."""

    model_config = ConfigDict(extra="forbid")


def settings_class(probe: str) -> type[BaseModel]:
    """The settings of a probe: a pydantic model. Imports no torch.

    Raises:
        ProbeError: no such probe.
        PluginError: its settings can't be imported.
    """
    entry = registry().find("probe", probe, ProbeError)
    found: type[BaseModel] = entry.load("settings") if "settings" in entry.extra else NoSettings
    return found


def checked_settings(probe: str, settings: dict[str, Any], where: Where | None = None) -> BaseModel:
    """A probe's settings, checked.

    Args:
        where: says where in a file a key stands.

    Raises:
        ProbeError: no such probe, an unknown setting or a wrong value; the nearest names are given.
    """
    key: Key = ("probes", probe)
    try:
        cls = settings_class(probe)
    except ProbeError as error:
        raise (error.located(where(key)) if where else error) from error.__cause__
    try:
        return cls.model_validate(settings)
    except ValidationError as cause:
        raise settings_error(cause, key, where, cls.model_fields, ProbeError) from None


def recipe_schema(failed: Callable[[Entry, Exception], None] | None = None) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of recipe files, operations and probes of plugins included.

    Args:
        failed: told of an operation or a probe whose plugin is broken; it is left out.
    """
    schema = _File.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    choices, probes = [], {}
    for entry in (*registry().all("operation"), *registry().all("probe")):
        try:
            found = (
                _operation_schema(entry)
                if entry.kind == "operation"
                else settings_class(entry.name).model_json_schema()
            )
        except Exception as cause:  # whatever a plugin raises costs only itself
            if failed is not None:
                failed(entry, cause)
            continue
        definitions.update(found.pop("$defs", {}))
        if entry.kind == "operation":
            definitions[entry.name] = found
            choices.append({"$ref": f"#/$defs/{entry.name}"})
        else:
            probes[entry.name] = found
    schema["title"] = "Surgeon recipe"
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"] |= {
        "schema": {"const": 1},
        "operations": {"type": "array", "items": {"oneOf": choices}},
        "probes": {"type": "object", "properties": probes, "additionalProperties": False},
    }
    return schema


def _operation_schema(entry: Entry) -> dict[str, Any]:
    operation = _adapter(entry.name).json_schema()
    operation["properties"] = {"op": {"const": entry.name}, **operation["properties"]}
    operation["required"] = ["op", *operation.get("required", [])]
    operation["description"] = entry.summary
    return operation
