"""The picture of a diagnosis: the pair with its difference, maps over the photo, spectra."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib import colormaps
from torch import Tensor
from torch.nn import functional as F

from surgeon.probe import Result
from surgeon.runs.pictures import Curves, Panel, Sheet

#: Of a row of a table -> name of its map; how it is captioned.
_MAPS = {"std": "token std", "smallest": "smallest singular value",
         "determinant_sign": "sign of det(I + J)"}  # fmt: skip


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
    for name in _MAPS:
        flat = torch.full((patches,), float("nan"))
        for row in rows:
            place = int(row["token"]) - prefix
            if place >= 0 and row.get(name) is not None:
                flat[place] = float(row[name])
        maps[name] = flat.reshape(grid)
    return maps


def overlay(photo: Tensor, values: Tensor, low: float, high: float) -> Tensor:
    """A map in colours over a darkened grey photo: (3, height, width) in [0, 1]."""
    grey = photo[0].float().mean(0)
    share = ((values - low) / (high - low if high > low else 1.0)).nan_to_num(0.0)
    colours = torch.from_numpy(colormaps["viridis"](share.clamp(0, 1).numpy())[..., :3]).float()
    wide = F.interpolate(colours.permute(2, 0, 1)[None], grey.shape, mode="nearest")[0]
    known = F.interpolate((~values.isnan()).float()[None, None], grey.shape, mode="nearest")[0]
    return torch.where(known > 0, 0.35 * grey + 0.65 * wide, grey)


def draw(result: Result) -> Sheet:
    """Pairs first, then maps over the photo, then curves."""
    photos = {n.removeprefix("photo "): t for n, t in result.images.items() if n[:6] == "photo "}
    rows = [
        row
        for name, photo in photos.items()
        for row in [_pair_row(result, name, photo), *_map_rows(result, name, photo, len(photos))]
    ]
    record = result.record
    title = f"diagnose {record.get('model', '')}"
    note = "; ".join([*record.get("operations", []), *_verdicts(result)])
    return Sheet(title, rows, _curves(result), note=note)


def _verdicts(result: Result) -> list[str]:
    """What was said of the maps from the pixels; the sublayers' verdicts stand under their maps."""
    found: dict[str, list[str]] = {}
    for label, figures in result.figures.items():
        if label.startswith("pixels to "):
            found.setdefault(figures["verdict"], []).append(label.removeprefix("pixels to "))
    return [f"pixels to {', '.join(names)}: {verdict}" for verdict, names in found.items()]


def _pair_row(result: Result, name: str, photo: Tensor) -> list[Panel]:
    panels = [Panel(photo, f"photo {name}")]
    second = result.images.get(f"second {name}")
    if second is not None:
        figures = [f for f in result.figures.values() if "pair_psnr" in f]
        caption = ""
        if figures:
            worst = max(figures, key=lambda f: float(f["pair_output_float32"]))
            caption = (
                f"PSNR {worst['pair_psnr']:.1f} dB; outputs apart by\n"
                f"{worst['pair_output_float64']:.0e} (float64), "
                f"{worst['pair_output_float32']:.0e} (float32)"
            )
        panels.append(Panel(second, "same output", caption))
        panels.append(Panel((second - photo).abs(), "|difference|", "0 black, 1 white"))
    return panels


def _map_rows(result: Result, name: str, photo: Tensor, photos: int) -> list[list[Panel]]:
    tail = f", {name}" if photos > 1 else ""
    labels = [n[4:].rsplit("/", 1)[0] for n in result.tensors if n.startswith("map/")]
    rows = []
    for label in dict.fromkeys(labels):
        if not label.endswith(tail):
            continue
        panels = []
        for key, title in _MAPS.items():
            values = result.tensors[f"map/{label}/{key}"]
            signs = key == "determinant_sign"
            low, high = (-1.0, 1.0) if signs else _range(values)
            caption = f"blue {low:.3g} to yellow {high:.3g}"
            if signs:
                every = result.figures[label]["determinants_negative"]
                caption = f"yellow +, blue -, green unclear\n{int((values < 0).sum())} patches "
                caption += f"negative, {every} of all tokens"
            panels.append(Panel(overlay(photo, values, low, high), title, f"{label}\n{caption}"))
        first = panels[0]
        verdict = f"{first.caption}\n{result.figures[label]['verdict']}"
        rows.append([Panel(first.image, first.title, verdict), *panels[1:]])
    return rows


def _range(values: Tensor) -> tuple[float, float]:
    known = values[~values.isnan()]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)


def _curves(result: Result) -> tuple[Curves, ...]:
    charts = []
    spectra = {n.removeprefix("spectrum/"): c for n, c in result.curves.items()}
    if spectra:
        charts.append(Curves(spectra, "number", "singular value", "spectrum of the Jacobian"))
    lines: dict[str, list[tuple[float, float]]] = {}
    for label, rows in result.tables.items():
        known = [r for r in rows if r.get("smallest") is not None]
        known.sort(key=lambda r: float(r["std"]))
        for key in ("smallest", "largest"):
            if known:
                lines[f"{label}, {key}"] = [(float(r["std"]), float(r[key])) for r in known]
    if lines:
        charts.append(Curves(lines, "token std", "singular value", "tokens' Jacobians"))
    return tuple(charts)
