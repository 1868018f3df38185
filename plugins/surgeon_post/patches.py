"""Checks that look into runs: dark pixels and rough patches of images, tokens of patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from surgeon.studies.findings import Finding
from surgeon.studies.table import Row, Table
from surgeon_post.checks import PROVED, asked_rows, built_in, stated

if TYPE_CHECKING:
    from torch import Tensor

#: Pixels of [0, 1] below this are dark.
DARK = 0.1
#: A dark background counts as lost from this mean error on; what was never lost can't come back.
LOST = 0.05
#: A patch is rough if its roughness is this many times the photo's, and at least LEAST.
TIMES, LEAST = 2.0, 0.05
#: Class tokens before the patches' tokens, in every ViT of the studies.
PREFIX = 1


def dark(table: Table, settings: dict[str, Any]) -> Finding:
    """The error in dark pixels falls, from one label of an axis to another, to the threshold.

    Args:
        settings: `axis`, `before`, `after`, `threshold` (a ratio), `where`.
    """

    def error(target: Tensor, image: Tensor) -> float | None:
        mask = target < DARK
        return float((image - target)[mask].abs().mean()) if bool(mask.any()) else None

    return _ratio(table, settings, error, "mean error in dark pixels", least=LOST)


def rough_patches(table: Table, settings: dict[str, Any]) -> Finding:
    """The share of rough patches falls, from one label of an axis to another, to the threshold.

    Roughness is the root mean square difference of neighbouring pixels; a patch is rough if it has
    twice the photo's there.

    Args:
        settings: as of `dark`, and `side`, of a patch in pixels.
    """

    def share(target: Tensor, image: Tensor) -> float:
        side = int(settings["side"])
        own, found = _roughness(target, side), _roughness(image, side)
        return float(((found > TIMES * own) & (found > LEAST)).double().mean())

    return _ratio(table, settings, share, "share of rough patches")


def patch_tokens(table: Table, settings: dict[str, Any]) -> Finding:
    """A built-in check, `by`, on `patch_std_least` and `patch_tokens_proved` of `diagnose`.

    Of the tokens of a sublayer, prefix tokens left out: they are the same for every photo.
    """
    rows = []
    for row in table:
        tokens = row.load()["tables"].get(row.site, []) if row.probe == "diagnose" else []
        found = [t for t in tokens if t.get("token", 0) >= PREFIX and "std" in t]
        if found:
            proved = sum(t["verdict"] == PROVED for t in found)
            least = min(float(t["std"]) for t in found)
            more = {"patch_std_least": least, "patch_tokens_proved": proved}
            row = replace(row, figures={**row.figures, **more})
        rows.append(row)
    return built_in(replace(table, rows=tuple(rows)), settings)


def _roughness(image: Tensor, side: int) -> Tensor:
    """(patches,), of an image (1, channels, height, width)."""
    from torch.nn import functional as F

    patches = F.unfold(image.double(), side, stride=side)[0].T
    patches = patches.reshape(-1, image.shape[1], side, side)
    down, across = patches.diff(dim=2), patches.diff(dim=3)
    squares = down.square().mean((1, 2, 3)) + across.square().mean((1, 2, 3))
    return squares.sqrt()


def _ratio(
    table: Table,
    settings: dict[str, Any],
    of: Callable[[Tensor, Tensor], float | None],
    what: str,
    least: float = 0.0,
) -> Finding:
    """The ratio of medians over all runs at two labels of an axis.

    Args:
        least: up to this there is nothing to lose before.
    """
    chosen = asked_rows(table, settings)
    axis, claim = settings["axis"], str(settings["claim"])
    found: dict[str, float] = {}
    for label in (settings["before"], settings["after"]):
        values = [_of_row(row, of) for row in chosen.where(**{axis: label})]
        known = [value for value in values if value is not None]
        if known:
            found[label] = median(known)
    if len(found) < 2:
        return Finding(claim, "undecided", None, settings["threshold"], f"{what}: runs are missing")
    before, after = found.values()
    words = f"{what}: {before:.4g} {settings['before']}, {after:.4g} {settings['after']}"
    if before <= least:
        return Finding(claim, "not applicable", None, None, f"{words}; there is none to lose")
    value = after / before
    words += f"; ratio {value:.3g}, wanted at most {settings['threshold']:g}"
    met = value <= settings["threshold"]
    return stated(chosen, settings, value, settings["threshold"], words, met)


def _of_row(row: Row, of: Callable[[Tensor, Tensor], float | None]) -> float | None:
    tensors = row.tensors()
    image = tensors.get(f"image/{row.site}")
    targets = [value for name, value in tensors.items() if name.startswith("target/")]
    return None if image is None or len(targets) != 1 else of(targets[0], image.to(targets[0]))
