"""The table of a study: a row for each site of each run. Needs no torch until tensors are asked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.files import json_text
from surgeon.studies.study import COLUMNS, labels_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One site of one run.

    Attributes:
        labels: axis -> label of the cell.
        site: as `run.json` names it.
        figures: name -> number, text or None.
        run: the run's folder.
        probe: that ran.
    """

    labels: dict[str, str]
    site: str
    figures: dict[str, Any]
    run: Path
    probe: str

    def load(self) -> dict[str, Any]:
        """The run's `run.json`."""
        found: dict[str, Any] = json.loads((self.run / "run.json").read_text(encoding="utf-8"))
        return found

    def tensors(self) -> dict[str, Tensor]:
        """The run's tensors, from `result.safetensors`."""
        from safetensors.torch import load_file

        found: dict[str, Tensor] = load_file(self.run / "result.safetensors")
        return found

    def label(self, axis: str) -> str:
        """Of an axis; `site` and `probe` count as axes."""
        return {"site": self.site, "probe": self.probe, **self.labels}[axis]


@dataclass(frozen=True)
class Table:
    """Rows, in the order of the grid.

    Attributes:
        rows: of every run there is.
        axes: name -> its labels in order.
        missing: labels (`probe` among them) of the cells that have no run: failed, or not yet.
    """

    rows: tuple[Row, ...]
    axes: dict[str, list[str]] = field(default_factory=dict)
    missing: tuple[dict[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def where(self, **labels: Any) -> Table:
        """The rows of these labels: axis=label, or a list of labels; `site` and `probe` too."""
        wanted = {axis: labels_of(given) for axis, given in labels.items()}

        def fits(label: Callable[[str], str | None]) -> bool:
            return all(label(axis) in allowed for axis, allowed in wanted.items())

        rows = tuple(row for row in self.rows if fits(row.label))
        missing = tuple(
            cell for cell in self.missing
            if all(cell.get(axis) in allowed for axis, allowed in wanted.items() if axis != "site")
        )  # fmt: skip
        return Table(rows, self.axes, missing)

    def column(self, figure: str) -> list[Any]:
        """A figure of every row, None where a row has none."""
        return [row.figures.get(figure) for row in self.rows]

    def labels(self, axis: str) -> list[str]:
        """The labels of an axis that occur, in the axis' order."""
        here = list(dict.fromkeys(row.label(axis) for row in self.rows))
        order = self.axes.get(axis, [])
        return sorted(here, key=lambda label: order.index(label) if label in order else len(order))

    @property
    def figures(self) -> list[str]:
        """Every figure's name, in order of first use."""
        return list(dict.fromkeys(name for row in self.rows for name in row.figures))

    # --- files

    def records(self, folder: Path) -> list[dict[str, Any]]:
        """Rows as plain tables, runs relative to a folder."""
        return [
            {
                "labels": row.labels, "probe": row.probe, "site": row.site,
                "run": _relative(row.run, folder), "figures": row.figures,
            }
            for row in self.rows
        ]  # fmt: skip

    def to_csv(self, folder: Path) -> str:
        """CSV with a column for each axis and figure; None is empty.

        A figure that is called as an axis is "NAME (figure)".
        """
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        figures = self.figures
        names = [f"{n} (figure)" if n in (*self.axes, *COLUMNS) else n for n in figures]
        writer.writerow([*self.axes, "probe", "site", *names, "run"])
        for row in self.rows:
            labels = [row.labels.get(axis, "") for axis in self.axes]
            values = [_cell_text(row.figures.get(name)) for name in figures]
            run = _relative(row.run, folder)
            writer.writerow([*labels, row.probe, row.site, *values, run])
        return out.getvalue()


def table_of(
    cells: Iterable[tuple[dict[str, str], str, Path | None]], axes: dict[str, list[str]]
) -> Table:
    """The table of some cells.

    Args:
        cells: (labels, probe, run's folder or None where there is no finished run).
    """
    rows: list[Row] = []
    missing: list[dict[str, str]] = []
    for labels, probe, run in cells:
        if run is None:
            missing.append({**labels, "probe": probe})
            continue
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        rows += [Row(labels, site, figures, run, probe)
                 for site, figures in record["figures"].items()]  # fmt: skip
    return Table(tuple(rows), axes, tuple(missing))


def _relative(run: Path, folder: Path) -> str:
    import os

    return Path(os.path.relpath(run, folder)).as_posix()


def _cell_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    text = json_text(value)
    return "" if text == "null" else text
