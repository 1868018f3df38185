"""Plugins: loading them, who registered what, and what to do when one is broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from surgeon import hookspecs
from surgeon.errors import PluginError, nearest

#: Kind of thing -> the spec that registers it.
KINDS = {
    "source": "register_model_sources",
    "operation": "register_operations",
    "probe": "register_probes",
    "recipe": "register_recipes",
    "study": "register_studies",
    "image": "register_images",
    "dataset": "register_datasets",
    "adapter": "register_anatomy_adapters",
    "command": "register_commands",
}


@dataclass(frozen=True)
class Entry:
    """Something a plugin registered.

    Attributes:
        target: "module:Name", or a file's path for recipes, studies and images.
        plugin: entry-point name of the plugin.
        distribution: its distribution with version, "model-surgeon 0.1.0".
        extra: further targets by keyword, such as a probe's `settings`.
    """

    kind: str
    name: str
    target: str
    summary: str
    plugin: str
    distribution: str
    extra: dict[str, str] = field(default_factory=dict)

    def load(self, key: str | None = None) -> Any:
        """Import the target, or an extra one.

        Raises:
            PluginError: it was not given, or can't be imported; the cause is chained.
        """
        if key and key not in self.extra:
            raise PluginError(
                f"{key} of {self.kind} {self.name}",
                f"{self.plugin} ({self.distribution}) registered none",
                f'register("{self.name}", ..., {key}="module:Name")',
            )
        target = self.extra[key] if key else self.target
        module, _, name = target.partition(":")
        try:
            found: Any = import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except Exception as cause:
            raise PluginError(
                f"{self.kind} {self.name}",
                f"{self.plugin} ({self.distribution}) names {target}: {cause!r}",
                "mend or uninstall that plugin",
            ) from cause
        return found


class Registrar:
    """Handed to a plugin's implementation of a spec; knows whose it is."""

    def __init__(self, registry: Registry, kind: str, plugin: str, distribution: str) -> None:
        self.registry, self.kind = registry, kind
        self.plugin, self.distribution = plugin, distribution

    def __call__(self, name: str, target: str, *, summary: str = "", **extra: str) -> None:
        """Register a target under a name.

        Raises:
            PluginError: the name is taken.
        """
        entry = Entry(self.kind, name, target, summary, self.plugin, self.distribution, dict(extra))
        self.registry.add(entry)


class Registry:
    """All plugins and what they registered.

    Args:
        points: entry points to load; those installed under the group `surgeon` if left out.
    """

    def __init__(self, points: list[EntryPoint] | None = None) -> None:
        self.entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        self.broken: dict[str, Exception] = {}
        self.plugins: dict[str, str] = {}
        self.manager = pluggy.PluginManager("surgeon")
        self.manager.add_hookspecs(hookspecs)
        self._load("core", lambda: import_module("surgeon.operations"), "model-surgeon")
        group = entry_points(group="surgeon") if points is None else points
        for point in sorted(group, key=lambda point: point.name):
            dist = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
            self._load(point.name, point.load, dist)

    def _load(self, name: str, load: Callable[[], Any], distribution: str) -> None:
        """Load one plugin; a broken one costs only itself."""
        self.plugins[name] = distribution
        try:
            if self.manager.has_plugin(name):
                raise PluginError(
                    f"plugin {name}", f"{distribution} takes a name in use", "rename one of the two"
                )
            self.register(name, load(), distribution)
        except Exception as cause:
            self.broken[name] = cause

    def register(self, name: str, plugin: Any, distribution: str = "this process") -> None:
        """Register a plugin object: anything with implementations of the specs.

        Raises:
            PluginError: a name is taken, or a spec is misspelt.
        """
        self.plugins[name] = distribution
        self.manager.register(plugin, name)
        try:
            self.manager.check_pending()
            for kind, spec in KINDS.items():
                for implementation in getattr(self.manager.hook, spec).get_hookimpls():
                    if implementation.plugin is plugin:
                        implementation.function(Registrar(self, kind, name, distribution))
        except Exception as cause:
            self.unregister(name)
            if isinstance(cause, PluginError):
                raise
            raise PluginError(
                f"plugin {name}", f"{distribution}: {cause}", "mend or uninstall that plugin"
            ) from cause

    def unregister(self, name: str) -> None:
        """Take a plugin and all it registered off again."""
        self.manager.unregister(name=name)
        self.plugins.pop(name, None)
        for kind, entries in self.entries.items():
            self.entries[kind] = {n: e for n, e in entries.items() if e.plugin != name}

    def add(self, entry: Entry) -> None:
        taken = self.entries[entry.kind].get(entry.name)
        if taken is not None:
            raise PluginError(
                f"{entry.kind} {entry.name}",
                f"registered by {taken.plugin} ({taken.distribution})"
                f" and by {entry.plugin} ({entry.distribution})",
                "uninstall one of the two",
            )
        self.entries[entry.kind][entry.name] = entry

    def find(self, kind: str, name: str, error: type[Any] = PluginError) -> Entry:
        """The entry of a name.

        Raises:
            error (PluginError unless told): there is none; the nearest names, and broken plugins.
        """
        entries = self.entries[kind]
        if name in entries:
            return entries[name]
        hint = nearest(name, entries) or "install a plugin that has one"
        if self.broken:
            hint += f"; plugins that failed to load: {', '.join(self.broken)}"
        found = f"no such {kind} among {len(entries)}"
        raise error(f'{kind} "{name}"', found, hint) from next(iter(self.broken.values()), None)

    def all(self, kind: str) -> Iterator[Entry]:
        """Entries of a kind, by name; post/2 before post/10."""
        for name in sorted(self.entries[kind], key=in_order):
            yield self.entries[kind][name]


def in_order(name: str) -> list[tuple[int, int, str]]:
    """A sort key by which numbers in a name compare as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


@cache
def registry() -> Registry:
    """The process's registry, with every installed plugin; loaded when first asked for."""
    return Registry()
