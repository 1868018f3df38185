"""Model sources torchvision, timm and surgeon (packaged small models); packaged photos and data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from surgeon.hookspecs import hookimpl

if TYPE_CHECKING:
    from surgeon.registry import Registrar

_IMAGES = Path(__file__).parent / "images"
#: name -> (file, whose and under which licence); see images/LICENCES.md.
_PHOTOS = {
    "chelsea": ("chelsea.png", "a cat; Stefan van der Walt, CC0"),
    "coffee": ("coffee.png", "a cup on a table; Rachel Michetti, CC0"),
    "rocket": ("rocket.jpg", "a launch at night, mostly dark; SpaceX, public domain"),
}


@hookimpl
def register_model_sources(register: Registrar) -> None:
    register(
        "torchvision", "surgeon_models.torchvision_source:TorchvisionSource",
        summary="torchvision's models, weights by tag",
    )  # fmt: skip
    register("timm", "surgeon_models.timm_source:TimmSource", summary="timm's models")
    register(
        "surgeon", "surgeon_models.packaged_source:PackagedSource",
        summary="small models trained on Fashion-MNIST, in the package",
    )  # fmt: skip


@hookimpl
def register_images(register: Registrar) -> None:
    for name, (file, summary) in _PHOTOS.items():
        register(name, str(_IMAGES / file), summary=summary)


@hookimpl
def register_datasets(register: Registrar) -> None:
    register(
        "fashion_mnist", "surgeon_models.fashion_mnist:load",
        summary="Fashion-MNIST's 10,000 test images; Zalando SE, MIT licence",
    )  # fmt: skip


@hookimpl
def register_anatomy_adapters(register: Registrar) -> None:
    register(
        "CPUBone", "surgeon_models.adapters:cpubone",
        summary="its blocks are sequentials within sequentials, whose residuals are lists too",
    )  # fmt: skip
