"""What torchvision's source files say of its classifiers, read by hand: torchvision has no such
list.

Used to check readings, never to make them.
"""

from __future__ import annotations

from torch import nn

from surgeon.sources import Declared

#: module file -> (first layer, classifier, classes that are one block; the first layer is none).
_BY_FILE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "alexnet": ("features.0", "classifier.6", ("Conv2d",)),
    "convnext": ("features.0.0", "classifier.2", ("CNBlock",)),
    "densenet": ("features.conv0", "classifier", ("_DenseLayer",)),
    "efficientnet": ("features.0.0", "classifier.1", ("MBConv", "FusedMBConv")),
    "googlenet": ("conv1.conv", "fc", ("Inception",)),
    "inception": (
        "Conv2d_1a_3x3.conv",
        "fc",
        tuple(f"Inception{letter}" for letter in "ABCDE"),
    ),
    "maxvit": ("stem.0.0", "classifier.5", ("MaxVitLayer",)),
    "mnasnet": ("layers.0", "classifier.1", ("_InvertedResidual",)),
    "mobilenetv2": ("features.0.0", "classifier.1", ("InvertedResidual",)),
    "mobilenetv3": ("features.0.0", "classifier.3", ("InvertedResidual",)),
    "regnet": ("stem.0", "fc", ("ResBottleneckBlock",)),
    "resnet": ("conv1", "fc", ("BasicBlock", "Bottleneck")),
    "shufflenetv2": ("conv1.0", "fc", ("InvertedResidual",)),
    "squeezenet": ("features.0", "classifier.1", ("Fire",)),
    "swin_transformer": (
        "features.0.0",
        "head",
        ("SwinTransformerBlock", "SwinTransformerBlockV2"),
    ),
    "vgg": ("features.0", "classifier.6", ("Conv2d",)),
    "vision_transformer": ("conv_proj", "heads.head", ("EncoderBlock",)),
}


def declared(file: str, model: nn.Module) -> Declared:
    """The entry of a module file, the parameters grouped by the blocks they are in."""
    if file not in _BY_FILE:
        return Declared()
    stem, head, classes = _BY_FILE[file]
    names = {*classes, *(f"Quantizable{name}" for name in classes)}
    blocks = [
        path
        for path, module in model.named_modules()
        if type(module).__name__ in names and path != stem
    ]
    groups = {
        name: next((path for path in blocks if name.startswith(path + ".")), "")
        for name, _ in model.named_parameters()
    }
    return Declared((stem,), (head,), groups)
