"""Running a study: what is made already is found, the rest is made, and all of it is judged."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from surgeon.errors import RunError, SurgeonError
from surgeon.files import json_text
from surgeon.notebook import Shown
from surgeon.studies.addresses import Hashes, Setup, digest_of_run
from surgeon.studies.findings import Finding
from surgeon.studies.folder import CellRecord, StudyFolder, read_underway
from surgeon.studies.judging import judge
from surgeon.studies.study import Cell, Study
from surgeon.studies.table import Table, table_of

if TYPE_CHECKING:
    from surgeon.studies.jobs import Job

#: Where runs are kept unless told.
STORE = Path("runs/store")
_SECONDS_BETWEEN = 2.0


class GridProgress(Protocol):
    """What shows how far a study is."""

    def at(self, progress: float, text: str, *, last: bool = False) -> None:
        """At a share of the whole, from 0 to 1."""


@dataclass(frozen=True)
class StudyResult(Shown):
    """What a study found.

    Attributes:
        study: that ran.
        folder: its own.
        cells: what became of each cell, in the order of the grid.
        table: a row for each site of each run.
        findings: what the table says of each claim.
        made: how many runs were made now; the others were there.
    """

    study: Study
    folder: Path
    cells: list[CellRecord]
    table: Table
    findings: list[Finding]
    made: int

    @property
    def failed(self) -> list[CellRecord]:
        """The cells whose run failed."""
        return [cell for cell in self.cells if cell.status == "failed"]

    def figure(self) -> Any:
        """The study's picture, a matplotlib figure."""
        from surgeon.studies.picture import draw_study

        return draw_study(self.study, self.table, self.findings)


@dataclass(frozen=True)
class Planned:
    """A study's cells with their places in the store.

    Attributes:
        cells: of the whole grid.
        records: what is known of each before anything runs.
        setup: device, dtype and threads.
    """

    cells: list[Cell]
    records: list[CellRecord]
    setup: Setup

    def pending(self) -> list[tuple[Job, list[CellRecord]]]:
        """The runs to be made, each with the cells that want it."""
        if all(record.status != "pending" for record in self.records):
            return []  # and torch is not imported
        from surgeon.studies.jobs import Job

        wanted: dict[Path, tuple[Job, list[CellRecord]]] = {}
        for cell, record in zip(self.cells, self.records, strict=True):
            if record.status == "pending" and record.run is not None and cell.recipe is not None:
                job = Job(cell.recipe, cell.probe, record.run, self.setup)
                wanted.setdefault(record.run, (job, []))[1].append(record)
        return list(wanted.values())


def plan_study(study: Study, store: Path, setup: Setup, *, remember: bool = True) -> Planned:
    """Find each cell's place in the store. Builds no model and writes no run.

    A cell whose model, weights or image is not there has failed.

    Args:
        remember: keep the hashes of large files beside the runs.
    """
    hashes = Hashes(store / ".hashes.json")
    cells = study.grid()
    records = [_record(cell, store, setup, hashes) for cell in cells]
    if remember:
        with contextlib.suppress(OSError):  # a memory only: what can't be kept is hashed again
            hashes.save()
    return Planned(cells, records, setup)


def _record(cell: Cell, store: Path, setup: Setup, hashes: Hashes) -> CellRecord:
    record = CellRecord(cell.labels, cell.probe)
    if cell.recipe is None:
        record.status, record.why = "skipped", cell.why
        return record
    try:
        digest = digest_of_run(cell.recipe, cell.probe, setup, hashes)
    except SurgeonError as error:
        record.status, record.error = "failed", (error.asked, error.found, error.hint)
        return record
    record.run = (store / digest[:16]).resolve()
    if (record.run / "run.json").is_file():
        record.status = "done"
    return record


