"""timm's models."""

from __future__ import annotations

import math
import re
from importlib import import_module
from typing import Any

import timm
from torch import Tensor, nn

from surgeon.errors import WeightsError
from surgeon.preprocessing import Preprocessing
from surgeon.sources import Declared
from surgeon_models.timm_options import create


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
        return create(name, options)

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

    def converted(
        self, name: str, model: nn.Module, state: dict[str, Tensor]
    ) -> dict[str, Tensor] | None:
        """A checkpoint by the `checkpoint_filter_fn` of the model's own module."""
        module = import_module(type(model).__module__)
        convert = getattr(module, "checkpoint_filter_fn", None)
        if convert is None:
            return None
        try:
            found = dict(convert(dict(state), model))
        except (KeyError, AttributeError, AssertionError, RuntimeError, ValueError):
            return None  # names it does not know either
        return found if set(model.state_dict()) <= set(found) else None

    def family(self, name: str) -> tuple[str, str]:
        """The module file a model is in; all of timm's are classifiers or their backbones."""
        return timm.models._registry._model_to_module[name], "classification"

    def declared(self, name: str, model: nn.Module) -> Declared:
        """timm's own word: `first_conv` and `classifier` of its config, blocks by `group_matcher`.

        The groups are those of layer-wise learning rates. Parameters of a group whose numbers come
        from the matcher's own additions (downsampling, final norms) belong to no block.
        """
        config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        groups = _groups(model, self.family(name)[0])
        return Declared(_paths(config.get("first_conv")), _classifiers(model), groups)


#: Blocks by hand, from timm's source, of the families whose matcher is none, or one of stages.
_BLOCKS = {
    "cait": r"blocks(_token_only)?\.\d+",
    "cpubone": r"stages\.\d+\.\d+",
    "crossvit": r"blocks\.\d+\.(blocks\.\d+|fusion)\.\d+",
    "csatv2": r"stages\.\d+\.\d+(?=\.[a-z]\w*\.)",
    "dla": r"level[2-5](\.tree\d)+(?=\.(conv|bn))",
    "efficientformer": r"stages\.\d+\.blocks\.\d+",
    "efficientformer_v2": r"stages\.\d+\.blocks\.\d+",
    "gcvit": r"stages\.\d+\.blocks\.\d+",
    "hrnet": r"(layer1|stage\d\.\d+\.branches\.\d+|incre_modules\.\d+)\.\d+",
    "inception_resnet_v2": r"repeat(_\d)?\.\d+|block8",
    "inception_v3": r"Mixed_\w+",
    "maxxvit": r"stages\.\d+\.blocks\.\d+",
    "metaformer": r"stages\.\d+\.blocks\.\d+",
    "mobilenetv5": r"blocks\.\d+\.\d+",
    "mobilevit": (
        r"stages\.\d+\.\d+"
        r"(\.transformer\.\d+|(?=\.(shortcut|conv1_1x1|conv2_kxk|conv3_1x1)))"
    ),
    "mvitv2": r"stages\.\d+\.blocks\.\d+",
    "pit": r"transformers\.\d+\.blocks\.\d+",
    "pvt_v2": r"stages\.\d+\.blocks\.\d+",
    "starnet": r"stages\.\d+\.\d+(?=\.(dwconv|f1|f2|g|dwconv2)\b)",
    "rexnet": r"features\.\d+(?=\.(conv_exp|conv_dw|se|conv_pwl))",
    "rdnet": r"dense_stages\.\d+\.\d+\.dense_block\d+",
}


def _paths(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """Layers to class scores that `classifier` and `get_classifier()` name; there may be none."""
    named = [model.get_classifier()] if hasattr(model, "get_classifier") else []  # type: ignore[operator]
    held = {id(m) for part in _modules(named) for m in part.modules()}
    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    stated = _paths(config.get("classifier"))
    classes = getattr(model, "num_classes", 0)
    return tuple(
        path
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
        and (path in stated or (id(module) in held and module.weight.shape[0] == classes))
    )


def _modules(tree: Any) -> list[nn.Module]:
    if isinstance(tree, nn.Module):
        return [tree]
    return [m for part in tree for m in _modules(part)] if isinstance(tree, (list, tuple)) else []


def _groups(model: nn.Module, family: str) -> dict[str, str]:
    if family in _BLOCKS:
        matches = {name: re.match(_BLOCKS[family], name) for name, _ in model.named_parameters()}
        return {name: match[0] if match else "" for name, match in matches.items()}
    if not hasattr(model, "group_matcher"):
        return {}
    found = {}
    rules = [
        (key, *(rule if isinstance(rule, (tuple, list)) else (rule, None)))
        for key, listed in model.group_matcher(coarse=False).items()  # type: ignore[operator]
        for rule in (listed if isinstance(listed, (tuple, list)) else (listed,))
    ]
    for name, _ in model.named_parameters():
        found[name] = ""
        for key, pattern, suffix in rules:
            match = re.match(pattern, name)
            if match:
                numbers = [number for number in match.groups() if number is not None]
                inside = bool(numbers) and suffix is None
                found[name] = f"{key} {match[0]}" if inside else ""
                break
    return found


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Per-channel values for another number of channels: their mean, repeated."""
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels
