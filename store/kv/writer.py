"""How changes are written: many at once, each of them whole or not at all.

Every change of an instance is one step with its own compares, so that a conflict costs that instance and no other.
What speaks of all of them (counters, the answers to a request, who is to be told) goes along if every step was
applied; after a conflict it follows in a request of its own, for those that were.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import REPEAT_US

from .answers import AnswerLog, AnswerLogPart
from .base import (
    MAX_REQUEST_BYTES,
    MAX_STEP_OPS,
    MAX_STEPS,
    MAX_WIDTH,
    Applied,
    Compare,
    Entry,
    Found,
    KeyValue,
    Op,
    Range,
    Step,
    bytes_of,
)
from .counts import SLOTS, CounterShard, Counts, Shift
from .keys import Keys, prefix_end
from .queues import Opening, Queues

ROUNDS = 8
"""How often a conflict is met again before a call gives up."""
IN_FLIGHT = 3
"""Requests of one batch that are under way at a time: the next is made while the server is at work on the last."""
_SHORT_LEASE_US = 600_000_000
_NO_LEASE_US = 10_000_000
"""How long no other lease is asked for after a server without space granted none."""
_REMOVAL_LEASE_US = 5_000_000
_PLAIN_OPS = 100
_LISTENER_READS = 2
"""Reads that go along with every request, before those of who waits for the end of something."""
_BURST = 10
"""Characters that ids have in common which were made within four seconds."""
_MAX_WATCHED = 200
"""Most of those who wait that one read answers."""


class Change(msgspec.Struct, gc=False):
    """One step, and what goes with it."""

    compares: Sequence[Compare]
    ops: Sequence[Op]
    shifts: tuple[Shift, ...] = ()
    adds: tuple[tuple[str, str], ...] = ()
    """Queue and place of entries that `ops` put there; the writer adds the guards."""
    ended: tuple[str, ...] = ()
    """Instances that it makes final."""
    answers: tuple[tuple[int, str], ...] = ()
    """Which elements of the caller's batch it answers, and with what."""
    opens: tuple[tuple[str, str], ...] = ()
    """Queues that it begins, with the first place of its own entries there."""


class Written(msgspec.Struct):
    """What became of a batch of changes."""

    revisions: list[int]
    """Per change the revision of its writes; 0: a compare did not hold and nothing was done."""
    ended: Sequence[str] = ()
    """Instances that were made final."""
    watched: Sequence[Found] = ()
    """Who waits for the end of these, and of others that were made at about the same time."""
    idle: Sequence[tuple[str, Entry]] = ()
    """Incarnations that wait for work, as of the last write."""
    listeners: Sequence[tuple[str, Entry]] = ()
    """Incarnations that want to hear of every change."""


