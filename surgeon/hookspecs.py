"""The specs a plugin may implement. Nothing else.

Each is called once, when the registry is first asked for anything; it gets a registrar and returns
nothing. Targets are "module:Name" strings, imported only when needed, so that listing imports no
torch. A plugin is a module of the entry-point group `surgeon`:

    import surgeon

    @surgeon.hookimpl
    def register_probes(register):
        register("sharpness", "my_plugin.probe:Sharpness", summary="how sharp is the image?")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from surgeon.registry import Registrar

hookspec = pluggy.HookspecMarker("surgeon")
hookimpl = pluggy.HookimplMarker("surgeon")


@hookspec
def register_model_sources(register: Registrar) -> None:
    """Model sources: `register("timm", "my_plugin.source:Source", summary=...)`."""


@hookspec
def register_operations(register: Registrar) -> None:
    """Operations: `register("bypass", "my_plugin.bypass:Bypass", summary=...)`."""


@hookspec
def register_probes(register: Registrar) -> None:
    """Probes: `register("invert", "my_plugin.probe:Invert", summary=..., settings="...")`."""


@hookspec
def register_recipes(register: Registrar) -> None:
    """Recipes: `register("quickstart", "/path/of/quickstart.toml", summary=...)`."""


@hookspec
def register_studies(register: Registrar) -> None:
    """Studies: `register("post/10", "/path/of/10.toml", summary=...)`."""


@hookspec
def register_images(register: Registrar) -> None:
    """Packaged images: `register("cat", "/path/of/cat.jpg", summary="licence")`."""


@hookspec
def register_datasets(register: Registrar) -> None:
    """Packaged labelled images: `register("digits", "my_plugin.digits:load", summary="licence")`.

    The target is called without arguments and returns a `surgeon.datasets.Dataset`.
    """


@hookspec
def register_anatomy_adapters(register: Registrar) -> None:
    """Adapters for models the general reading misreads: `register("CoaT", "my_plugin:adapt", ...)`.

    The name is the class name of the models it is for; the target takes a graph and a reading and
    returns the reading corrected; the summary says why it is needed.
    """


@hookspec
def register_commands(register: Registrar) -> None:
    """Commands of the command line: `register("tour", "my_plugin.cli:tour", summary=...)`."""
