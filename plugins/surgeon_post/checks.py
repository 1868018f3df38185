"""Checks of the post's findings that the built-in ones don't serve. Imports no torch.

Reconstructions are compared by eye: a PSNR counts from 0 dB, below which there is no picture, to 50
dB, above which nobody sees a difference. Without that, 150 dB against 140 would be a finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any, TypeGuard

from surgeon.studies.findings import Finding, Verdict
from surgeon.studies.judging import load_check
from surgeon.studies.table import Row, Table

#: What an eye can tell, in dB.
NOTHING_SEEN, ALL_SEEN = 0.0, 50.0
#: A grid of filters is too small where chance alone scores this much (see `filters`).
TOO_SMALL = 0.8
#: Singular values below this share of the largest one count as zero.
ROUNDING = 1e-12
PROVED, _COLLIDES = "not injective: proved", "collision to tolerance"


def seen(table: Table, settings: dict[str, Any]) -> Finding:
    """A built-in check, `by`, on PSNRs within what an eye can tell.

    Args:
        settings: those of the built-in check, and `by`, its name.
    """
    return built_in(_limited(table), settings)


def holds(table: Table, settings: dict[str, Any]) -> Finding:
    """Figures that are true or false are true in a `share` of the runs.

    Args:
        settings: `figure`, one or several; `share`; `where`.
    """
    chosen = asked_rows(table, settings)
    names = settings["figure"] if isinstance(settings["figure"], list) else [settings["figure"]]
    said = [row.figures[n] for row in chosen for n in names if row.figures.get(n) is not None]
    value = sum(bool(s) for s in said) / len(said) if said else None
    words = f"{' and '.join(names)} true in {sum(bool(s) for s in said)} of {len(said)} cases"
    return _found(chosen, settings, value, settings["share"], words, at_least=True)


def between(table: Table, settings: dict[str, Any]) -> Finding:
    """The median of a figure in `first` is more than that in `second` by the threshold.

    Args:
        settings: `figure`, `threshold`, and two tables of labels, `first` and `second`.
    """
    limited = _limited(table)
    groups = [limited.where(**settings[side]) for side in ("first", "second")]
    numbers = [_numbers(group, settings["figure"]) for group in groups]
    value = median(numbers[0]) - median(numbers[1]) if all(numbers) else None
    medians = " and ".join(f"{median(n):.4g} of {len(n)}" if n else "none" for n in numbers)
    words = f"medians of {settings['figure']}: {medians}"
    both = replace(groups[0], missing=groups[0].missing + groups[1].missing)
    return _found(both, settings, value, settings["threshold"], words, at_least=True)


def gains(table: Table, settings: dict[str, Any]) -> Finding:
    """What each value of an axis gains over another stays below the threshold, the best one's too.

    Args:
        settings: `figure`, `axis`, `over` (a label), `among` (labels), `threshold`, `where`.
    """
    limited, axis = _limited(asked_rows(table, settings)), settings["axis"]
    found: dict[str, float] = {}
    for label in settings["among"]:
        chosen = limited.where(**{axis: [settings["over"], label]})
        pairs = _pairs(chosen, axis, settings["figure"], settings["over"], label)
        if pairs:
            found[label] = median(b - a for a, b in pairs)
    value = max(found.values(), default=None)
    words = ", ".join(f"{label} gains {gain:+.2f}" for label, gain in found.items())
    return _found(limited, settings, value, settings["threshold"], words, at_least=False)


def wavelets(table: Table, settings: dict[str, Any]) -> Finding:
    """The share of wavelets lies between `least` and `most`; small filters can't be judged."""
    chosen = asked_rows(table, settings)
    rows = [row for row in chosen if row.figures.get("wavelets") is not None]
    if rows and all(row.figures["threshold"] > TOO_SMALL for row in rows):
        sizes = {f"{row.figures['height']} x {row.figures['width']}" for row in rows}
        why = f"filters of {', '.join(sorted(sizes))} pixels: chance alone looks like a wavelet"
        return Finding(settings["claim"], "not applicable", None, None, why)
    shares = [float(row.figures["wavelets"]) for row in rows]
    least, most = settings["least"], settings["most"]
    words = f"wavelets: {', '.join(f'{s:.1%}' for s in shares)}, wanted {least:.0%} to {most:.0%}"
    value = median(shares) if shares else None
    met = value is not None and least <= value <= most
    threshold = least if value is not None and value < least else most
    return stated(chosen, settings, value, threshold, words, met)


def injective(table: Table, settings: dict[str, Any]) -> Finding:
    """Every map that `diagnose` judged is injective; or, by `wanted`, proved not to be.

    A Jacobian of full rank at the photo counts as injective there, however badly conditioned.
    One map judged the other way refutes; maps that were not decided leave it undecided.
    """
    chosen = asked_rows(table, settings)
    said = [_injective(row) for row in chosen if row.figures.get("verdict")]
    good = settings.get("wanted") != PROVED
    others = sum(s is not None and s != good for s in said)
    met = sum(s == good for s in said)
    words = (
        f"of {len(said)} maps {sum(s is True for s in said)} are injective at the photo, "
        f"{sum(s is False for s in said)} are not (proved, or a collision),"
        f" {sum(s is None for s in said)} are open"
    )
    value = met / len(said) if said else None
    if others == 0 and met < len(said):
        return Finding(settings["claim"], "undecided", value, 1.0, words)
    return stated(chosen, settings, value, 1.0, words, bool(said) and others == 0)