class Writer:
    """Writes changes in requests that a server takes."""

    def __init__(self, kv: KeyValue, keys: Keys, counts: Counts, queues: Queues, url: str) -> None:
        self._kv = kv
        self._keys = keys
        self._counts = counts
        self._queues = queues
        self._url = url
        self._listener_reads = (
            Range(keys.idle, prefix_end(keys.idle)),
            Range(keys.changes, prefix_end(keys.changes)),
        )
        self.counts_in_doubt = False
        """Whether something may not have been counted, since an answer never came."""
        self._short_lease = 0
        self._short_lease_until_us = 0
        self._removal_lease = 0
        self._removal_lease_until_us = 0

    async def short_lease(self, now_us: int) -> int:
        """A lease for keys that may be forgotten after five to ten minutes; 0, none, on a server without space."""
        if now_us >= self._short_lease_until_us or now_us < self._short_lease_until_us - _SHORT_LEASE_US:
            old, self._short_lease = self._short_lease, 0
            try:
                self._short_lease = await self._kv.grant(_SHORT_LEASE_US)
                self._short_lease_until_us = now_us + _SHORT_LEASE_US // 2
            except StoreUnavailableError:
                if not self._kv.full:
                    raise
                # a server without space grants no lease, but extends one, and takes what finishes work
                if old and await self._kv.keepalive(old):
                    self._short_lease = old
                self._short_lease_until_us = now_us + _NO_LEASE_US
        return self._short_lease

    async def removal_lease(self, now_us: int) -> int:
        """A lease for records of removed instances, which lasts as long as an enqueue may be repeated.

        One serves for a few seconds, so that no lease ends with very many keys.
        """
        if not self._removal_lease_until_us - _REMOVAL_LEASE_US <= now_us < self._removal_lease_until_us:
            self._removal_lease = await self._kv.grant(REPEAT_US + _REMOVAL_LEASE_US)
            self._removal_lease_until_us = now_us + _REMOVAL_LEASE_US
        return self._removal_lease

    def _set_in_doubt(self) -> None:
        """Take a request for neither done nor refused, and the lease for one that may have been the reason."""
        self.counts_in_doubt = True
        self.forget_leases()

    def forget_leases(self) -> None:
        """Grant leases anew for the next requests: the server may not have the last ones."""
        self._short_lease_until_us = self._removal_lease_until_us = 0

    async def plain(self, ops: Sequence[Op]) -> None:
        """Do what depends on nothing, in as many requests as it takes."""
        for at in range(0, len(ops), _PLAIN_OPS):
            await self._kv.txn([Step([], ops[at : at + _PLAIN_OPS])])

    async def write(
        self,
        changes: Sequence[Change],
        *,
        now_us: int,
        answer_log: AnswerLog | None = None,
        extra_ops: Sequence[Op] = (),
        guards: Sequence[Compare] = (),
    ) -> Written:
        """Write each change whose compares hold, where the guards hold too; `along` goes with the first request."""
        if not changes:
            return Written([])
        parts = [_Part(changes) for changes in _parts(await self._opened(changes))]
        parts[0].extra_ops = extra_ops
        lease = 0 if answer_log is None else await self.short_lease(now_us)
        waiting = deque(parts)

        async def work() -> None:
            try:
                while waiting:
                    part = waiting.popleft()
                    part.answer_log = None if answer_log is None else answer_log.part()
                    await self._write_part(part, lease, guards)
            except BaseException:
                waiting.clear()
                raise

        if len(parts) == 1:
            await work()
        else:
            ends = await asyncio.gather(*(work() for _ in range(min(IN_FLIGHT, len(parts)))), return_exceptions=True)
            for error in ends:
                if error is not None:
                    raise error
        return _joined(parts)

    async def _opened(self, changes: Sequence[Change]) -> Sequence[Change]:
        """The changes, after every queue that they add to was begun, or with what begins it."""
        places = _first_places(changes)
        if not places or self._queues.are_open(places):
            return changes
        adders = _adders(changes)
        openings = await self._queues.open(places, alone=[queue for queue, count in adders.items() if count == 1])
        if not openings:
            return changes
        return [_with(change, openings) for change in changes]

    async def _write_part(self, part: _Part, lease: int, guards: Sequence[Compare]) -> None:
        changes = part.changes
        common = [*guards]
        if part.answer_log is not None and part.answer_log.guarded:
            common.append(part.answer_log.guard())
        adding = {queue: self._queues.guard(queue, place) for queue, place in part.places.items()}
        # what every step needs is compared once for all of them
        own = {queue: guard for queue, guard in adding.items() if part.adders[queue] < len(changes)}
        common += [guard for queue, guard in adding.items() if queue not in own]
        steps = [
            Step(
                [*change.compares, *(own[queue] for queue, _ in change.adds if queue in own)]
                if own
                else change.compares,
                change.ops,
            )
            for change in changes
        ]
        shard = self._counts.shard()
        try:
            shifts = _summed(changes)
            await self._counts.load(shard, shifts)
            also = self._also(part, changes, shifts, shard, lease)
            try:
                part.applied = applied = await self._kv.txn(steps, also, common)
            except BaseException:
                self._set_in_doubt()
                shard.refused()
                raise
            if applied.also is not None:
                part.set_written(applied, shard)
            else:
                shard.refused()
        finally:
            self._counts.give_back(shard)
        for change, answer in zip(changes, applied.steps, strict=True):
            if change.opens and answer is not None:
                self._queues.opened(change.opens)
            elif change.opens:
                self._queues.reread(change.compares)
        if applied.also is None:
            self._queues.forget(adding)
            done = [change for change, answer in zip(changes, applied.steps, strict=True) if answer is not None]
            await self._settle(part, done, lease)

    def _also(
        self, part: _Part, changes: Sequence[Change], shifts: dict[str, list[int]], shard: CounterShard, lease: int
    ) -> Step:
        compares, puts = shard.plan(shifts)
        ops: list[Op] = [*puts, *part.extra_ops]
        if part.answer_log is not None:
            ops.append(part.answer_log.put((pair for change in changes for pair in change.answers), lease))
        part.ended = [id for change in changes for id in change.ended]
        return Step(compares, ops, (*self._listener_reads, *self._watched(part.ended)))

    def _watched(self, ended: Sequence[str]) -> list[Range]:
        """The reads of who waits for the end of these: one for those that were made within a few seconds."""
        bursts: dict[str, tuple[str, str]] = {}
        for id in sorted(ended):
            first, _ = bursts.get(id[:_BURST], (id, id))
            bursts[id[:_BURST]] = (first, id)
        watch = self._keys.watch
        return [Range(watch(first), prefix_end(watch(last)), _MAX_WATCHED, True) for first, last in bursts.values()]

    async def _settle(self, part: _Part, done: Sequence[Change], lease: int) -> None:
        """Write what goes along with the changes that were applied."""
        guarded = part.answer_log is not None and part.answer_log.guarded
        if not done and (guarded or not part.extra_ops):
            # where nothing was done since the guard did not hold, the answer must stay open
            if part.answer_log is not None:
                part.answer_log.unused()
            return
        shifts = _summed(done)
        for _ in range(4 * ROUNDS):
            shard, crowded = self._counts.shard(), True
            try:
                await self._counts.load(shard, shifts)
                applied = await self._kv.txn([], self._also(part, done, shifts, shard, lease))
                if applied.also is not None:
                    part.set_written(applied, shard)
                    crowded = False
                    return
                shard.refused()
            except BaseException:
                self._set_in_doubt()
                shard.refused()
                raise
            finally:
                self._counts.give_back(shard, crowded=crowded)
        self.counts_in_doubt = True
        raise StoreUnavailableError(self._url, "too many writers at once")


