"""Figures and the table per class of an evaluation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from surgeon.probe import State
from surgeon.statistics import paired_change, wilson


def figures_of(state: State, compared: bool) -> dict[str, Any]:
    """Every figure, counted from the top-1 of each image.

    Args:
        compared: the un-operated model ran too.
    """
    label, top1, count = state["label"], state["top1"], len(state["label"])
    right = top1 == label
    figures: dict[str, Any] = {"images": count, **_share("accuracy", right)}
    figures["top5"] = state["top5"] / count
    if not compared:
        return figures
    before = state["top1_before"]
    right_before = before == label
    won, lost = int((right & ~right_before).sum()), int((right_before & ~right).sum())
    change, low, high = paired_change(won, lost, count)
    return {
        **figures,
        **_share("unoperated_accuracy", right_before),
        "unoperated_top5": state["top5_before"] / count,
        "accuracy_change": change,
        "accuracy_change_low": low,
        "accuracy_change_high": high,
        **_share("agreement", top1 == before),
        "logit_shift": state["shift"] / count,
        "logit_shift_relative": state["shift"] / max(state["norm_before"], 1e-300),
    }


def _share(name: str, hits: Tensor) -> dict[str, float]:
    right, count = int(hits.sum()), len(hits)
    low, high = wilson(right, count)
    return {name: right / count, f"{name}_low": low, f"{name}_high": high}


def table_of(state: State, names: list[str], compared: bool) -> list[dict[str, Any]]:
    """A row for each class that has images: accuracy with interval, and what it is taken for."""
    rows = []
    for index, name in enumerate(names):
        here = state["label"] == index
        count = int(here.sum())
        if not count:
            continue
        says = state["top1"][here]
        row: dict[str, Any] = {"class": name, "index": index, "images": count}
        row |= _share("accuracy", says == index)
        if compared:
            row["unoperated_accuracy"] = float(
                (state["top1_before"][here] == index).double().mean()
            )
            row["agreement"] = float((state["top1_before"][here] == says).double().mean())
        wrong = says[says != index]
        if len(wrong):
            most = int(wrong.mode().values)
            row["most_often_taken_for"] = names[most]
            row["so_taken"] = int((wrong == most).sum()) / count
        rows.append(row)
    return rows
