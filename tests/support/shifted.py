"""A machine's clock that was set wrong."""

from peerjob.model.clock import SystemClock


class ShiftedClock(SystemClock):
    """The system's clock, but so many seconds ahead of it (behind, where negative); its monotonic time is right."""

    def __init__(self, ahead: float) -> None:
        super().__init__()
        self._ahead_us = round(ahead * 1_000_000)

    def time_us(self) -> int:
        return super().time_us() + self._ahead_us
