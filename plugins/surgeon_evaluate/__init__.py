"""evaluate: what did surgery cost the model's own job?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.hookspecs import hookimpl

if TYPE_CHECKING:
    from surgeon.registry import Registrar


@hookimpl
def register_probes(register: Registrar) -> None:
    register(
        "evaluate", "surgeon_evaluate.probe:Evaluate",
        summary="what did surgery cost the model's own job?",
        settings="surgeon_evaluate.settings:EvaluateSettings",
    )  # fmt: skip
