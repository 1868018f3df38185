"""Surgeon: model surgery for vision models, and probes that ask what the operated model knows.

Names are imported when first used, so that what only lists or checks imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgeon.anatomist.look import look as anatomy
    from surgeon.anatomist.site import Selection, Site
    from surgeon.errors import SurgeonError
    from surgeon.exporting import export, load
    from surgeon.fingerprints import Fingerprint, fingerprint
    from surgeon.hookspecs import hookimpl
    from surgeon.operating import operate
    from surgeon.operations.ablate import Ablate
    from surgeon.operations.bypass import Bypass
    from surgeon.operations.drop_residual import DropResidual
    from surgeon.operations.only import Only
    from surgeon.operations.reinit import Reinit
    from surgeon.operations.swap import Swap
    from surgeon.operations.truncate import Truncate
    from surgeon.planning import Plan, plan
    from surgeon.preprocessing import Preprocessing
    from surgeon.recipe import ModelSpec, Recipe
    from surgeon.runs.host import run_probe
    from surgeon.runs.interrupts import interrupted
    from surgeon.runs.resuming import resume
    from surgeon.runs.verifying import verify
    from surgeon.studies.running import run_study
    from surgeon.studies.study import Study
    from surgeon.subject import Subject
    from surgeon.surgery.edits import Replace

_HOMES = {
    "Ablate": "operations.ablate",
    "Bypass": "operations.bypass",
    "DropResidual": "operations.drop_residual",
    "Fingerprint": "fingerprints",
    "ModelSpec": "recipe",
    "Only": "operations.only",
    "Plan": "planning",
    "Preprocessing": "preprocessing",
    "Recipe": "recipe",
    "Reinit": "operations.reinit",
    "Replace": "surgery.edits",
    "Selection": "anatomist.site",
    "Site": "anatomist.site",
    "Study": "studies.study",
    "Subject": "subject",
    "SurgeonError": "errors",
    "Swap": "operations.swap",
    "Truncate": "operations.truncate",
    "anatomy": "anatomist.look:look",
    "export": "exporting",
    "fingerprint": "fingerprints",
    "hookimpl": "hookspecs",
    "interrupted": "runs.interrupts",
    "load": "exporting",
    "operate": "operating",
    "plan": "planning",
    "resume": "runs.resuming",
    "run_probe": "runs.host",
    "run_study": "studies.running",
    "verify": "runs.verifying",
}

__all__ = [
    "Ablate",
    "Bypass",
    "DropResidual",
    "Fingerprint",
    "ModelSpec",
    "Only",
    "Plan",
    "Preprocessing",
    "Recipe",
    "Reinit",
    "Replace",
    "Selection",
    "Site",
    "Study",
    "Subject",
    "SurgeonError",
    "Swap",
    "Truncate",
    "anatomy",
    "export",
    "fingerprint",
    "hookimpl",
    "interrupted",
    "load",
    "operate",
    "plan",
    "resume",
    "run_probe",
    "run_study",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("model-surgeon")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, own = _HOMES[name].partition(":")
    value = getattr(import_module(f"surgeon.{module}"), own or name)
    globals()[name] = value
    return value
