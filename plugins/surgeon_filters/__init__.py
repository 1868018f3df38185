"""filters: what did the stem learn?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.hookspecs import hookimpl

if TYPE_CHECKING:
    from surgeon.registry import Registrar


@hookimpl
def register_probes(register: Registrar) -> None:
    register(
        "filters", "surgeon_filters.probe:Filters", summary="what did the stem learn?",
        settings="surgeon_filters.settings:FiltersSettings",
    )  # fmt: skip
