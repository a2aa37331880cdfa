"""Whether a loop still gets anywhere: what tells a loop that waits or is refused from one that hangs."""

from __future__ import annotations

from peerjob.model.clock import Clock


class Watchdog:
    """Beats once for each turn of a loop; may be asked from another thread.

    `patience` is how many seconds a turn may take at most while whoever it depends on answers; None: its waits have no
    bound, and nobody can tell.
    """

    def __init__(self, clock: Clock, patience: float | None) -> None:
        self._clock = clock
        self.patience = patience
        self._last = clock.elapsed()

    def beat(self) -> None:
        """A turn has come to its end."""
        self._last = self._clock.elapsed()

    def missing(self, since: float = 0.0) -> float:
        """Seconds without a beat, counted from a moment of the clock at the earliest."""
        return max(0.0, self._clock.elapsed() - max(self._last, since))

    def stopped(self, since: float = 0.0) -> bool:
        """Whether it has not beaten for longer than its patience, counted from that moment at the earliest."""
        return self.patience is not None and self.missing(since) > self.patience
