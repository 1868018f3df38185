"""What an inversion cost, in gradient evaluations."""

from __future__ import annotations

from dataclasses import dataclass

#: Shares of a gradient evaluation: a backward costs about two forwards, a JVP two as well.
FORWARD, BACKWARD, JVP = 1 / 3, 2 / 3, 2 / 3


@dataclass
class Ledger:
    """Counts work in gradient evaluations (GE).

    1 GE is a forward and a backward of the operated subject from the pixels to one site, by counted
    FLOPs; a part of it counts by its share, a batch of K columns K times.

    Attributes:
        unit: FLOPs of one forward from the pixels to the site.
        spent: gradient evaluations so far.

    >>> ledger = Ledger(unit=100)
    >>> ledger.gradient(); ledger.forward(flops=50)
    >>> round(ledger.spent, 3)
    1.167
    """

    unit: int
    spent: float = 0.0

    def gradient(self, flops: int | None = None, columns: int = 1) -> None:
        """One forward and one backward."""
        self._add(FORWARD + BACKWARD, flops, columns)

    def take(self, evaluations: float, flops: int) -> None:
        """Work counted elsewhere, in gradient evaluations of so many FLOPs."""
        self._add(evaluations, flops, 1)

    def forward(self, flops: int | None = None, columns: int = 1) -> None:
        self._add(FORWARD, flops, columns)

    def backward(self, flops: int | None = None, columns: int = 1) -> None:
        self._add(BACKWARD, flops, columns)

    def jvp(self, flops: int | None = None, columns: int = 1) -> None:
        """One Jacobian-vector product (the linearised forward alone)."""
        self._add(JVP, flops, columns)

    def _add(self, share: float, flops: int | None, columns: int) -> None:
        part = 1.0 if flops is None or not self.unit else flops / self.unit
        self.spent += share * part * columns
