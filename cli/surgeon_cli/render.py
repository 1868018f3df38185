"""Everything shown on a terminal. The only module that imports rich; consoles are made per call."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from surgeon.files import json_text

if TYPE_CHECKING:
    from surgeon.probe import Step
    from surgeon.registry import Entry


def as_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json_text(value, indent=2))


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A table on stdout; plain and unwrapped where stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for i, header in enumerate(headers):
        drawn.add_column(header, no_wrap=i == 0, overflow="fold")
    listed = [[str(cell) for cell in row] for row in rows]
    for row in listed:
        drawn.add_row(*[Text(cell) for cell in row])
    console = Console()
    if not console.is_terminal:
        wide = sum(max([len(r[i]) for r in listed] + [len(h)]) + 2 for i, h in enumerate(headers))
        console = Console(width=max(wide, 80), no_color=True)
    console.print(drawn)


def line(text: str = "") -> None:
    """Plain text on stdout."""
    print(text)


def note(text: str) -> None:
    """Something on the side, on stderr."""
    print(text, file=sys.stderr)


def broken(entry: Entry, cause: Exception) -> None:
    """That something a plugin registered was left out, on stderr."""
    reason = " ".join(str(cause).split())
    note(f"left out {entry.kind} {entry.name} of {entry.plugin} ({entry.distribution}): {reason}")


class ProgressLines:
    """Progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self.label, self.stream = label, stream or sys.stderr
        self.began = self.shown = time.monotonic()
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> ProgressLines:
        if self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"), console=Console(file=self.stream),
                transient=True,
            )  # fmt: skip
            self.task = self.bar.add_task(self.label, total=1.0, text="")
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, step: Step) -> None:
        """After a step."""
        self.at(step.progress, step.text, last=step.done)

    def at(self, progress: float, text: str, *, last: bool = False) -> None:
        """At a fraction of the whole."""
        if self.bar is not None:
            self.bar.update(self.task, completed=progress, text=text)
            return
        now = time.monotonic()
        if now - self.shown > 10 or last:
            left = (now - self.began) * (1 / max(progress, 1e-3) - 1)
            print(
                f"{self.label} {progress:4.0%}  {left:4.0f} s left  {text}",
                file=self.stream,
                flush=True,
            )
            self.shown = now
