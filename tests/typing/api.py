"""Checked by mypy, never run: the public API as a user with types sees it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import surgeon
from surgeon import Bypass, DropResidual, Recipe, Selection, Site, Study, Swap, Truncate


def operated(model: nn.Module, images: Tensor) -> Tensor:
    recipe: Recipe = Recipe(model="torchvision/vit_b_32", seed=0) | DropResidual("blocks[*]")
    recipe = recipe | Swap("stem", donor="torchvision/vit_b_32@IMAGENET1K_V1") | Truncate("stem")
    with surgeon.operate(model, recipe) as subject:
        out: Tensor = subject(images)
        device: torch.device = subject.device
        result = surgeon.run_probe("invert", subject, image=images.to(device), steps=3)
        figures: dict[str, dict[str, object]] = result.metrics
        assert figures
    return out


def selected(model: nn.Module) -> list[Site]:
    selection: Selection = surgeon.anatomy(model).select("blocks[4:8].attention")
    first: Site = selection[0]
    rest: Selection = selection[1:]
    return [first, *rest]


def planned(model: nn.Module) -> int:
    return surgeon.plan(model, Recipe() | Bypass("blocks[0]", expect=1)).operations[0].count


def same(model: nn.Module) -> bool:
    return surgeon.fingerprint(model) == surgeon.fingerprint(model, full=True)


def studied(path: str) -> list[str]:
    result = surgeon.run_study(Study.read(path, ["axes.k=[0]"]), workers=2)
    best: list[float] = [row.figures["psnr"] for row in result.table.where(k=0)]
    assert best
    return [finding.verdict for finding in result.findings]
