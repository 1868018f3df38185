"""Packaged recipes, one per operation and per probe, and studies; all run offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from surgeon.hookspecs import hookimpl

if TYPE_CHECKING:
    from surgeon.registry import Registrar

_SUMMARIES = {
    "quickstart": "invert a trained ViT at three depths",
    "drop_residual": "a trained ViT whose adds pass their branch alone",
    "bypass": "a trained ViT without attention",
    "swap": "an untrained ViT with the trained stem",
    "reinit": "a trained Mixer whose last block forgot everything",
    "ablate": "a trained ViT whose first mlp says nothing",
    "only": "the stem of a trained Mixer and one block",
    "diagnose": "a trained ViT: not injective, ill-conditioned, or neither",
    "truncate": "a trained ResNet cut after its second stage",
    "dream": "what the middle of a trained ViT sees in a photo",
    "generate": "what the ten classes of a trained ViT look like to it",
    "filters": "what a trained ViT's patch embedding learnt",
    "evaluate": "what a trained ViT's last attention is worth to its own job",
}

_STUDIES = {
    "depth": "what a small ViT still holds of a photo, block after block",
    "collapse": "which part of a transformer keeps its tokens from becoming one",
}


@hookimpl
def register_recipes(register: Registrar) -> None:
    folder = Path(__file__).parent / "recipes"
    for name, summary in _SUMMARIES.items():
        register(name, str(folder / f"{name}.toml"), summary=summary)


@hookimpl
def register_studies(register: Registrar) -> None:
    folder = Path(__file__).parent / "studies"
    for name, summary in _STUDIES.items():
        register(name, str(folder / f"{name}.toml"), summary=summary)
