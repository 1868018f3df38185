"""timm's models."""

from __future__ import annotations

import math
from typing import Any

import timm
from torch import nn

from surgeon.errors import WeightsError
from surgeon.preprocessing import Preprocessing


class TimmSource:
    """`timm/NAME`; weights are timm's pretrained tags."""

    def names(self) -> list[str]:
        return list(timm.list_models())

    def tags(self, name: str) -> list[str]:
        listed = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
        default = timm.get_pretrained_cfg(name, allow_unregistered=True)
        first = getattr(default, "tag", None)
        return sorted((tag for tag in listed if tag), key=lambda tag: tag != first)

    def build(self, name: str, options: dict[str, Any]) -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=False, **options)
        return model

    def build_trained(self, name: str, tag: str, options: dict[str, Any]) -> nn.Module:
        try:
            model: nn.Module = timm.create_model(f"{name}.{tag}", pretrained=True, **options)
        except Exception as cause:  # the hub raises errors of several libraries
            if isinstance(cause, (TypeError, ValueError, AssertionError)):
                raise
            config = timm.get_pretrained_cfg(f"{name}.{tag}")
            place = config.hf_hub_id or config.url or "timm's hub"
            reason = str(cause).strip().splitlines()[0] if str(cause).strip() else repr(cause)
            raise WeightsError(
                f'weights "{tag}" of timm/{name}',
                f"not on this machine, and downloading failed: {reason[:200]}",
                f"fetch model.safetensors of {place} elsewhere, and give its path as weights",
            ) from None
        return model

    def preprocessing(
        self, name: str, tag: str | None, options: dict[str, Any], model: nn.Module
    ) -> Preprocessing:
        config = timm.data.resolve_model_data_config(model)
        channels, height, width = config["input_size"]
        channels = int(options.get("in_chans", channels))
        size = options.get("img_size") or getattr(
            getattr(model, "patch_embed", None), "img_size", None
        )
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else (size[0], size[1])
        resize = math.floor(min(height, width) / (config.get("crop_pct") or 1.0))
        label = f"timm {name}.{tag}" if tag else f"timm {name}"
        return Preprocessing(
            (channels, int(height), int(width)),
            _for_channels(config["mean"], channels),
            _for_channels(config["std"], channels),
            resize,
            config.get("interpolation", "bicubic"),
            label,
        )

    def labels(
        self, name: str, tag: str | None, options: dict[str, Any], model: nn.Module
    ) -> tuple[tuple[str, ...], ...]:
        """timm's own table for heads of ImageNet's sizes: synonyms, then the synset."""
        subset = timm.data.infer_imagenet_subset(model)
        if subset is None:
            return ()
        table = timm.data.ImageNetInfo(subset)
        return tuple(
            (*table.index_to_description(i).split(", "), table.index_to_label_name(i))
            for i in range(table.num_classes())
        )


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Per-channel values for another number of channels: their mean, repeated."""
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels
