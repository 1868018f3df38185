"""A pool of worker processes: each takes names one by one; one that dies costs its own name."""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

_COMMAND = (sys.executable, "-m", "surgeon.compat.worker")
_START_SECONDS = 180.0  # importing every library, cold, on a busy machine


class WorkerLost(Exception):  # noqa: N818  it is told, not raised to users
    """A worker crashed or hung; says which."""


class Worker:
    """One worker process.

    Args:
        command: what starts it; it answers "ready", then one line a name.
        timeout: seconds a name may take.
    """

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        self.timeout = timeout
        self._buffer = b""
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        self.ready = False

    def ask(self, name: str) -> dict[str, Any]:
        """One name's finding.

        Raises:
            WorkerLost: it crashed, or took longer than it may; the process is gone either way.
        """
        assert self.process.stdin is not None
        if not self.ready:
            self._line(_START_SECONDS)
            self.ready = True
        with suppress(BrokenPipeError):
            self.process.stdin.write(name.encode() + b"\n")
            self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self._line(self.timeout))
        return found

    def _line(self, timeout: float) -> bytes:
        assert self.process.stdout is not None
        number = self.process.stdout.fileno()
        while b"\n" not in self._buffer:
            if not select.select([number], [], [], timeout)[0]:
                self.stop()
                raise WorkerLost(f"hung: no answer in {timeout:g} s")
            chunk = os.read(number, 1 << 16)
            if not chunk:
                self.stop()
                raise WorkerLost(f"crashed: its process ended with {self.process.returncode}")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def stop(self) -> None:
        """End the process, if it has not ended."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        if self.process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def sweep(
    names: Sequence[str],
    *,
    processes: int = 2,
    timeout: float = 300.0,
    command: Sequence[str] = _COMMAND,
) -> Iterator[dict[str, Any]]:
    """Findings as they come, in no order; one for every name.

    Args:
        names: "source/architecture" each.
        processes: how many workers.
        timeout: seconds one name may take.
        command: what starts a worker; tests give another.
    """
    crew = _Crew(lambda: Worker(command, timeout))
    for name in names:
        crew.waiting.put(name)
    threads = [
        threading.Thread(target=crew.serve) for _ in range(max(1, min(processes, len(names))))
    ]
    for thread in threads:
        thread.start()
    try:
        ended = 0
        while ended < len(threads):
            finding = crew.done.get()
            if finding is None:
                ended += 1
            else:
                yield finding
    finally:
        crew.leave()
        for thread in threads:
            thread.join()


class _Crew:
    """What the threads of one sweep share: each feeds a worker of its own."""

    def __init__(self, start: Callable[[], Worker]) -> None:
        self.start = start
        self.waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.leaving = threading.Event()
        self.workers: list[Worker] = []

    def serve(self) -> None:
        """Feed one worker until no name is left, starting another where it is lost."""
        worker: Worker | None = None
        while not self.leaving.is_set():
            try:
                name = self.waiting.get_nowait()
            except queue.Empty:
                break
            try:
                if worker is None:
                    worker = self.start()
                    self.workers.append(worker)
                self.done.put(worker.ask(name))
            except (
                WorkerLost,
                OSError,
                ValueError,
            ) as error:  # an answer that is none costs it too
                if worker is not None:
                    worker.stop()
                worker = None
                self.done.put({"name": name, "error": str(error)})
        if worker is not None:
            worker.stop()
        self.done.put(None)

    def leave(self) -> None:
        """End every worker at once, whatever it is at."""
        self.leaving.set()
        for worker in list(self.workers):
            if worker.process.poll() is None:
                worker.process.kill()
