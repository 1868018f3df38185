"""invert: what input does this output come from?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.hookspecs import hookimpl

if TYPE_CHECKING:
    from surgeon.registry import Registrar


@hookimpl
def register_probes(register: Registrar) -> None:
    register(
        "invert", "surgeon_invert.probe:Invert", summary="what input does this output come from?",
        settings="surgeon_invert.settings:InvertSettings",
    )  # fmt: skip
