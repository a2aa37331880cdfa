"""How changes are written: many at once, each of them whole or not at all.

Every change of an instance is one step with its own compares, so that a conflict costs that instance and no other.
What speaks of all of them (counters, the answers to a request, who is to be told) goes along if every step was
applied; after a conflict it follows in a request of its own, for those that were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from peerjob.errors import StoreUnavailableError

from .base import (
    MAX_COMPARES,
    MAX_REQUEST_BYTES,
    MAX_STEP_OPS,
    MAX_STEPS,
    Applied,
    Compare,
    Entry,
    Found,
    KeyValue,
    Op,
    Range,
    Step,
)
from .counts import SLOTS, Counts, Lane, Shift
from .journal import Journal
from .keys import Keys, prefix_end
from .queues import Queues

ROUNDS = 8
"""How often a conflict is met again before a call gives up."""
_PASSING_US = 600_000_000
_PLAIN_OPS = 100


class Change(msgspec.Struct, gc=False):
    """One step, and what goes with it."""

    compares: Sequence[Compare]
    ops: Sequence[Op]
    shifts: tuple[Shift, ...] = ()
    adds: tuple[tuple[str, str], ...] = ()
    """Queue and place of entries that `ops` put there; the writer adds the guards."""
    reads: tuple[Range, ...] = ()
    answers: tuple[tuple[int, str], ...] = ()
    """Which elements of the caller's batch it answers, and with what."""
    size: int = 0
    """Bytes of its large values."""


class Written(msgspec.Struct):
    """What became of a batch of changes."""

    revisions: list[int]
    """Per change the revision of its writes; 0: a compare did not hold and nothing was done."""
    reads: list[Sequence[Found]]
    idle: Sequence[tuple[str, Entry]] = ()
    """Incarnations that wait for work, as of the last write."""
    listeners: Sequence[tuple[str, Entry]] = ()
    """Incarnations that want to hear of every change."""