def run_study(
    study: Study,
    folder: str | Path | None = None,
    *,
    workers: int = 1,
    store: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int = 1,
    progress: GridProgress | None = None,
    report: bool = True,
) -> StudyResult:
    """Run a study: make the runs that are not in the store yet, and judge its findings.

    Every run is kept under a hash of all that its result depends on, so that none is made twice,
    whichever study asks. One that fails costs itself alone. Interrupted, what had ended is kept
    and what was running goes on from its checkpoint when the study runs again.

    Args:
        study: as `Study.read` gives it.
        folder: of the study; runs/NAME if left out.
        workers: processes; each holds one model at a time.
        store: of the runs; runs/store if left out.
        device: "cpu", "cuda" ...
        dtype: "float32", "float64" ...
        threads: of torch in each worker. Results depend on how many, in their last bits, and not
            on how many workers there are.
        progress: shown how far the whole grid is.
        report: write `report.html`.

    Returns:
        Its table and findings; `failed` lists the cells that failed.

    Raises:
        StudyError, RecipeError: a cell's recipe is wrong; nothing runs.
        RunError: the folder holds other files, or can't be written.
    """
    began = time.perf_counter()
    place = StudyFolder(Path(folder) if folder is not None else Path("runs") / study.name)
    place.check_free()
    kept = Path(store) if store is not None else STORE
    setup = Setup(device, dtype, threads)
    planned = plan_study(study, kept, setup)
    asked = {
        "name": study.name, "source": study.where.source, "directory": os.getcwd(),
        "store": str(kept.resolve()), "workers": workers, "report": report, **asdict(setup),
    }  # fmt: skip
    place.begin(study, asked)
    place.write_record(study, planned.records)
    wanted = planned.pending()
    watch = _Grid(wanted, lambda: place.write_record(study, planned.records), progress)
    if wanted:
        from surgeon.studies.workers import run_jobs

        try:
            run_jobs([job for job, _ in wanted], workers, watch)
        except BaseException:
            with contextlib.suppress(RunError):  # what ended it matters more
                place.write_record(study, planned.records)
            raise
    result = _judged(study, place, planned.records, watch.made)
    times = {"seconds": time.perf_counter() - began, "made": watch.made}
    place.write("timing.json", json_text(times, indent=2) + "\n")
    if report:
        from surgeon.reports import write_report

        write_report([place.path], [], place.path / "report.html")
    if not result.failed:
        place.end()
    return result


def resume_study(
    folder: str | Path, *, workers: int | None = None, progress: GridProgress | None = None
) -> StudyResult:
    """Go on with a study that was interrupted or killed, or whose runs failed.

    The files are byte for byte those of a study that was never interrupted.

    Args:
        folder: of the study.
        workers: as before if left out.

    Raises:
        RunError: it has ended, it is no study, or where it was started is gone.
    """
    place = Path(folder).resolve()
    asked = read_underway(place)
    if not Path(asked["directory"]).is_dir():
        raise RunError(
            f"resume {folder}",
            f"it was started in {asked['directory']}, which is gone",
            "put back what the recipes' paths point to",
        )
    text = (place / "study.toml").read_text(encoding="utf-8")
    with contextlib.chdir(asked["directory"]):
        study = Study.from_toml(text, source=asked["source"], name=asked["name"])
        return run_study(
            study, place, workers=workers or asked["workers"], store=asked["store"],
            device=asked["device"], dtype=asked["dtype"], threads=asked["threads"],
            progress=progress, report=asked["report"],
        )  # fmt: skip


def _judged(
    study: Study, place: StudyFolder, records: Sequence[CellRecord], made: int
) -> StudyResult:
    """The table, findings and picture of what there is, written."""
    runs = [(r.labels, r.probe, r.run if r.status == "done" else None)
            for r in records if r.status != "skipped"]  # fmt: skip
    table = table_of(runs, {axis: list(values) for axis, values in study.axes.items()})
    findings = judge(table, study.findings)
    place.write_record(study, records, findings)
    place.write_table(table)
    result = StudyResult(study, place.path, list(records), table, findings, made)
    from surgeon.runs.pictures import png_bytes

    place.write("figure.png", png_bytes(result.figure(), f"surgeon study: {study.title}"))
    return result


class _Grid:
    """Keeps the cells' records while their runs are made, and says how far the grid is."""

    def __init__(
        self,
        wanted: Sequence[tuple[Job, list[CellRecord]]],
        write: Callable[[], None],
        progress: GridProgress | None,
    ) -> None:
        self.cells = [cells for _, cells in wanted]
        self.write, self.progress = write, progress
        self.shares: dict[int, float] = {}
        self.made = self.over = 0
        self._wrote = time.monotonic()

    def at(self, number: int, share: float, text: str) -> None:
        """A run is this far."""
        self.shares[number] = share
        self._show(f"{self.over + 1}/{len(self.cells)}  {self.cells[number][0].name}  {text}")

    def ended(self, number: int, error: tuple[str, str, str] | None) -> None:
        """A run is made, or failed."""
        for cell in self.cells[number]:
            cell.status, cell.error = ("failed", error) if error else ("done", None)
        self.made += error is None
        self.over += 1
        self.shares.pop(number, None)
        if time.monotonic() - self._wrote >= _SECONDS_BETWEEN:
            self.write()
            self._wrote = time.monotonic()
        self._show(f"{self.over}/{len(self.cells)}  {self.cells[number][0].name}")

    def _show(self, text: str) -> None:
        if self.progress is not None:
            share = (self.over + sum(self.shares.values())) / len(self.cells)
            self.progress.at(share, text, last=self.over == len(self.cells))
