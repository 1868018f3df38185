"""The seven operations, registered as a plugin's would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.hookspecs import hookimpl

if TYPE_CHECKING:
    from surgeon.registry import Registrar

_SUMMARIES = {
    "drop_residual": ("DropResidual", "the add passes its branch alone"),
    "bypass": ("Bypass", "the site is taken out: what came in goes on"),
    "swap": ("Swap", "parameters and buffers come from a donor"),
    "reinit": ("Reinit", "back to the untrained initialisation, from a seed"),
    "ablate": ("Ablate", "the output is zero, or its mean over tokens"),
    "only": ("Only", "the stem feeds this block alone"),
    "truncate": ("Truncate", "the site's output is the model's"),
}


@hookimpl
def register_operations(register: Registrar) -> None:
    for name, (cls, summary) in _SUMMARIES.items():
        register(name, f"surgeon.operations.{name}:{cls}", summary=summary)
