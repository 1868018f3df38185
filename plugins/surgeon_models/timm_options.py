"""Options that some of timm's entry points fix: `mixer_l16_224` says patch_size itself."""

from __future__ import annotations

import re
import sys
from typing import Any

import timm
from torch import nn

_FIXED = re.compile(r"got multiple values for keyword argument '(\w+)'")


def create(name: str, options: dict[str, Any]) -> nn.Module:
    """An untrained model of timm, with options that win over what its entry point fixes.

    Entry points written as `dict(patch_size=16, **kwargs)` refuse a second patch_size. They all
    build by the `build_model_with_cfg` of their module, and the options go in there.
    """
    fixed: dict[str, Any] = {}
    while True:
        free = {key: value for key, value in options.items() if key not in fixed}
        try:
            return _created(name, free, fixed)
        except TypeError as cause:
            found = _FIXED.search(str(cause))
            if found is None or found[1] not in free:
                raise
            fixed[found[1]] = options[found[1]]


def _created(name: str, free: dict[str, Any], fixed: dict[str, Any]) -> nn.Module:
    if not fixed:
        plain: nn.Module = timm.create_model(name, pretrained=False, **free)
        return plain
    module: Any = sys.modules[timm.model_entrypoint(name).__module__]
    original = module.build_model_with_cfg

    def build(*arguments: Any, **named: Any) -> Any:
        return original(*arguments, **{**named, **fixed})

    module.build_model_with_cfg = build
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **free)
    finally:
        module.build_model_with_cfg = original
    return model
