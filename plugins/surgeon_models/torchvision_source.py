"""torchvision's models."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from surgeon.errors import WeightsError
from surgeon.preprocessing import Preprocessing
from surgeon.sources import Declared
from surgeon_models.torchvision_declared import declared

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class _Given:
    """A state dict in the form torchvision's loaders take theirs from."""

    state: dict[str, Tensor]

    def get_state_dict(self, **_: Any) -> dict[str, Tensor]:
        return dict(self.state)


class TorchvisionSource:
    """`torchvision/NAME`; weights are the tags of its weights enums."""

    def names(self) -> list[str]:
        return list(torchvision.models.list_models())

    def tags(self, name: str) -> list[str]:
        enum = torchvision.models.get_model_weights(name)
        default = getattr(enum, "DEFAULT", None)
        tags = [member.name for member in enum]
        return sorted(tags, key=lambda tag: default is None or tag != default.name)

    def build(self, name: str, options: dict[str, Any]) -> nn.Module:
        accepted = signature(torchvision.models.get_model_builder(name)).parameters
        fixed: dict[str, Any] = {"weights": None}
        if "weights_backbone" in accepted:
            fixed["weights_backbone"] = None
        if name in ("googlenet", "inception_v3"):
            fixed["init_weights"] = True  # what leaving it out does, with a warning
        model: nn.Module = torchvision.models.get_model(name, **{**fixed, **options})
        return model

    def build_trained(self, name: str, tag: str, options: dict[str, Any]) -> nn.Module:
        member = torchvision.models.get_model_weights(name)[tag]
        try:
            model: nn.Module = torchvision.models.get_model(name, weights=member, **options)
        except OSError as cause:  # urllib's errors are OSErrors
            file = Path(torch.hub.get_dir()) / "checkpoints" / member.url.rpartition("/")[2]
            raise WeightsError(
                f'weights "{tag}" of torchvision/{name}',
                f"not on this machine, and downloading failed: {cause}",
                f"fetch {member.url} and put it at {file}",
            ) from None
        return model

    def preprocessing(
        self, name: str, tag: str | None, options: dict[str, Any], model: nn.Module
    ) -> Preprocessing:
        enum = torchvision.models.get_model_weights(name)
        member = enum[tag] if tag else getattr(enum, "DEFAULT", None)
        preset = member.transforms() if member is not None else None
        crop = getattr(preset, "crop_size", [224])[0]
        side = getattr(model, "image_size", None) or crop
        resize = getattr(preset, "resize_size", [side])[0] if side == crop else side
        interpolation = getattr(preset, "interpolation", None)
        return Preprocessing(
            (3, side, side),
            tuple(getattr(preset, "mean", _IMAGENET_MEAN)),
            tuple(getattr(preset, "std", _IMAGENET_STD)),
            resize,
            getattr(interpolation, "value", "bilinear"),
            f"torchvision {member.name}" if member is not None else "ImageNet's usual",
        )

    def labels(
        self, name: str, tag: str | None, options: dict[str, Any], model: nn.Module
    ) -> tuple[tuple[str, ...], ...]:
        """The categories its weights state, where the model has as many outputs."""
        enum = torchvision.models.get_model_weights(name)
        member = enum[tag] if tag in enum.__members__ else getattr(enum, "DEFAULT", None)
        names = list(member.meta.get("categories", [])) if member is not None else []
        heads = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)]
        return tuple((each,) for each in names) if heads[-1:] == [len(names)] else ()

    def converted(
        self, name: str, model: nn.Module, state: dict[str, Tensor]
    ) -> dict[str, Tensor] | None:
        """A checkpoint by torchvision's own loading, which knows the names of its past versions."""
        module = import_module(type(model).__module__)
        try:
            if hasattr(module, "_load_state_dict"):
                module._load_state_dict(model, _Given(state), False)
            else:
                model.load_state_dict(state)
        except (KeyError, RuntimeError):
            return None  # names it does not know either
        return dict(model.state_dict())

    def family(self, name: str) -> tuple[str, str]:
        """The module file a model is in, and its folder: "detection", "quantization" and so on."""
        module = torchvision.models.get_model_builder(name).__module__
        parts = module.removeprefix("torchvision.models.").split(".")
        return parts[-1], parts[0] if len(parts) > 1 else "classification"

    def declared(self, name: str, model: nn.Module) -> Declared:
        """What torchvision's source says of a classifier; nothing of other tasks' models."""
        family, task = self.family(name)
        if task not in ("classification", "quantization"):
            return Declared()
        return declared(family, model)
