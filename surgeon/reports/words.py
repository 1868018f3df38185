"""Numbers and names of figures, as a reader sees them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

#: Figures that have a better name than their own: (name, unit).
NAMES = {
    "psnr": ("PSNR", "dB"),
    "ssim": ("SSIM", ""),
    "embedding_relative": ("embedding error", ""),
    "yardstick_ratio": ("against a′", ""),
    "row_space_error": ("row-space error", ""),
    "gradient_evaluations": ("GE", ""),
}

#: Of this many different texts each is said.
_TEXTS = 3


def name_of(figure: str) -> str:
    """A figure's name.

    >>> name_of("psnr"), name_of("input_distance")
    ('PSNR', 'input distance')
    """
    return NAMES.get(figure, (figure.replace("_", " "), ""))[0]


def text_of(value: Any, figure: str = "") -> str:
    """A figure's value in three digits, with its unit.

    >>> text_of(21.456, "psnr"), text_of(1.5e-8), text_of(12345), text_of(None)
    ('21.5 dB', '1.5e-8', '12345', '–')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        unit = NAMES.get(figure, ("", ""))[1]
        return " ".join(filter(None, (_digits(value), unit)))
    return "–" if value is None else str(value)


def _digits(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if isinstance(value, int) or (value == round(value) and abs(value) < 1e6):
        return str(int(value))
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{digits}f}"


def summary_of(figures: Sequence[Mapping[str, Any]], name: str) -> str:
    """One figure of several sites: the median with its range, or how often each text is there.

    >>> summary_of([{"a": 1.0}, {"a": 3.0}], "a"), summary_of([{"v": True}, {"v": False}], "v")
    ('2 (1 to 3)', '1 of 2')
    """
    values = [row[name] for row in figures if row.get(name) is not None]
    if len(values) < 2:
        return text_of(values[0] if values else None, name)
    if all(isinstance(v, bool) for v in values):
        return f"{sum(values)} of {len(values)}"
    numbers = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    if numbers:
        low, high = min(numbers), max(numbers)
        middle = text_of(median(numbers), name)
        return middle if low == high else f"{middle} ({text_of(low)} to {text_of(high)})"
    counts = Counter(map(str, values))
    if len(counts) > _TEXTS:
        return f"{len(counts)} different"
    return ", ".join(f"{text} ×{n}" if n > 1 else text for text, n in counts.items())
