"""Which job a worker takes next: those of the model it holds first."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable


class Schedule:
    """Jobs by number, grouped by what they share.

    Args:
        keys: of each job, the model it needs.
    """

    def __init__(self, keys: Iterable[Hashable]) -> None:
        self.groups: dict[Hashable, deque[int]] = {}
        for number, key in enumerate(keys):
            self.groups.setdefault(key, deque()).append(number)
        self._held: dict[int, Hashable] = {}

    def take(self, worker: int = 0) -> int | None:
        """The next job of a worker: of its model, of one nobody has, of the longest group; None."""
        waiting = {key: jobs for key, jobs in self.groups.items() if jobs}
        if not waiting:
            self._held.pop(worker, None)
            return None
        own = self._held.get(worker)
        if own not in waiting:
            others = {key for w, key in self._held.items() if w != worker}
            free = [key for key in waiting if key not in others]
            own = free[0] if free else max(waiting, key=lambda key: len(waiting[key]))
        self._held[worker] = own
        return waiting[own].popleft()

    def put_back(self, number: int, key: Hashable) -> None:
        """A job to be taken once more, before the others of its model."""
        self.groups[key].appendleft(number)
