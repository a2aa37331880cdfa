"""Decides what to do about nominal times that no leader fired in time. Pure functions, without I/O.

A nominal time is *on time* for one second, or for half of the time until the next nominal time if that is longer, but
for a minute at most. After that it is *late*. Example: the leader dies on the hour. An hourly job then runs a few
seconds later, with any `misfire` policy. But a job of every second misses most times of a minute without leader.
"""

from __future__ import annotations

from bisect import bisect_left

import msgspec

from peerjob.model.definition import Definition
from peerjob.model.firing import FireOutcome
from peerjob.model.recurrence import Recurrence

MIN_TOLERANCE_US = 1_000_000
MAX_TOLERANCE_US = 60_000_000


class MisfireStep(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of the first nominal times that have no record, and the next nominal time after them."""

    outcome: FireOutcome
    nominal_us: int
    until_us: int
    """The last nominal time that the step covers; equal to `nominal_us` if the step covers only one time."""
    count: int
    next_us: int | None
    reason: str = ""


def next_step(definition: Definition, recurrence: Recurrence, next_us: int, now_us: int) -> MisfireStep | None:
    """The first step for the nominal times from `next_us` until now; None if `next_us` is in the future.

    Call it again with the `next_us` of the step until it returns None: then each nominal time belongs to one step.
    `next_us` counts as a nominal time even if the recurrence no longer contains it.
    """
    if now_us < next_us:
        return None
    deadline_us = definition.start_deadline_us
    if deadline_us is not None and now_us - next_us > deadline_us:
        return _stretch(FireOutcome.MISSED, recurrence, next_us, now_us - deadline_us - 1, "start deadline")
    if now_us - next_us <= MIN_TOLERANCE_US:
        return _fired(recurrence, next_us)
    timely_us = _first_timely(recurrence, next_us, now_us)
    if timely_us == next_us:
        return _fired(recurrence, next_us)
    late_us = max(next_us, recurrence.latest_at(now_us if timely_us is None else timely_us - 1) or 0)
    if definition.misfire == "skip":
        return _stretch(FireOutcome.MISSED, recurrence, next_us, late_us, "misfire skip")
    if definition.misfire == "run_all":
        return _made_up(recurrence, next_us, late_us, definition.misfire_limit)
    if timely_us is not None:
        return _stretch(FireOutcome.COALESCED, recurrence, next_us, late_us)
    if late_us == next_us:
        return _fired(recurrence, next_us)
    return _stretch(FireOutcome.COALESCED, recurrence, next_us, late_us - 1)


def _first_timely(recurrence: Recurrence, next_us: int, now_us: int) -> int | None:
    """The first nominal time from `next_us` on that is on time now. All later times are on time, too."""
    recent_us = recurrence.next_after(max(next_us, now_us - MIN_TOLERANCE_US) - 1)
    if recent_us is not None and recent_us <= now_us:
        return recent_us
    # the last second has no nominal time: only the latest nominal time can still be on time, because each one is late
    # half-way to the next one
    latest_us = max(next_us, recurrence.latest_at(now_us) or 0)
    following_us = recurrence.next_after(latest_us)
    gap_us = 2 * MAX_TOLERANCE_US if following_us is None else following_us - latest_us
    tolerance_us = min(max(gap_us // 2, MIN_TOLERANCE_US), MAX_TOLERANCE_US)
    return latest_us if now_us - latest_us <= tolerance_us else None


def _fired(recurrence: Recurrence, nominal_us: int) -> MisfireStep:
    return MisfireStep(
        outcome=FireOutcome.FIRED,
        nominal_us=nominal_us,
        until_us=nominal_us,
        count=1,
        next_us=recurrence.next_after(nominal_us),
    )


def _stretch(
    outcome: FireOutcome, recurrence: Recurrence, first_us: int, limit_us: int, reason: str = ""
) -> MisfireStep:
    """One step for all nominal times from the first one up to a limit."""
    last_us = max(first_us, recurrence.latest_at(limit_us) or 0)
    return MisfireStep(
        outcome=outcome,
        nominal_us=first_us,
        until_us=last_us,
        count=1 + recurrence.count(first_us, last_us),
        next_us=recurrence.next_after(last_us),
        reason=reason,
    )


def _made_up(recurrence: Recurrence, next_us: int, late_us: int, limit: int) -> MisfireStep:
    """Fire one missed time; if more than the limit are missed, drop the oldest ones first."""
    if recurrence.count(next_us, late_us) < limit:
        return _fired(recurrence, next_us)
    # search for the last moment that at least `limit` nominal times follow, so that only older times are dropped
    moments = range(next_us, late_us)
    dropped = bisect_left(moments, True, key=lambda moment_us: recurrence.count(moment_us, late_us) < limit)
    return _stretch(FireOutcome.MISSED, recurrence, next_us, next_us + dropped - 1, "misfire limit")
