"""The answers of the verb `run_now`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from .state import SINGLE, State


class RunNow(StrEnum):
    """What `run_now` did with a Scheduled instance."""

    DUE_NOW = "due now"
    """The instance was delayed. This call made it due."""
    WAS_DUE = "was due"
    """The instance was due already, and keeps its position in the queue."""
    PARKED = "parked"
    """The instance waits for the slot of its schedule, and is unchanged."""
    SUSPENDED = "suspended"
    """The instance waits for a signal, a time or children (`Record.wait`), or for its parent (`Record.open`)."""


RunNowAnswer = RunNow | State | None
"""The answer for one id: a state if the instance is not Scheduled, None if the id is unknown."""
STORED_ANSWERS: Mapping[int, RunNowAnswer] = {
    0: None,
    1: RunNow.DUE_NOW,
    2: RunNow.WAS_DUE,
    3: RunNow.PARKED,
    5: RunNow.SUSPENDED,
    **{int(state): state for state in SINGLE if state > State.SCHEDULED},
}
"""The answers by the numbers that the engines store."""
