"""A study's folder: what it is asked, how far it is, its table, findings and picture."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from surgeon.errors import RunError
from surgeon.files import atomic_write, json_text, writing
from surgeon.studies.findings import Finding
from surgeon.studies.study import Study, cell_name
from surgeon.studies.table import Table

MARK = "study.json"
#: Says how the study was asked for, while it has not ended whole.
UNDERWAY = "underway.json"
_FILES = (
    MARK, UNDERWAY, "study.toml", "timing.json", "table.csv", "table.json", "figure.png",
)  # fmt: skip

Status = Literal["done", "failed", "skipped", "pending"]


@dataclass
class CellRecord:
    """What became of a cell.

    Attributes:
        labels: axis -> label.
        probe: that ran.
        run: the run's folder, made or not; None where it is left out, or can't be addressed.
        error: the three lines of what went wrong.
        why: it was left out.
    """

    labels: dict[str, str]
    probe: str
    run: Path | None = None
    status: Status = "pending"
    error: tuple[str, str, str] | None = None
    why: str | None = None

    @property
    def name(self) -> str:
        """For messages: "k=3, image=surgeon:boot, invert"."""
        return cell_name(self.labels, self.probe)

    def to_dict(self, folder: Path) -> dict[str, Any]:
        """As `study.json` has it, the run relative to the study's folder."""
        run = None if self.run is None else Path(os.path.relpath(self.run, folder)).as_posix()
        return {
            "labels": self.labels,
            "probe": self.probe,
            "run": run,
            "status": self.status,
            "error": list(self.error) if self.error else None,
            "why": self.why,
        }


@dataclass(frozen=True)
class StudyFolder:
    """Writes a study's files, each whole or not at all."""

    path: Path

    def check_free(self) -> None:
        """See that nothing but a study is there.

        Raises:
            RunError: the folder holds other files.
        """
        if not self.path.exists():
            return
        asked = f"write a study to {self.path}"
        if not self.path.is_dir():
            raise RunError(asked, "it is a file", "another folder")
        names = [p.name.removeprefix(".").removesuffix(".partial") for p in self.path.iterdir()]
        # A report may have files beside it.
        strange = sorted(n for n in names if n not in _FILES and not n.startswith("report."))
        if strange:
            raise RunError(asked, f"it holds {', '.join(strange[:3])}", "--out with another folder")

    def begin(self, study: Study, asked: dict[str, Any]) -> None:
        """Make the folder, say what is asked, and take away what earlier asking left.

        Args:
            asked: what `surgeon resume` needs beside the study itself.

        Raises:
            RunError: it can't be written.
        """
        for path in self.path.glob(".*.partial"):  # of a process that was killed
            path.unlink(missing_ok=True)
        self.write("study.toml", study.to_toml())
        self.write(UNDERWAY, json_text(asked, indent=2) + "\n")

    def end(self) -> None:
        """Say that nothing is left to do."""
        (self.path / UNDERWAY).unlink(missing_ok=True)

    def write(self, name: str, content: bytes | str) -> None:
        """One file.

        Raises:
            RunError: it can't be written.
        """
        hint = "--out with a folder that can be written and has room"
        with writing(f"write {self.path / name}", hint):
            self.path.mkdir(parents=True, exist_ok=True)
            atomic_write(self.path / name, content)

    def write_record(
        self, study: Study, cells: Sequence[CellRecord], findings: Sequence[Finding] = ()
    ) -> None:
        """Write `study.json`."""
        record = {
            "title": study.title,
            "question": study.question,
            "experiment": study.experiment,
            "tier": study.tier,
            "stand_in": study.stand_in,
            "axes": {axis: list(values) for axis, values in study.axes.items()},
            "cells": [cell.to_dict(self.path) for cell in cells],
            "findings": [finding.to_dict() for finding in findings],
            "curves": [curve.model_dump(exclude_none=True) for curve in study.curves],
        }
        self.write(MARK, json_text(record, indent=2) + "\n")

    def write_table(self, table: Table) -> None:
        """Write `table.csv` and `table.json`."""
        self.write("table.csv", table.to_csv(self.path))
        self.write("table.json", json_text(table.records(self.path), indent=1) + "\n")


def read_underway(folder: Path) -> dict[str, Any]:
    """How an unfinished study was asked for.

    Raises:
        RunError: it has ended, or it is no study.
    """
    file = folder / UNDERWAY
    if not file.is_file():
        ended = (folder / MARK).is_file()
        raise RunError(
            f"resume {folder}",
            "the study has ended" if ended else f"there is no {UNDERWAY}",
            "surgeon study with its study.toml, to see it again" if ended else "a study's folder",
        )
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise RunError(f"resume {folder}", f"{UNDERWAY}: {cause}", "run the study again") from None
    return found