class _Part:
    """The changes of one request, and what became of it."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        self.places = _first_places(changes)
        """Where the first entry of each queue goes."""
        self.adders = _adders(changes)
        """How many changes add to each queue."""
        self.extra_ops: Sequence[Op] = ()
        self.answer_log: AnswerLogPart | None = None
        self.applied = Applied(0, ())
        self.ended: Sequence[str] = ()
        self.found: Sequence[Found] = ()
        self.found_revision = 0

    def set_written(self, applied: Applied, shard: CounterShard) -> None:
        """What goes along is stored."""
        self.found, self.found_revision = applied.also or (), applied.revision
        shard.written(applied.revision)
        if self.answer_log is not None:
            self.answer_log.written(applied.revision)


def _joined(parts: Sequence[_Part]) -> Written:
    revisions = [0 if answer is None else part.applied.revision for part in parts for answer in part.applied.steps]
    written = Written(
        revisions,
        ended=[id for part in parts for id in part.ended if part.found],
        watched=[found for part in parts for found in part.found[_LISTENER_READS:]],
    )
    latest = max(parts, key=lambda part: part.found_revision)
    if latest.found:
        written.idle, written.listeners = (found.items for found in latest.found[:_LISTENER_READS])
    return written


def _with(change: Change, openings: Mapping[str, Opening]) -> Change:
    """A change that also begins the queues to which it alone adds."""
    opens = {queue: place for queue, place in _first_places([change]).items() if queue in openings}
    if not opens:
        return change
    begun = [openings[queue] for queue in opens]
    return msgspec.structs.replace(
        change,
        compares=[*change.compares, *(one for opening in begun for one in opening.compares)],
        ops=[*change.ops, *(op for opening in begun for op in opening.ops)],
        adds=tuple(pair for pair in change.adds if pair[0] not in openings),
        opens=tuple(opens.items()),
    )


def _first_places(changes: Iterable[Change]) -> dict[str, str]:
    """The first place in each queue that gets entries."""
    places: dict[str, str] = {}
    for change in changes:
        for queue, place in change.adds:
            known = places.get(queue)
            if known is None or place < known:
                places[queue] = place
    return places


def _adders(changes: Iterable[Change]) -> dict[str, int]:
    """How many changes add to each queue."""
    adders: dict[str, int] = {}
    for change in changes:
        adds = change.adds
        for queue in (adds[0][0],) if len(adds) == 1 else {queue for queue, _ in adds}:
            adders[queue] = adders.get(queue, 0) + 1
    return adders


def _parts(changes: Sequence[Change]) -> Iterable[Sequence[Change]]:
    """Cut a batch into requests, by number of steps, of compares, of operations and of bytes."""
    start, size, compares = 0, 0, 0
    shared: set[str] = set()
    for at, change in enumerate(changes):
        heavy = len(change.ops) > MAX_STEP_OPS
        compares += len(change.compares)
        own = bytes_of(change.compares, change.ops)
        size += own
        for queue, _ in change.adds:
            shared.add(queue)
        for kind, _, _ in change.shifts:
            shared.add(kind)
        steps = at - start + 1
        over = steps > MAX_STEPS or size > MAX_REQUEST_BYTES or steps + 1 + compares + len(shared) > MAX_WIDTH
        if at > start and (over or heavy):
            yield changes[start:at]
            start, size, compares = at, own, len(change.compares)
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
