"""One worker of a study: a job a line on stdin; how far it is and how it ended on stdout.

It ends when its stdin does, as it does when the study's own process is killed: what runs then is
interrupted, and keeps its checkpoint.
"""

from __future__ import annotations

import _thread
import json
import os
import queue
import signal
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from surgeon.probe import Step

_SECONDS_BETWEEN = 0.5


class _Told:
    """Says how far a job is, now and then."""

    def __init__(self, answers: TextIO) -> None:
        self.answers, self.said = answers, 0.0

    def update(self, step: Step) -> None:
        now = time.monotonic()
        if now - self.said >= _SECONDS_BETWEEN:
            self.say({"share": step.progress, "text": step.text})
            self.said = now

    def say(self, message: dict[str, object]) -> None:
        try:
            self.answers.write(json.dumps(message) + "\n")
        except BrokenPipeError:  # nobody listens any more
            raise KeyboardInterrupt from None


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where it was ignored
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(lines, busy), daemon=True).start()
    warnings.filterwarnings("ignore", message="`torch.jit")  # torch's own, on import
    try:
        _work(lines, busy, _Told(answers))
    except KeyboardInterrupt:
        return 130
    return 0


def _listen(lines: queue.SimpleQueue[str | None], busy: threading.Event) -> None:
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)
    if busy.is_set():
        _thread.interrupt_main()


def _work(lines: queue.SimpleQueue[str | None], busy: threading.Event, told: _Told) -> None:
    import torch

    from surgeon.studies.jobs import Job, Loaded
    from surgeon.studies.workers import run_one

    loaded = Loaded()
    while (line := lines.get()) is not None:
        busy.set()
        job = Job.from_dict(json.loads(line))
        torch.set_num_threads(job.setup.threads)
        error = run_one(job, loaded, told)
        busy.clear()
        told.say({"error": error})


if __name__ == "__main__":
    sys.exit(main())
