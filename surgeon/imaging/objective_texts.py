"""Objectives as texts: `logit(251) - 0.5 * logit(207) + 0.1 * total_variation()`."""

from __future__ import annotations

from collections.abc import Callable

from surgeon.errors import ProbeError
from surgeon.imaging.calls import read_calls
from surgeon.imaging.objectives import (
    L2,
    BatchStatistics,
    Channel,
    InRange,
    Logit,
    LogSoftmax,
    Mean,
    Objective,
    Softmax,
    Token,
    TotalVariation,
    WholeSite,
)
from surgeon.labels import Labels, class_index


def parse_objective(text: str, labels: Labels = (), classes: int | None = None) -> Objective:
    """Read an objective.

    Args:
        text: such as `logit("dalmatian") - 0.5 * channel("blocks[3]", 7)`.
        labels: names of classes.
        classes: how many the model has, where known.

    Raises:
        ProbeError: what isn't understood, with the nearest names.

    >>> parse_objective("2 * logit(3)")
    _Both(first=Logit(index=3), second=Constant(number=2.0), sign='*')
    """

    def of_class(make: Callable[[int], Objective]) -> Callable[[int | str], Objective]:
        return lambda asked: make(class_index(asked, labels, classes))

    found = read_calls(
        text,
        {
            "logit": of_class(Logit),
            "softmax": of_class(Softmax),
            "log_softmax": of_class(LogSoftmax),
            "channel": Channel,
            "token": Token,
            "site": WholeSite,
            "mean": Mean,
            "total_variation": TotalVariation,
            "l2": L2,
            "in_range": InRange,
            "batch_statistics": BatchStatistics,
        },
    )
    if not isinstance(found, Objective):
        raise ProbeError(f"objective `{text}`", f"{found!r} depends on no image", "logit(0)")
    return found
