"""The undo stack: last on, first off, always."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from surgeon.errors import RestoreError


class Handle:
    """What was applied, and can be undone.

    `remove()` undoes in reverse, goes on past a failing step, and may be called twice. As a context
    manager it removes on leaving.
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []
        self._on = True

    @property
    def active(self) -> bool:
        """Whether it is still on."""
        return self._on

    def undo_with(self, step: Callable[[], None]) -> None:
        """Add a step to run on removal, before all those added so far."""
        self._steps.append(step)

    def remove(self) -> None:
        """Undo everything.

        Raises:
            RestoreError: a step failed; all the others were undone.
        """
        self._on = False
        failures: list[Exception] = []
        while self._steps:
            step = self._steps.pop()
            try:
                step()
            except Exception as failure:
                failures.append(failure)
        if failures:
            listed = "; ".join(f"{type(f).__name__}: {f}" for f in failures)
            raise RestoreError(
                "undo a surgery",
                f"{len(failures)} steps failed: {listed}",
                "load the model anew; everything else was undone",
            ) from failures[0]

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()
