"""dream: what does the site see in this photo?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.hookspecs import hookimpl

if TYPE_CHECKING:
    from surgeon.registry import Registrar


@hookimpl
def register_probes(register: Registrar) -> None:
    register(
        "dream", "surgeon_dream.probe:Dream", summary="what does the site see in this photo?",
        settings="surgeon_dream.settings:DreamSettings",
    )  # fmt: skip
