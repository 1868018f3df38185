"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A TOML file, or a packaged one: surgeon:NAME.")
]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="source/name, such as torchvision/vit_b_32.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: probes.invert.steps=200."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="The run's folder; runs/... if left out."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Of the model's initialisation and of the probes.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, mps; the CPU if left out.")
]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="float32, float64, bfloat16 or float16.")
]


def with_seed(overrides: list[str] | None, seed: int | None) -> list[str]:
    """Overrides with --seed in them."""
    return [*(overrides or []), *([f"model.seed={seed}"] if seed is not None else [])]
