"""generate: what input does this class, channel or site want?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.hookspecs import hookimpl

if TYPE_CHECKING:
    from surgeon.registry import Registrar


@hookimpl
def register_probes(register: Registrar) -> None:
    register(
        "generate", "surgeon_generate.probe:Generate",
        summary="what input does this class, channel or site want?",
        settings="surgeon_generate.settings:GenerateSettings",
    )  # fmt: skip
