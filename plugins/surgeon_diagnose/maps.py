"""Figures of tokens over the patches, and how well they foretell an inversion's errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surgeon.diagnosis.twins import area_under_curve

#: Of a row of a table -> how it is captioned, and whether much of it means trouble.
MAPS = {
    "std": ("token std", -1), "spectral_radius": ("spectral radius of J", 1),
    "smallest": ("smallest singular value", -1), "determinant_sign": ("sign of det(I + J)", -1),
    "preimages": ("other pre-images found", 1),
}  # fmt: skip
#: The share of the patches that counts as those an inversion gets wrong.
_WRONG = 0.25


def maps_of(rows: list[dict[str, Any]], grid: tuple[int, int] | None) -> dict[str, Tensor]:
    """Figures of tokens laid out as the patches are.

    Args:
        rows: of `token_row`; tokens before the patches' are left out.
        grid: patches down and across.

    Returns:
        name -> (down, across), NaN where a token was not judged.
    """
    if grid is None or not rows or "token" not in rows[0]:
        return {}
    patches = grid[0] * grid[1]
    prefix = max(0, max(int(row["token"]) for row in rows) + 1 - patches)
    maps = {}
    for name in MAPS:
        flat = torch.full((patches,), float("nan"))
        for row in rows:
            place = int(row["token"]) - prefix
            if place >= 0 and row.get(name) is not None:
                flat[place] = float(row[name])
        maps[name] = flat.reshape(grid)
    return maps


def prediction(maps: dict[str, Tensor]) -> dict[str, float | int | None]:
    """How well each map tells the quarter of the patches that an inversion got most wrong.

    Args:
        maps: of `maps_of`, and "error", of the same shape.

    Returns:
        The area under the curve of each: 1 foretells them, 1/2 knows nothing. A map that is the
        same everywhere, or known of less than half the patches, foretells nothing and is left out.
    """
    error = maps["error"].flatten()
    wrong = error > error.quantile(1 - _WRONG)
    figures: dict[str, float | int | None] = {"patches_wrong": int(wrong.sum())}
    for name, (_, direction) in MAPS.items():
        known = maps[name][~maps[name].isnan()]
        if len(known) > len(error) // 2 and len(known.unique()) > 1:
            figures[f"auc_{name}"] = area_under_curve(direction * maps[name].flatten(), wrong)
    return figures
