"""Clocks of a machine that differ from its time: set wrong, or moved on by a test."""

from peerjob.model.clock import SystemClock


class ShiftedClock(SystemClock):
    """The system's clock, but so many seconds ahead of it (behind, where negative); its monotonic time is right."""

    def __init__(self, ahead: float) -> None:
        super().__init__()
        self._ahead_us = round(ahead * 1_000_000)

    def time_us(self) -> int:
        return super().time_us() + self._ahead_us


class MovedClock(SystemClock):
    """The system's clock; a test moves its monotonic time on."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0.0

    def elapsed(self) -> float:
        return super().elapsed() + self.moved
