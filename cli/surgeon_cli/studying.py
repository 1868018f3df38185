"""surgeon study."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgeon.errors import StudyError, SurgeonError
from surgeon_cli import render
from surgeon_cli.options import DeviceOption, DtypeOption, JsonOption

if TYPE_CHECKING:
    from surgeon.studies import Study, StudyResult


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("study")(study)


def study(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="A TOML file, a packaged one (surgeon:NAME), or a group of those."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The study's folder; runs/NAME if left out."),
    ] = None,
    store: Annotated[
        Path, typer.Option("--store", metavar="DIR", help="Where runs are kept, for every study.")
    ] = Path("runs/store"),
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes, each with a model in memory.")
    ] = 1,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Of torch in each process; part of a run.")
    ] = 1,
    tier: Annotated[
        str | None, typer.Option("--tier", help="Of a group: packaged or named ones alone.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help='Override a key: axes.k="[0, 1]".'),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure a few steps; say how long it would take.")
    ] = False,
) -> None:
    """Run a grid of recipes, each run once and kept, and check what it finds."""
    from surgeon.studies import Study, studies_of

    names = studies_of(study, tier) if study.startswith("surgeon:") else [study]
    group = names != [study]
    if group and (set_ or dry_run):
        raise typer.BadParameter("--set and --dry-run take one study, not a group")
    settings = {"store": store, "workers": workers, "threads": threads,
                **_places(device, dtype)}  # fmt: skip
    if group:
        _run_group(study, names, out, settings, as_json)
        return
    read = Study.read(study, set_ or ())
    if dry_run:
        _show_estimate(read, settings, as_json)
        return
    _end([_run(read, out, settings, as_json)], as_json)


def _places(device: str | None, dtype: str | None) -> dict[str, Any]:
    from surgeon_cli.devices import checked_device, checked_dtype

    checked_dtype(dtype)
    return {"device": checked_device(device) or "cpu", "dtype": dtype or "float32"}


def _run(
    read: Study, out: Path | None, settings: dict[str, Any], as_json: bool, report: bool = True
) -> StudyResult:
    from surgeon.studies import run_study

    folder = out or Path("runs") / read.name
    with render.ProgressLines(read.name) as progress, _resumable(folder):
        result = run_study(read, folder, progress=progress, report=report, **settings)
    if not as_json:
        _show(result)
    return result


def _run_group(
    group: str, names: list[str], out: Path | None, settings: dict[str, Any], as_json: bool
) -> None:
    """Every study of a group, then one report of them all."""
    from surgeon.reports import write_report
    from surgeon.studies import Study

    own = group.removeprefix("surgeon:")
    base = out or Path("runs") / own
    results, broken = [], []
    for name in names:
        try:
            read = Study.read(name)
            folder = base / read.name.removeprefix(f"{own}/")
            results.append(_run(read, folder, settings, as_json, report=False))
        except SurgeonError as error:  # it costs its own study
            render.note(f"{name}\n{error}")
            broken.append(name)
    report = write_report([r.folder for r in results], [], base / "report.html")
    if not as_json:
        render.line(f"report: {report}")
    _end(results, as_json, broken)


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Say how to go on, if the study is interrupted."""
    from surgeon.studies.folder import UNDERWAY

    try:
        yield
    except KeyboardInterrupt:
        if (folder / UNDERWAY).exists():
            render.note(f"go on with: surgeon resume {folder}")
        raise


def is_study(folder: Path) -> bool:
    """Whether a study's folder is there, unfinished or not."""
    from surgeon.studies.folder import MARK, UNDERWAY

    return (folder / UNDERWAY).is_file() or (folder / MARK).is_file()


def resume_and_show(folder: Path, as_json: bool) -> None:
    """Go on with a study."""
    from surgeon.studies import resume_study

    with render.ProgressLines(folder.name) as progress, _resumable(folder):
        result = resume_study(folder, progress=progress)
    if not as_json:
        _show(result)
    _end([result], as_json)


def _show(result: StudyResult) -> None:
    """Findings, failures and where the files are."""
    total = sum(cell.status != "skipped" for cell in result.cells)
    render.line(f"{result.study.title}: {total} cells, {result.made} runs made now")
    for finding in result.findings:
        render.line(f"{finding.verdict}: {finding.claim}\n  {finding.sentence}")
    for (asked, found, hint), names in _failures(result).items():
        told = names[0] + (f"\n  and {len(names) - 1} more of the same" if names[1:] else "")
        render.note(f"failed: {told}\n  asked: {asked}\n  found: {found}\n  try:   {hint}")
    render.line(f"table: {result.folder / 'table.csv'}")
    render.line(f"picture: {result.folder / 'figure.png'}")
    if (result.folder / "report.html").exists():
        render.line(f"report: {result.folder / 'report.html'}")


def _failures(result: StudyResult) -> dict[tuple[str, str, str], list[str]]:
    """Each error of its cells once -> their names."""
    named: dict[tuple[str, str, str], list[str]] = {}
    for cell in result.failed:
        named.setdefault(cell.error or ("", "", ""), []).append(cell.name)
    return named


def _end(results: list[StudyResult], as_json: bool, broken: list[str] | None = None) -> None:
    """JSON, if asked for; exit code 1 if anything failed."""
    if as_json:
        told = [_told(result) for result in results]
        render.as_json(told[0] if len(told) == 1 and not broken else told)
    failed = sum(len(result.failed) for result in results)
    if failed or broken:
        parts = [f"{failed} cells failed"] if failed else []
        parts += [f"studies that did not run: {', '.join(broken)}"] if broken else []
        folder = next((r.folder for r in results if r.failed), None)
        hint = f"surgeon resume {folder} tries them again" if folder else "see above"
        raise StudyError("every cell's run", "; ".join(parts), hint)


def _told(result: StudyResult) -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "title": result.study.title,
        "made": result.made,
        "cells": [cell.to_dict(result.folder) for cell in result.cells],
        "findings": [finding.to_dict() for finding in result.findings],
    }


def _show_estimate(read: Study, settings: dict[str, Any], as_json: bool) -> None:
    """What the study would take, and what that was measured on."""
    from dataclasses import asdict

    from surgeon.studies.addresses import Setup
    from surgeon.studies.estimate import estimate

    setup = Setup(settings["device"], settings["dtype"], settings["threads"])
    found = estimate(read, settings["store"], setup)
    workers = min(settings["workers"], max(found.runs, 1))
    if as_json:
        render.as_json({**asdict(found), "seconds": found.seconds, "workers": workers})
        return
    render.line(
        f"{read.title}: {found.cells} cells, {found.made} made before, {found.runs} runs to make"
        + (f", {found.failed} that can't be" if found.failed else "")
    )
    if not found.groups:
        return
    render.table(
        ["model", "probe", "runs", "measured on", "load", "each", ""],
        [
            [
                g.model, g.probe, str(g.runs), f"{g.sampled} of {g.runs}", f"{g.load:.1f} s",
                "not known" if g.each is None else f"{g.each:.2f} s", g.trouble or "",
            ]
            for g in found.groups
        ],
    )  # fmt: skip
    if found.seconds is not None:
        total = found.seconds / workers
        shared = f", if {workers} workers don't slow each other" if workers > 1 else ""
        render.line(f"about {_duration(total)}{shared}; estimated from a few steps")
    if found.peak_bytes is not None:
        render.line(
            f"memory: {found.peak_bytes / 1e9:.1f} GB at most while measuring, for each worker"
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
