"""diagnose: can it be inverted at all?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.hookspecs import hookimpl

if TYPE_CHECKING:
    from surgeon.registry import Registrar


@hookimpl
def register_probes(register: Registrar) -> None:
    register(
        "diagnose", "surgeon_diagnose.probe:Diagnose",
        summary="not injective, ill-conditioned, or just not converged?",
        settings="surgeon_diagnose.settings:DiagnoseSettings",
    )  # fmt: skip
