"""Reads the activity of the namespace for the callers of this node, and sums it up by kind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from peerjob.model.activity import Activity, Distribution, KindActivity
from peerjob.model.activity_sample import OTHER_KINDS, SLOT_US, ActivityRow, ActivitySample
from peerjob.model.clock import CorrectedTime, to_datetime
from peerjob.store.base import Store

SLOTS_A_MINUTE = 60_000_000 // SLOT_US
LAG_US = 5_000_000
"""A slot is shown this long after its end: nodes write their samples within `activity.MAX_DELAY` seconds."""
ROWS_AT_ONCE = 2_000
"""Rows that are added up before other tasks of the event loop run: about 2 ms of work."""


class ActivityReader:
    """Reads the store at most once for each slot, for any number of callers who ask for the same minutes."""

    def __init__(self, store: Store, time: CorrectedTime) -> None:
        self._store = store
        self._time = time
        self._reading = asyncio.Lock()
        self._latest: tuple[int, int, Activity] | None = None
        """The first and the last slot of the latest answer, and this answer."""

    async def read(self, minutes: int) -> Activity:
        """The activity of the last minutes."""
        async with self._reading:
            last = (self._time.time_us() - LAG_US) // SLOT_US - 1
            first = last + 1 - minutes * SLOTS_A_MINUTE
            if self._latest is None or self._latest[:2] != (first, last):
                samples = await self._store.activity(first, last)
                self._latest = (first, last, await _activity_of(samples, first, last))
            return self._latest[2]


async def _activity_of(samples: Sequence[ActivitySample], first: int, last: int) -> Activity:
    steps = last + 1 - first
    sums = {OTHER_KINDS: _KindSum(steps)}
    rows = 0
    for sample in samples:
        rows += len(sample.rows)
        if rows > ROWS_AT_ONCE:
            rows = 0
            await asyncio.sleep(0)
        for kind, row in sample.rows.items():
            found = sums.get(kind)
            if found is None:
                found = sums[kind] = _KindSum(steps)
            found.add(sample.slot - first, row)
    others = sums.pop(OTHER_KINDS)
    return Activity(
        start=to_datetime(first * SLOT_US),
        step=timedelta(microseconds=SLOT_US),
        kinds={kind: sums[kind].total() for kind in sorted(sums)},
        others=others.total(),
    )


class _KindSum:
    """The counts of one kind: a number for each step, and the times of all steps."""

    def __init__(self, steps: int) -> None:
        self._started = [0] * steps
        self._completed = [0] * steps
        self._failed = [0] * steps
        self._retried = [0] * steps
        self._cancelled = [0] * steps
        self._durations = list(Distribution().counts)
        self._waits = list(Distribution().counts)

    def add(self, step: int, row: ActivityRow) -> None:
        self._started[step] += row.started
        self._completed[step] += row.completed
        self._failed[step] += row.failed
        self._retried[step] += row.retried
        self._cancelled[step] += row.cancelled
        _add(self._durations, row.durations)
        _add(self._waits, row.waits)

    def total(self) -> KindActivity:
        return KindActivity(
            started=tuple(self._started),
            completed=tuple(self._completed),
            failed=tuple(self._failed),
            retried=tuple(self._retried),
            cancelled=tuple(self._cancelled),
            durations=Distribution(tuple(self._durations)),
            waits=Distribution(tuple(self._waits)),
        )


def _add(counts: list[int], more: Sequence[int]) -> None:
    for bucket, count in enumerate(more[: len(counts)]):
        if count:
            counts[bucket] += count
