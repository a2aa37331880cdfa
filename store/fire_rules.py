"""What every engine keeps, says and refuses alike about schedules and fires."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.firing import MAX_SCHEDULES, Fire, FireOutcome

MAX_REMOVALS = 1_000
"""Removals of schedules that are remembered."""
STILL_RUNS = "an earlier instance is not over"
QUEUE_FULL = "the queue is full"
KEY_TAKEN = "the key is taken"
"""Reasons of a record that became SKIPPED in the store."""
REPLACED = "replaced by a later fire"
"""Note of an instance that had to make room."""

_MAKES = (FireOutcome.FIRED, FireOutcome.BACKFILLED, FireOutcome.TRIGGERED)


def check_fires(fires: Sequence[Fire]) -> None:
    """Raise ValueError for a call that is too large, or a fire that cannot be meant."""
    check_count(fires, "fires")
    for fire in fires:
        if (fire.instance is None) == (fire.outcome in _MAKES):
            needed = "needs an instance" if fire.instance is None else "takes no instance"
            raise ValueError(f"fire of {fire.schedule!r}: the outcome {fire.outcome.value!r} {needed}")


def check_count(items: Sequence[object], what: str) -> None:
    """Raise ValueError for more schedules or fires than one call may hold."""
    if len(items) > MAX_SCHEDULES:
        raise ValueError(f"a call holds at most {MAX_SCHEDULES} {what}, got {len(items)}")