def directions(table: Table, settings: dict[str, Any]) -> Finding:
    """At most a share of the input's directions gets through, by the Jacobian at the photo.

    Counted are singular values above 1e-12 of the largest, in float64.
    """
    chosen = asked_rows(table, settings)
    shares = []
    for row in chosen:
        spectrum = row.tensors().get(f"spectrum/{row.site}")
        if spectrum is not None:
            shares.append(float((spectrum > ROUNDING * spectrum[0]).double().mean()))
    value = max(shares, default=None)
    words = (
        f"of the input's directions {', '.join(f'{s:.1%}' for s in shares)} get through"
        if shares
        else "no Jacobian was worked out"
    )
    return _found(chosen, settings, value, settings["threshold"], words, at_least=False)


def twins(table: Table, settings: dict[str, Any]) -> Finding:
    """Where outputs came together, the images stayed apart.

    Args:
        settings: `together`, the largest relative distance of outputs; `apart`, the largest PSNR.
    """
    chosen = asked_rows(table, settings)
    rows = [row for row in chosen if _is_number(row.figures.get("psnr"))]
    met = [row for row in rows if row.figures["embedding_relative"] <= settings["together"]]
    apart = [row for row in met if row.figures["psnr"] <= settings["apart"]]
    words = (
        f"outputs within {settings['together']:g} in {len(met)} of {len(rows)} runs;"
        f" images apart (at most {settings['apart']:g} dB) in {len(apart)} of those"
    )
    if not met:
        return Finding(settings["claim"], "undecided", None, 1.0, words)
    return _found(chosen, settings, len(apart) / len(met), 1.0, words, at_least=True)


def exactly(table: Table, settings: dict[str, Any]) -> Finding:
    """Figures have these `values`, each, in every run."""
    chosen = asked_rows(table, settings)
    wanted = settings["values"]
    pairs = [(name, row.figures.get(name), value) for row in chosen
             for name, value in wanted.items()]  # fmt: skip
    right = sum(found == value for _, found, value in pairs)
    words = "; ".join(f"{name} {_text(found)}" for name, found, _ in pairs)
    value = right / len(pairs) if pairs else None
    return _found(chosen, settings, value, 1.0, words, at_least=True)


# --- their parts


def built_in(table: Table, settings: Mapping[str, Any]) -> Finding:
    """What the built-in check named `by` says."""
    asked = {**settings, "check": settings["by"]}
    asked.pop("by")
    return load_check(str(settings["by"]))(table, asked)


def _injective(row: Row) -> bool | None:
    verdict = str(row.figures["verdict"])
    if verdict in (PROVED, _COLLIDES):
        return False
    small, large = row.figures.get("smallest"), row.figures.get("largest")
    if verdict == "injective here":
        return True
    if verdict == "ill-conditioned" and _is_number(small) and _is_number(large):
        return True if float(small) > ROUNDING * float(large) else None
    return None


def _limited(table: Table) -> Table:
    """PSNRs within what an eye can tell."""
    rows = []
    for row in table:
        psnr = row.figures.get("psnr")
        if _is_number(psnr):
            seen = min(max(float(psnr), NOTHING_SEEN), ALL_SEEN)
            row = replace(row, figures={**row.figures, "psnr": seen})
        rows.append(row)
    return replace(table, rows=tuple(rows))


def asked_rows(table: Table, settings: Mapping[str, Any]) -> Table:
    """The rows of a finding's `where`."""
    where = settings.get("where", {})
    return table.where(**where) if where else table


def _numbers(table: Table, figure: str) -> list[float]:
    return [float(value) for value in table.column(figure) if _is_number(value)]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _pairs(
    table: Table, axis: str, figure: str, first: str, second: str
) -> list[tuple[float, float]]:
    """A figure at two labels of an axis, of rows alike in all else."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for row in table:
        if _is_number(row.figures.get(figure)):
            rest = (*(v for k, v in row.labels.items() if k != axis), row.site, row.probe)
            found.setdefault(rest, {})[row.label(axis)] = float(row.figures[figure])
    return [(p[first], p[second]) for p in found.values() if {first, second} <= p.keys()]


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _found(
    table: Table,
    settings: Mapping[str, Any],
    value: float | None,
    threshold: float,
    words: str,
    *,
    at_least: bool,
) -> Finding:
    """A number against its threshold."""
    met = value is not None and (value >= threshold if at_least else value <= threshold)
    side = "at least" if at_least else "at most"
    shown = "-" if value is None else f"{value:.4g}"
    words += f"; {shown}, wanted {side} {threshold:g}"
    return stated(table, settings, value, threshold, words, met)


def stated(
    table: Table,
    settings: Mapping[str, Any],
    value: float | None,
    threshold: float,
    words: str,
    met: bool,
) -> Finding:
    """The verdict; nothing is confirmed, and without a number nothing decided, by missing cells."""
    verdict: Verdict = "confirmed" if met else "refuted"
    missing = len(table.missing)
    if value is None or (met and missing):
        verdict = "undecided"
    if missing:
        words += f"; {missing} cells are missing"
    return Finding(str(settings["claim"]), verdict, value, threshold, words)
