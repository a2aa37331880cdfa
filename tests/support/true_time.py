"""The machine's time in processes whose own clock a test sets wrong."""

import os
import time

OFFSET = "TRUE_TIME_OFFSET_NS"
"""The variable with the difference between the machine's wall clock and its monotonic clock, which no test sets."""


def offset_ns() -> int:
    """The difference, as a process whose clock is right knows it."""
    return time.time_ns() - time.monotonic_ns()


def true_us() -> int:
    """Microseconds of the machine's clock, also in a process under libfaketime."""
    offset = os.environ.get(OFFSET)
    return (time.time_ns() if offset is None else time.monotonic_ns() + int(offset)) // 1000
