"""The packaged small models, trained on Fashion-MNIST."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from surgeon.preprocessing import Preprocessing
from surgeon.weights import load_into, open_weights
from surgeon_models.architectures import ARCHITECTURES, MEAN, STD, build

_WEIGHTS = Path(__file__).parent / "weights"
TAG = "fashion"


class PackagedSource:
    """`surgeon/NAME`; the one tag is "fashion"."""

    def names(self) -> list[str]:
        return list(ARCHITECTURES)

    def tags(self, name: str) -> list[str]:
        return [TAG]

    def build(self, name: str, options: dict[str, Any]) -> nn.Module:
        return build(name, **options)

    def build_trained(self, name: str, tag: str, options: dict[str, Any]) -> nn.Module:
        model = build(name, **options)
        load_into(model, open_weights(self.weights_file(name, tag)))
        return model

    def weights_file(self, name: str, tag: str) -> Path:
        return _WEIGHTS / f"{name}.safetensors"

    def preprocessing(
        self, name: str, tag: str | None, options: dict[str, Any], model: nn.Module
    ) -> Preprocessing:
        side = int(options.get("img_size", 28))
        return Preprocessing((1, side, side), MEAN, STD, side, "bicubic", f"surgeon {name}")

    def labels(
        self, name: str, tag: str | None, options: dict[str, Any], model: nn.Module
    ) -> tuple[tuple[str, ...], ...]:
        return tuple((label,) for label in card(name)["labels"])


def card(name: str) -> dict[str, Any]:
    """The model card: class, arguments, training recipe, test accuracy, licences, labels."""
    found: dict[str, Any] = json.loads((_WEIGHTS / f"{name}.json").read_text())
    return found
