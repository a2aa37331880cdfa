"""Reads the activity of the namespace for the callers of this node, and sums it up by kind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from heapq import nsmallest
from itertools import chain, islice, zip_longest

from peerjob.model.activity import Activity, Distribution, KindActivity
from peerjob.model.activity_sample import MAX_SAMPLED_KINDS, OTHER_KINDS, SLOT_US, ActivityRow, ActivitySample
from peerjob.model.clock import CorrectedTime, to_datetime
from peerjob.store.base import Store

SLOTS_A_MINUTE = 60_000_000 // SLOT_US
LAG_US = 5_000_000
"""A slot is shown this long after its end: nodes write their samples within `activity.MAX_DELAY` seconds."""
STEPS_BATCH = 10
"""Steps after which other tasks of the event loop run."""

_Row = tuple[int, ActivityRow]
"""The number of a step, and the counts of a kind in this step."""


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
    rows: dict[str, list[_Row]] = {OTHER_KINDS: []}
    events = Counter[str]()
    for sample in samples:
        step = sample.slot - first
        if step % STEPS_BATCH == 0:
            await asyncio.sleep(0)
        for kind, row in sample.rows.items():
            rows.setdefault(kind, []).append((step, row))
            events[kind] += row.events
    others = rows.pop(OTHER_KINDS)
    # the slots together can have many more kinds than each of them
    shown = nsmallest(MAX_SAMPLED_KINDS, rows, key=lambda kind: (-events[kind], kind))
    others += chain.from_iterable(rows.pop(kind) for kind in rows.keys() - set(shown))
    kinds: dict[str, KindActivity] = {}
    for kind in sorted(shown):
        kinds[kind] = _sum(rows[kind], last + 1 - first)
        await asyncio.sleep(0)
    return Activity(
        start=to_datetime(first * SLOT_US),
        step=timedelta(microseconds=SLOT_US),
        kinds=kinds,
        others=_sum(others, last + 1 - first),
    )


def _sum(rows: Sequence[_Row], steps: int) -> KindActivity:
    started, completed, failed, retried, cancelled = ([0] * steps for _ in range(5))
    for step, row in rows:
        started[step] += row.started
        completed[step] += row.completed
        failed[step] += row.failed
        retried[step] += row.retried
        cancelled[step] += row.cancelled
    return KindActivity(
        started=tuple(started),
        completed=tuple(completed),
        failed=tuple(failed),
        retried=tuple(retried),
        cancelled=tuple(cancelled),
        durations=_distribution(row.durations for _, row in rows),
        waits=_distribution(row.waits for _, row in rows),
    )


def _distribution(counts: Iterable[tuple[int, ...]]) -> Distribution:
    sums = map(sum, zip_longest(Distribution().counts, *counts, fillvalue=0))
    return Distribution(tuple(islice(sums, len(Distribution().counts))))