class Writer:
    """Writes changes in requests that a server takes."""

    def __init__(self, kv: KeyValue, keys: Keys, counts: Counts, queues: Queues, url: str) -> None:
        self._kv = kv
        self._counts = counts
        self._queues = queues
        self._url = url
        self._news = (
            Range(keys.idle, prefix_end(keys.idle)),
            Range(keys.changes, prefix_end(keys.changes)),
        )
        self.doubt = False
        """Whether something may not have been counted, since an answer never came."""
        self._passing = 0
        self._passing_until_us = 0

    async def passing(self, now_us: int) -> int:
        """A lease for keys that may be forgotten after five to ten minutes."""
        if now_us >= self._passing_until_us or now_us < self._passing_until_us - _PASSING_US:
            self._passing = await self._kv.grant(_PASSING_US)
            self._passing_until_us = now_us + _PASSING_US // 2
        return self._passing

    async def plain(self, ops: Sequence[Op]) -> None:
        """Do what depends on nothing, in as many requests as it takes."""
        for at in range(0, len(ops), _PLAIN_OPS):
            await self._kv.txn([Step([], ops[at : at + _PLAIN_OPS])])

    async def write(
        self,
        changes: Sequence[Change],
        *,
        now_us: int,
        journal: Journal | None = None,
        along: Sequence[Op] = (),
    ) -> Written:
        """Write each change whose compares hold; `along` goes with the first request."""
        written = Written([], [])
        extra = list(along)
        for part in _parts(changes):
            answer = await self._write_part(part, now_us, journal, extra, written)
            if answer is not None:
                written.idle, written.listeners = answer[0].items, answer[1].items
            extra = []
        return written

    async def _write_part(
        self,
        part: Sequence[Change],
        now_us: int,
        journal: Journal | None,
        along: list[Op],
        written: Written,
    ) -> Sequence[Found] | None:
        guards = await self._guards(part)
        common = [journal.guard()] if journal is not None and journal.guarded else []
        steps = [
            Step(
                [*change.compares, *common, *(guards[queue] for queue, _ in change.adds)],
                change.ops,
                change.reads,
            )
            for change in part
        ]
        lease = 0 if journal is None else await self.passing(now_us)
        lane = self._counts.lane()
        try:
            shifts = _summed(part)
            await self._counts.load(lane, shifts)
            also = self._also(part, shifts, lane, journal, lease, along)
            try:
                applied = await self._kv.txn(steps, also)
            except BaseException:
                self.doubt = True
                lane.refused()
                raise
            if applied.also is not None:
                lane.written(applied.revision)
                if journal is not None:
                    journal.written(applied.revision)
            else:
                lane.refused()
        finally:
            self._counts.give_back(lane)
        self._note(applied, part, written)
        news = applied.also
        if news is None:
            self._queues.forget(guards)
            done = [change for change, answer in zip(part, applied.steps, strict=True) if answer is not None]
            news = await self._settle(done, journal, lease, along)
        return news

    async def _guards(self, part: Sequence[Change]) -> dict[str, Compare]:
        places: dict[str, str] = {}
        for change in part:
            for queue, place in change.adds:
                known = places.get(queue)
                if known is None or place < known:
                    places[queue] = place
        if not places:
            return {}
        await self._queues.lower(places)
        return {queue: self._queues.guard(queue, place) for queue, place in places.items()}

    def _also(
        self,
        changes: Sequence[Change],
        shifts: dict[str, list[int]],
        lane: Lane,
        journal: Journal | None,
        lease: int,
        along: Sequence[Op],
    ) -> Step:
        compares, puts = lane.plan(shifts)
        ops: list[Op] = [*puts, *along]
        if journal is not None:
            ops.append(journal.put((pair for change in changes for pair in change.answers), lease))
        return Step(compares, ops, self._news)

    async def _settle(
        self,
        done: Sequence[Change],
        journal: Journal | None,
        lease: int,
        along: Sequence[Op],
    ) -> Sequence[Found] | None:
        """Write what goes along with the changes that were applied."""
        if not done and not along:
            return None
        shifts = _summed(done)
        for _ in range(4 * ROUNDS):
            lane, crowded = self._counts.lane(), True
            self.doubt, before = True, self.doubt
            try:
                await self._counts.load(lane, shifts)
                applied = await self._kv.txn([], self._also(done, shifts, lane, journal, lease, along))
                if applied.also is not None:
                    lane.written(applied.revision)
                    if journal is not None:
                        journal.written(applied.revision)
                    crowded, self.doubt = False, before
                    return applied.also
                self.doubt = before
                lane.refused()
            finally:
                self._counts.give_back(lane, crowded=crowded)
        raise StoreUnavailableError(self._url, "too many writers at once")

    def _note(self, applied: Applied, part: Sequence[Change], written: Written) -> None:
        for answer in applied.steps:
            written.revisions.append(0 if answer is None else applied.revision)
            written.reads.append(() if answer is None else answer)


def _parts(changes: Sequence[Change]) -> Iterable[Sequence[Change]]:
    """Cut a batch into requests, by number of steps, of compares, of operations and of bytes."""
    start, size, compares = 0, 0, 0
    shared: set[str] = set()
    for at, change in enumerate(changes):
        heavy = len(change.ops) > MAX_STEP_OPS
        compares += len(change.compares)
        size += change.size
        shared.update(queue for queue, _ in change.adds)
        shared.update(kind for kind, _, _ in change.shifts)
        over = at - start == MAX_STEPS or size > MAX_REQUEST_BYTES or compares + len(shared) > MAX_COMPARES
        if at > start and (over or heavy):
            yield changes[start:at]
            start, size, compares = at, change.size, len(change.compares)
            shared = {queue for queue, _ in change.adds} | {kind for kind, _, _ in change.shifts}
        if heavy:
            yield changes[start : at + 1]
            start, size, compares = at + 1, 0, 0
            shared = set()
    if start < len(changes):
        yield changes[start:]


def _summed(changes: Iterable[Change]) -> dict[str, list[int]]:
    sums: dict[str, list[int]] = {}
    for change in changes:
        for kind, slot, more in change.shifts:
            known = sums.get(kind)
            if known is None:
                known = sums[kind] = [0] * SLOTS
            known[slot] += more
    return sums
