"""The picture of a diagnosis: the pair with its difference, maps over the photo, spectra."""

from __future__ import annotations

import torch
from matplotlib import colormaps
from torch import Tensor
from torch.nn import functional as F

from surgeon.probe import Result
from surgeon.runs.pictures import Curves, Panel, Sheet
from surgeon_diagnose.maps import MAPS

#: Sublayers at most whose tokens' singular values are drawn.
_LINES = 3


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
        title, caption = _pair_words(result)
        panels.append(Panel(second, title, caption))
        panels.append(Panel((second - photo).abs(), "|difference|", "0 black, 1 white"))
    return panels + _twins(result, name)


def _pair_words(result: Result) -> tuple[str, str]:
    """Where the second image has the same output, and how nearly; the worst of several sites."""
    every = {n: f for n, f in result.figures.items() if "pair_psnr" in f}
    same = {n: f for n, f in every.items() if f["pair_verified"]}
    if not every:
        return "second image", ""
    label, worst = max((same or every).items(), key=lambda nf: float(nf[1]["pair_output_float32"]))
    title = "same output" if same else "not the same output"
    if len(same) < len(every):
        title += f" at {label.removeprefix('pixels to ')}"
    double, single = worst["pair_output_float64"], worst["pair_output_float32"]
    apart = f"{double:.0e} (float64), {single:.0e} (float32)"
    return title, f"PSNR {worst['pair_psnr']:.1f} dB; outputs apart by\n{apart}"


def _twins(result: Result, name: str) -> list[Panel]:
    """What plain inversions made of the photo."""
    panels, several = [], sum(n.startswith("photo ") for n in result.images) > 1
    for label, image in result.images.items():
        if label.startswith("twin of ") and (not several or label.endswith(f", {name}")):
            figures = result.figures[label]
            caption = f"{figures['gradient_evaluations']:.0f} steps, PSNR {figures['psnr']:.1f} dB"
            panels.append(Panel(image, label.replace("twin of", "inverted from"), caption))
    return panels[:3]


def _map_rows(result: Result, name: str, photo: Tensor, photos: int) -> list[list[Panel]]:
    tail = f", {name}" if photos > 1 else ""
    labels = [n[4:].rsplit("/", 1)[0] for n in result.tensors if n.startswith("map/")]
    rows = []
    for label in dict.fromkeys(labels):
        if not label.endswith(tail):
            continue
        panels = [
            _map(result, label, key, title, photo)
            for key, title in [
                *((k, t) for k, (t, _) in MAPS.items()),
                ("error", "inversion error"),
            ]
            if _is_known(result.tensors.get(f"map/{label}/{key}"))
        ]
        first = panels[0]
        head = Panel(first.image, f"{label}: {first.title}", f"{first.caption}\n"
                     f"{result.figures[label]['verdict']}")  # fmt: skip
        rows.append([head, *panels[1:]])
    return rows


def _is_known(values: Tensor | None) -> bool:
    return values is not None and not bool(values.isnan().all())


def _map(result: Result, label: str, key: str, title: str, photo: Tensor) -> Panel:
    """One map over the photo; its caption says the colours, and what it foretells."""
    values, figures = result.tensors[f"map/{label}/{key}"], result.figures[label]
    signs = key == "determinant_sign"
    low, high = (-1.0, 1.0) if signs else _range(values)
    caption = f"blue {low:.3g} to yellow {high:.3g}"
    if signs:
        every = figures["determinants_negative"]
        caption = f"yellow +, blue -; {int((values < 0).sum())} patches\n"
        caption += f"negative, {every} of all tokens"
    if figures.get(f"auc_{key}") is not None:
        caption += f"\nAUC for the worst patches: {figures[f'auc_{key}']:.2f}"
    return Panel(overlay(photo, values, low, high), title, caption)


def _range(values: Tensor) -> tuple[float, float]:
    known = values[~values.isnan()]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)


def _curves(result: Result) -> tuple[Curves, ...]:
    charts = [_twin_chart(result)] if _twin_labels(result) else []
    spectra = {n.removeprefix("spectrum/"): c for n, c in result.curves.items()
               if n.startswith("spectrum/")}  # fmt: skip
    if spectra:
        charts.append(Curves(spectra, "number", "singular value", "spectrum of the Jacobian"))
    lines: dict[str, list[tuple[float, float]]] = {}
    named = [n for n, rows in result.tables.items() if rows and "std" in rows[0]]
    for label in named[:_LINES]:
        rows = result.tables[label]
        known = [r for r in rows if r.get("smallest") is not None and "std" in r]
        known.sort(key=lambda r: float(r["std"]))
        for key in ("smallest", "largest"):
            if known:
                lines[f"{label}, {key}"] = [(float(r["std"]), float(r[key])) for r in known]
    if lines:
        charts.append(Curves(lines, "token std", "singular value", "tokens' Jacobians"))
    return tuple(charts)


def _twin_labels(result: Result) -> list[str]:
    return [
        name.removesuffix("/embedding") for name in result.curves if name.endswith("/embedding")
    ]


def _twin_chart(result: Result) -> Curves:
    """Both distances against steps, on log axes; the yardstick is that of the first."""
    lines, labels = {}, _twin_labels(result)
    for label in labels:
        site = label.removeprefix("twin of ")
        lines[f"embedding, {site}"] = result.curves[f"{label}/embedding"]
        lines[f"input, {site}"] = result.curves[f"{label}/pixels"]
    level = result.figures[labels[0]]["yardstick"]
    return Curves(lines, "step", "distance", "a plain inversion", log_x=True,
                  level=(level, "|O(a) - O(a')|"))  # fmt: skip
