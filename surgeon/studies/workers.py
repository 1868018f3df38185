"""Running jobs: in this process, or in several, each with one model in memory at a time."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Protocol

from surgeon.errors import SurgeonError
from surgeon.studies.jobs import Job, Loaded, make_run
from surgeon.studies.schedule import Schedule
from surgeon.threads import threads

if TYPE_CHECKING:
    from surgeon.probe import Step

_COMMAND = (sys.executable, "-m", "surgeon.studies.worker")
#: An interrupted worker saves a checkpoint after at most one step; one that hangs is ended.
_GRACE_SECONDS = 60.0

#: The three lines of an error.
Lines = tuple[str, str, str]


class Watch(Protocol):
    """What is told how the jobs go, by their numbers."""

    def at(self, number: int, share: float, text: str) -> None:
        """A job is this far."""

    def ended(self, number: int, error: Lines | None) -> None:
        """A job's run is made, or failed."""


def run_jobs(jobs: Sequence[Job], workers: int, watch: Watch) -> None:
    """Run every job; one that fails costs itself alone.

    Args:
        workers: how many processes; 1: this one.

    Raises:
        KeyboardInterrupt: what had ended is kept, and what was running has its checkpoints.
    """
    schedule = Schedule(job.model for job in jobs)
    if workers <= 1 or len(jobs) <= 1:
        _run_here(jobs, schedule, watch)
    else:
        _Crew(jobs, schedule, watch).run(min(workers, len(jobs)))


def _run_here(jobs: Sequence[Job], schedule: Schedule, watch: Watch) -> None:
    loaded = Loaded()
    while (number := schedule.take()) is not None:
        job = jobs[number]
        with threads(job.setup.threads):
            watch.ended(number, run_one(job, loaded, _Share(watch, number)))


class _Share:
    """Tells a watch of the steps of one job."""

    def __init__(self, watch: Watch, number: int) -> None:
        self.watch, self.number = watch, number

    def update(self, step: Step) -> None:
        self.watch.at(self.number, step.progress, step.text)


def run_one(job: Job, loaded: Loaded, progress: Any) -> Lines | None:
    """Make a job's run; the three lines of what went wrong, if something did."""
    try:
        make_run(job, loaded, progress)
    except SurgeonError as error:
        return error.asked, error.found, error.hint
    except Exception as error:  # a bug, of a plugin perhaps: it costs this run, and is shown whole
        traceback.print_exc()
        found = " ".join(f"{type(error).__name__}: {error}".split())
        return f"run {job.probe}", found, "report this as a bug, with the traceback"
    return None


class _Worker:
    """One worker process: a job a line on its stdin, what it says of it on its stdout."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C comes to this process, which hands it on, once.
        self.process = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self.job: int | None = None
        self._rest = b""

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def give(self, number: int, job: Job) -> None:
        assert self.process.stdin is not None
        self.job = number
        with suppress(BrokenPipeError):  # its end is seen on its stdout
            self.process.stdin.write(json.dumps(job.to_dict()).encode() + b"\n")
            self.process.stdin.flush()

    def heard(self) -> list[dict[str, Any]] | None:
        """What it said, None once it has ended."""
        chunk = os.read(self.stdout.fileno(), 1 << 16)
        if not chunk:
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """No further job."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.stdout.close()


class _Crew:
    """Several workers and what they are at."""

    def __init__(self, jobs: Sequence[Job], schedule: Schedule, watch: Watch) -> None:
        self.jobs, self.schedule, self.watch = jobs, schedule, watch
        self.workers: dict[int, _Worker] = {}
        self.lost: set[int] = set()
        self.selector = selectors.DefaultSelector()

    def run(self, count: int) -> None:
        try:
            for seat in range(count):
                self._next(seat)
            while self.workers:
                for key, _ in self.selector.select():
                    self._listen(key.data)
        except BaseException:
            self._stop()
            raise
        finally:
            self.selector.close()

    def _next(self, seat: int) -> None:
        """Give a seat's worker its next job; it leaves where there is none."""
        number = self.schedule.take(seat)
        worker = self.workers.get(seat)
        if number is None:
            if worker is not None:
                self._leave(seat)
            return
        if worker is None:
            worker = self.workers[seat] = _Worker()
            self.selector.register(worker.stdout, selectors.EVENT_READ, seat)
        worker.give(number, self.jobs[number])

    def _listen(self, seat: int) -> None:
        worker = self.workers[seat]
        heard = worker.heard()
        if heard is None:
            self._lost(seat)
            return
        for message in heard:
            assert worker.job is not None
            if "share" in message:
                self.watch.at(worker.job, message["share"], message["text"])
            else:
                error = message["error"]
                self.watch.ended(worker.job, tuple(error) if error else None)
                self._next(seat)

    def _lost(self, seat: int) -> None:
        """A worker died. Its job is tried once more, from its checkpoint; then it has failed."""
        number = self.workers[seat].job
        self._leave(seat)
        assert number is not None
        code = self.code
        if number in self.lost:
            job = self.jobs[number]
            cause = f"signal {-code}" if code < 0 else f"exit code {code}"
            found = f"its process ended twice, by {cause}; out of memory, perhaps"
            self.watch.ended(number, (f"run {job.probe}", found, "fewer --workers"))
        else:
            self.lost.add(number)
            self.schedule.put_back(number, self.jobs[number].model)
        self._next(seat)

    def _leave(self, seat: int) -> None:
        worker = self.workers.pop(seat)
        self.selector.unregister(worker.stdout)
        worker.close()
        self.code = worker.process.returncode

    def _stop(self) -> None:
        """Interrupt every worker, and wait for its checkpoint."""
        for worker in self.workers.values():
            with suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGINT)
        until = time.monotonic() + _GRACE_SECONDS
        for worker in self.workers.values():
            try:
                worker.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
            worker.close()
        self.workers.clear()
