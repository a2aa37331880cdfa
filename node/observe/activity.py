"""Counts the runs of this node, and adds the counts to the activity in the store, one sample for each slot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from peerjob.cluster.role import BackgroundRole
from peerjob.model.activity import Distribution
from peerjob.model.activity_sample import OTHER_KINDS, SLOT_US, ActivityRow, ActivitySample
from peerjob.model.clock import Clock, CorrectedTime
from peerjob.model.errors import StoreError, StoreUnavailableError
from peerjob.model.record import Ack, Action, Claim, Reaped
from peerjob.model.state import State
from peerjob.node.work.outcomes import Entry
from peerjob.store.base import Store

from .observer import Observer

logger = logging.getLogger("peerjob.node")

_BOUNDS = Distribution.BOUNDS
_BOUNDS_US = [round(bound * 1_000_000) for bound in _BOUNDS]
_BUCKETS = len(_BOUNDS) + 1
# each run needs these members, and Python finds a name of a module in a small part of the time
_COMPLETE, _REPORT, _DONE = Action.COMPLETE, Action.REPORT, Ack.DONE

MAX_COUNTED = 5_000
"""Most kinds that a node counts one by one in a slot. Callers that cancel can name kinds that no node runs."""
MAX_DELAY = 4.0
"""Nodes write their samples spread over this number of seconds after the end of a slot."""
MAX_WAITING = 6
"""Most samples that wait while the store does not answer. Above this number, the oldest is dropped."""
LAST_SAMPLE = 1.0
"""Most seconds that a stopping node waits for the write of its last sample."""


class _KindCounts:
    """The counts of one kind in the present slot; `durations` and `waits` are by bucket."""

    __slots__ = ("cancelled", "completed", "durations", "failed", "retried", "started", "waits")

    def __init__(self) -> None:
        self.started = self.completed = self.failed = self.retried = self.cancelled = 0
        self.durations, self.waits = [0] * _BUCKETS, [0] * _BUCKETS

    def row(self) -> ActivityRow:
        return ActivityRow(
            self.started,
            self.completed,
            self.failed,
            self.retried,
            self.cancelled,
            _without_tail(self.durations),
            _without_tail(self.waits),
        )


def _without_tail(counts: Sequence[int]) -> tuple[int, ...]:
    """The counts up to the last bucket that is not empty."""
    used = len(counts)
    while used and not counts[used - 1]:
        used -= 1
    return tuple(counts[:used])


class ActivityCounts(Observer):
    """Counts what happens on a node, by kind. It runs with every claim and commit."""

    def __init__(self) -> None:
        self._kinds: dict[str, _KindCounts] = {}
        self.counted = asyncio.Event()
        """Set while there are counts to take."""

    def begin(self) -> None:
        """Start anew; called in the event loop in which the node starts, since asyncio binds an event to one loop."""
        self._kinds = {}
        self.counted = asyncio.Event()

    def take(self) -> dict[str, ActivityRow]:
        """The counts since the last call."""
        kinds, self._kinds = self._kinds, {}
        self.counted.clear()
        return {kind: counts.row() for kind, counts in kinds.items()}

    def round_ended(
        self, seconds: float | None, entries: Sequence[Entry], acks: Sequence[Ack], claims: Sequence[Claim]
    ) -> None:
        kinds = self._kinds
        for (run, outcome), ack in zip(entries, acks, strict=True):
            kind, action = run.claim.kind, outcome.action
            if action is _REPORT:
                continue
            counts = kinds.get(kind) or self._counts_of(kind)
            if run.seconds is not None:
                counts.durations[bisect_left(_BOUNDS, run.seconds)] += 1
            if ack is not _DONE:
                continue
            if action is _COMPLETE:
                counts.completed += 1
            elif action is Action.TERMINATE or action is Action.TIME_OUT:
                counts.failed += 1
            elif action is Action.RETRY:
                counts.retried += 1
            elif action is Action.CANCEL:
                counts.cancelled += 1
        for claim in claims:
            counts = kinds.get(claim.kind) or self._counts_of(claim.kind)
            counts.started += 1
            counts.waits[bisect_left(_BOUNDS_US, claim.at_us - claim.due_us)] += 1

    def cancelled(self, kind: str) -> None:
        self._counts_of(kind).cancelled += 1

    def reaped(self, reaped: Sequence[Reaped]) -> None:
        for claim in reaped:
            if claim.state is State.TERMINATED:
                self._counts_of(claim.kind).failed += 1

    def _counts_of(self, kind: str) -> _KindCounts:
        counts = self._kinds.get(kind)
        if counts is None:
            if len(self._kinds) >= MAX_COUNTED and kind != OTHER_KINDS:
                return self._counts_of(OTHER_KINDS)
            counts = self._kinds[kind] = _KindCounts()
            self.counted.set()
        return counts


class ActivitySampler(BackgroundRole):
    """Adds the counts of each slot to the store, after the slot. A node on which nothing happens writes nothing."""

    name = "activity"

    def __init__(self, clock: Clock, store: Store, counts: ActivityCounts, time: CorrectedTime) -> None:
        super().__init__(clock)
        counts.begin()
        self._store = store
        self._counts = counts
        self._time = time
        self._waiting: deque[ActivitySample] = deque(maxlen=MAX_WAITING)

    async def run(self) -> None:
        while True:
            if not self._waiting:
                await self._counts.counted.wait()
            slot, left_us = divmod(self._time.time_us(), SLOT_US)
            await asyncio.sleep((SLOT_US - left_us) / 1_000_000)
            self._take(slot)
            await asyncio.sleep(self.clock.random.uniform(0, MAX_DELAY))
            try:
                await self._write()
            except StoreUnavailableError as error:
                # the other roles report the outage; the samples are written after the next slot
                self.failures += 1
                logger.debug("a sample of activity waits: %s", error)

    async def stop(self) -> None:
        """Stop, and write the counts of the present slot."""
        await super().stop()
        self._take(self._time.time_us() // SLOT_US)
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LAST_SAMPLE):
                await self._write()

    def _take(self, slot: int) -> None:
        if self._counts.counted.is_set() and self._time.is_known:
            self._waiting.append(ActivitySample(slot, self._counts.take()))

    async def _write(self) -> None:
        while self._waiting:
            await self._store.add_activity(self._waiting[0])
            self._waiting.popleft()
