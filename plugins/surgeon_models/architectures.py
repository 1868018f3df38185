"""Constructors of the packaged small models: timm classes with arguments, nothing of our own.

Each takes a grey 28 x 28 image. Kept apart from the source so that the training script and the
source build the very same modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

#: name -> (module of timm, class, arguments). Small enough for 1.5 MB of float32.
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit_fashion": (
        "timm.models.vision_transformer",
        "VisionTransformer",
        {"img_size": 28, "patch_size": 4, "embed_dim": 64, "depth": 6, "num_heads": 4},
    ),
    "mixer_fashion": (
        "timm.models.mlp_mixer",
        "MlpMixer",
        {"img_size": 28, "patch_size": 4, "embed_dim": 64, "num_blocks": 8},
    ),
    "resnet_fashion": (
        "timm.models.resnet",
        "ResNet",
        {
            "block": "BasicBlock",
            "layers": (2, 2, 2, 2),
            "channels": (24, 32, 48, 72),
            "stem_type": "deep",
            "stem_width": 12,
            "output_stride": 8,
        },
    ),
}

#: Mean and standard deviation of the training images' pixels in [0, 1].
MEAN, STD = (0.2860,), (0.3530,)


def build(name: str, **options: Any) -> nn.Module:
    """Build a packaged architecture, untrained, from torch's current random state.

    Args:
        name: a key of `ARCHITECTURES`.
        options: constructor arguments that override the packaged ones.

    Returns:
        The timm module in training mode, for inputs (batch, 1, 28, 28).

    Raises:
        KeyError: no such name.
    """
    module_name, class_name, arguments = ARCHITECTURES[name]
    module = import_module(module_name)
    merged = {"in_chans": 1, "num_classes": 10, **arguments, **options}
    if isinstance(merged.get("block"), str):
        merged["block"] = getattr(module, merged["block"])
    model: nn.Module = getattr(module, class_name)(**merged)
    side = merged.get("img_size", 28)
    config = {"input_size": (merged["in_chans"], side, side), "mean": MEAN, "std": STD}
    model.pretrained_cfg = model.default_cfg = config  # type: ignore[assignment]  # as timm keeps it
    return model
