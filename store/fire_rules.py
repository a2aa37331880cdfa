"""Limits, texts and checks of schedules and fires, the same in each engine."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.firing import MAX_SCHEDULES, Fire, FireOutcome

MAX_REMOVALS = 1_000
"""The store remembers this many removals of schedules; a reader that missed more removals loads all schedules again."""
STILL_RUNS = "an earlier instance is not over"
QUEUE_FULL = "the queue is full"
KEY_TAKEN = "the key is taken"
"""STILL_RUNS, QUEUE_FULL and KEY_TAKEN are the reasons in the record of a fire that the store skipped."""
REPLACED = "replaced by a later fire"
"""The note of an instance that a later fire cancelled, because the schedule has the overlap policy REPLACE."""

_MAKES_INSTANCE = (FireOutcome.FIRED, FireOutcome.BACKFILLED, FireOutcome.TRIGGERED)


def check_fires(fires: Sequence[Fire]) -> None:
    """Raise ValueError if the call is too large, or if a fire has an instance that does not fit its outcome."""
    check_count(fires, "fires")
    for fire in fires:
        if (fire.instance is None) == (fire.outcome in _MAKES_INSTANCE):
            needed = "needs an instance" if fire.instance is None else "takes no instance"
            raise ValueError(f"fire of {fire.schedule!r}: the outcome {fire.outcome.value!r} {needed}")


def check_count(items: Sequence[object], what: str) -> None:
    """Raise ValueError if one call has too many schedules or fires."""
    if len(items) > MAX_SCHEDULES:
        raise ValueError(f"a call holds at most {MAX_SCHEDULES} {what}, got {len(items)}")
