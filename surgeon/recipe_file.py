"""Recipes as TOML: reading, checking, and the JSON Schema for editors."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from surgeon.errors import ProbeError, RecipeError, SurgeonError, nearest
from surgeon.operations.base import Operation
from surgeon.recipe import InputSpec, ModelSpec, Recipe
from surgeon.registry import Entry, registry
from surgeon.toml_lines import Key, key_text, line_of

_TABLES = ("schema", "model", "donors", "operations", "input", "probes")


class _File(BaseModel):
    """The tables of a recipe file, but for operations and probes, which plugins define."""

    model_config = ConfigDict(extra="forbid")

    model: ModelSpec | None = None
    donors: dict[str, ModelSpec] = {}
    input: InputSpec = InputSpec()


def read_recipe(path: str, overrides: Iterable[str] = ()) -> Recipe:
    """See `Recipe.read`."""
    if path.startswith("surgeon:"):
        name = path.removeprefix("surgeon:")
        file = Path(registry().find("recipe", name, RecipeError).target)
    else:
        file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        reason = getattr(cause, "strerror", None) or "not UTF-8 text"
        here = [p.name for p in file.parent.glob("*.toml")] if file.parent.is_dir() else []
        hint = nearest(file.name, here) if here else "surgeon recipes lists the packaged ones"
        raise RecipeError(f"recipe {path}", reason, hint) from None
    return parse_recipe(text, path, overrides)


def parse_recipe(text: str, source: str, overrides: Iterable[str] = ()) -> Recipe:
    """See `Recipe.from_toml`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as cause:
        raise RecipeError(f"read {source}", f"no TOML: {cause}", "quote strings") from None
    overrides = list(overrides)
    where = _Where(source, text, overrides)
    for override in overrides:
        apply_override(table, override)
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
        raise _from_pydantic(cause, (), where, names) from None
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


class _Where:
    """Turns keys into "file, line", or the override that set them."""

    def __init__(self, source: str, text: str, overrides: Iterable[str] = ()) -> None:
        self.source, self.text = source, text
        self.overrides = {o.partition("=")[0].strip(): o for o in overrides}

    def __call__(self, key: Key) -> str:
        if key_text(key) in self.overrides:
            return f"--set {self.overrides[key_text(key)]}"
        line = line_of(self.text, key)
        return f"{self.source}, line {line}" if line else self.source


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set one key of a nested table from "a.b.c=VALUE"; VALUE as in TOML, else a string.

    Raises:
        RecipeError: no "=", or a key that runs through something that is no table.
    """
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {override}", 'no "="', "--set probes.invert.steps=200")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *path, last = key.strip().split(".")
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override}", f'"{part}" is no table', "a key of a table")
    table[last] = parsed


def _check_tables(table: dict[str, Any], where: _Where) -> None:
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


def _operation(item: Any, key: Key, where: _Where) -> Operation:
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
        raise _from_pydantic(cause, key, where, known) from None
    return operation


def _check_probes(probes: dict[str, Any], where: _Where) -> None:
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


def checked_settings(
    probe: str, settings: dict[str, Any], where: _Where | None = None
) -> BaseModel:
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
        raise _from_pydantic(cause, key, where, cls.model_fields, ProbeError) from None


def _from_pydantic(
    cause: ValidationError,
    key: Key,
    where: _Where | None,
    known: Iterable[str],
    error_class: type[SurgeonError] = RecipeError,
) -> SurgeonError:
    """The first thing wrong, in three lines; an unknown key before what it left missing."""
    error = min(cause.errors(), key=lambda e: e["type"] not in _UNKNOWN)
    # Unions report the member they tried as part of the path; keys of the file are what counts.
    path = tuple(p for p in error["loc"] if not (isinstance(p, str) and _internal(p)))
    full = (*key, *path)
    place = f" ({where(full)})" if where else ""
    if error["type"] in _UNKNOWN:
        hint = nearest(str(path[-1]), known)
        return error_class(f"{key_text(full)}{place}", "no such key", hint)
    if error["type"] in ("missing", "missing_argument"):
        return error_class(f"{key_text(full)}{place}", "it is missing", f"{path[-1]} = ...")
    found = error["msg"][0].lower() + error["msg"][1:] + f", not {error['input']!r}"
    choices = error.get("ctx", {}).get("expected")
    return error_class(
        f"{key_text(full)}{place}", found, str(choices or "see surgeon schema for what it takes")
    )


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _internal(part: str) -> bool:
    return part in ("str", "constrained-str", "ModelSpec", "InputSpec") or part.startswith(
        ("tuple[", "function-")
    )


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
