"""Writes changes: many in one request, each of them atomic.

Each change of an instance is one transaction with its own compares, so a conflict delays that instance only. A further
transaction, `also`, concerns all changes: it writes counters and answers, and reads which nodes wait. It is applied if
all transactions were applied. After a conflict, a second request writes it for the transactions that were applied.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreError, StoreUnavailableError
from peerjob.store.kv.format.base import (
    Applied,
    Compare,
    Entry,
    Found,
    KeyValue,
    Op,
    Put,
    Range,
    Transaction,
)
from peerjob.store.kv.format.keys import Keys, below, prefix_end
from peerjob.store.kv.format.rows import SLOTS
from peerjob.store.kv.index.counts import CounterShard, Counts
from peerjob.store.kv.index.queues import Opening, Queues

from .answers import AnswerLog, AnswerLogPart
from .gates import Gate
from .request_parts import cut
from .transaction_plan import Change

T = TypeVar("T")

ROUNDS = 8
"""A call whose changes conflict with other writers makes this number of attempts before the call fails."""
IN_FLIGHT = 3
"""Most requests of one batch in flight: the store builds the next request while the server handles earlier ones."""
_SHORT_LEASE_US = 600_000_000
_NO_LEASE_US = 10_000_000
"""After a server without space has refused a lease, the writer waits this long before the next try."""
_REMOVAL_LEASE_US = 5_000_000
_PLAIN_OPS = 100
_LISTENER_READS = 2
"""Number of reads in each request that come before the reads of nodes that wait for the end of instances."""
_BURST = 10
"""Ids that were made within the same four seconds begin with this number of equal characters."""
_MAX_OWED = 10_000
"""A writer remembers at most so many limit keys and instances that failed calls have left."""
_MAX_WATCHED = 200
"""Most registrations of waiting nodes in the answer to one read."""


class Written(msgspec.Struct):
    """The result of a batch of changes."""

    revisions: list[int]
    """For each change, the revision of its writes; 0 if a compare did not hold and nothing was written."""
    ended: Sequence[str] = ()
    """Ids of the instances that the batch made final."""
    watched: Sequence[Found] = ()
    """Registrations of incarnations that wait for the end of instances in `ended`, or of instances with similar ids."""
    idle: Sequence[tuple[str, Entry]] = ()
    """Registrations of idle incarnations, as of the last request of the batch."""
    listeners: Sequence[tuple[str, Entry]] = ()
    """Registrations of incarnations that want hints about all changes."""
    read: Sequence[Found] = ()
    """The answers to the reads of the caller, as of the last request of the batch; empty if nothing was written."""
    settles: list[str] = []
    """Keys below `settle/` that were written."""

    def take_settles(self) -> list[str]:
        """The keys below `settle/`, which the caller settles later."""
        taken, self.settles = self.settles, []
        return taken

    def applied(self, items: Iterable[T]) -> Iterator[tuple[T, int]]:
        """The items whose changes were written, each with its revision; `items` has one item per change."""
        return (pair for pair in zip(items, self.revisions, strict=True) if pair[1])


class Writer:
    """Writes changes, in requests that a server accepts."""

    def __init__(self, kv: KeyValue, keys: Keys, clock: Clock, counts: Counts, queues: Queues, url: str) -> None:
        self._kv = kv
        self._keys = keys
        self._clock = clock
        self._counts = counts
        self._queues = queues
        self._url = url
        self._listener_reads = (below(keys.idle), below(keys.changes))
        self._short_lease = 0
        self._short_lease_until_us = 0
        self._removal_leases: dict[int, tuple[int, int]] = {}
        """Period of the lease → the lease, and the time until which it is used."""
        self.owed: set[tuple[Gate, str]] = set()
        """Limit keys at which instances may wait beside a free permit, since a call failed, each with the id of one
        that came, or ""."""

    async def short_lease(self) -> int:
        """A lease for keys that are needed for five minutes; 0 (no lease) on a server without space."""
        now_us = self._clock.time_us()
        if now_us >= self._short_lease_until_us or now_us < self._short_lease_until_us - _SHORT_LEASE_US:
            old, self._short_lease = self._short_lease, 0
            try:
                self._short_lease = await self._kv.grant(_SHORT_LEASE_US)
                self._short_lease_until_us = now_us + _SHORT_LEASE_US // 2
            except StoreUnavailableError:
                if not self._kv.full:
                    raise
                # a server without space refuses new leases but extends old ones, so the old lease stays in use
                if old and await self._kv.keepalive(old):
                    self._short_lease = old
                self._short_lease_until_us = now_us + _NO_LEASE_US
        return self._short_lease

    async def removal_lease(self, period_us: int) -> int:
        """A lease for the empty records of removed instances: it lasts while an enqueue may be repeated.

        A lease is used for a few seconds only, so that few keys end at the same time.
        """
        now_us = self._clock.time_us()
        lease, until_us = self._removal_leases.get(period_us, (0, 0))
        if not until_us - _REMOVAL_LEASE_US <= now_us < until_us:
            lease = await self._kv.grant(period_us + _REMOVAL_LEASE_US)
            self._removal_leases[period_us] = lease, now_us + _REMOVAL_LEASE_US
        return lease

    def _remember_doubt(self) -> None:
        """Remember that the effect of a request is unknown: counters may be wrong, and the leases may have ended."""
        self._counts.in_doubt = True
        self.forget_leases()

    def forget_leases(self) -> None:
        """Get new leases for the next requests: the server may not have the last ones."""
        self._short_lease_until_us = 0
        self._removal_leases.clear()

    async def plain(self, ops: Sequence[Op]) -> None:
        """Apply operations without compares, in as many requests as they need."""
        for at in range(0, len(ops), _PLAIN_OPS):
            await self._kv.txn([Transaction([], ops[at : at + _PLAIN_OPS])])

    async def write(
        self,
        changes: Sequence[Change],
        *,
        answer_log: AnswerLog | None = None,
        extra_ops: Sequence[Op] = (),
        guards: Sequence[Compare] = (),
        reads: Sequence[Range] = (),
    ) -> Written:
        """Write each change whose compares hold, if all guards hold; `extra_ops` is part of the first request.

        Each request also has the `reads`, as of after its changes.
        """
        if not changes:
            return Written([])
        opened, beside = await self._opened(changes), len(extra_ops) + len(reads)
        requests = [opened] if len(opened) == 1 else cut(opened, guards=len(guards), beside=beside)
        parts = [_Part(part, reads) for part in requests]
        parts[0].extra_ops = extra_ops
        lease = 0 if answer_log is None else await self.short_lease()
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

        try:
            if len(parts) == 1:
                await work()
            else:
                ends = await asyncio.gather(
                    *(work() for _ in range(min(IN_FLIGHT, len(parts)))), return_exceptions=True
                )
                for error in ends:
                    if error is not None:
                        raise error
        except BaseException as error:
            if isinstance(error, StoreError):
                error.is_unsure |= any(answer is not None for part in parts for answer in part.applied.answers)
            for change in changes:
                for gate, id in change.came:
                    self.owe({gate: {id}})
            raise
        return _joined(parts)

    def owe(self, came: Mapping[Gate, Set[str]]) -> None:
        """Keep limit keys that a failed call left, for the next call. The leader checks those above the bound."""
        for gate, ids in came.items():
            for id in ids or ("",):
                if len(self.owed) < _MAX_OWED:
                    self.owed.add((gate, id))

    async def _opened(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Open the queues to which the changes add, and return the changes. Some changes open a queue themselves."""
        positions = _first_positions(changes)
        if not positions or self._queues.are_open(positions):
            return changes
        adders = _adders(changes)
        # a lone change is one request, which also needs its counters: a server is asked once for both
        get = partial(self._counts.read_beside, kinds=_summed(changes)) if len(changes) == 1 else None
        alone = [queue for queue, count in adders.items() if count == 1]
        openings = await self._queues.open(positions, alone=alone, get=get)
        if not openings:
            return changes
        return [_with(change, openings) for change in changes]

    async def _write_part(self, part: _Part, lease: int, guards: Sequence[Compare]) -> None:
        changes = part.changes
        common = [*guards]
        if part.answer_log is not None and part.answer_log.guarded:
            common.append(part.answer_log.guard())
        adding = {queue: self._queues.guard(queue, position) for queue, position in part.positions.items()}
        # a guard that all transactions need is compared once for the whole request, since the number of compares is
        # limited
        own = {queue: guard for queue, guard in adding.items() if part.adders[queue] < len(changes)}
        common += [guard for queue, guard in adding.items() if queue not in own]
        transactions = [
            Transaction(
                [*change.compares, *(own[queue] for queue, _ in change.adds if queue in own)]
                if own
                else change.compares,
                change.ops,
            )
            for change in changes
        ]
        part.applied = applied = await self._send(part, changes, lease, transactions, common)
        for change, answer in zip(changes, applied.answers, strict=True):
            if change.opens and answer is not None:
                self._queues.opened(change.opens)
            elif change.opens:
                self._queues.reread(change.compares)
        if applied.also is None:
            self._queues.forget(adding)
            done = [change for change, answer in zip(changes, applied.answers, strict=True) if answer is not None]
            await self._finish_part(part, done, lease)

    async def _send(
        self,
        part: _Part,
        changes: Sequence[Change],
        lease: int,
        transactions: Sequence[Transaction] = (),
        guards: Sequence[Compare] = (),
    ) -> Applied:
        """Send transactions, and the transaction `also` with the counters and answers of the changes."""
        shard, shifts = self._counts.take_shard(), _summed(changes)
        # a request without transactions has one cause of refusal: another store has written the same shard of the
        # counters. So have transactions that were all applied, and then two stores would meet there again and again
        contended = not transactions
        try:
            await self._counts.load(shard, shifts)
            also = self._also(part, changes, shard.add(shifts), lease)
            try:
                applied = await self._kv.txn(transactions, also, guards)
            except BaseException:
                self._remember_doubt()
                shard.refused()
                raise
            if applied.also is None:
                # if a change was refused, that is the cause, and the counters can be as they were
                if None not in applied.answers:
                    shard.refused()
                contended |= None not in applied.answers
            else:
                part.set_written(applied, shard)
                contended = False
            return applied
        finally:
            self._counts.give_back(shard, contended=contended)

    def _also(
        self, part: _Part, changes: Sequence[Change], counting: tuple[list[Compare], list[Put]], lease: int
    ) -> Transaction:
        compares, puts = counting
        ops: list[Op] = [*puts, *part.extra_ops]
        if part.answer_log is not None:
            ops.append(part.answer_log.put((pair for change in changes for pair in change.answers), lease))
        part.ended = [id for change in changes for id in change.ended]
        return Transaction(compares, ops, (*self._listener_reads, *part.reads, *self._watched(part.ended)))

    def _watched(self, ended: Sequence[str]) -> list[Range]:
        """The reads that find incarnations waiting for the instances: one read for all ids of the same four seconds."""
        bursts: dict[str, tuple[str, str]] = {}
        for id in sorted(ended):
            first, _ = bursts.get(id[:_BURST], (id, id))
            bursts[id[:_BURST]] = (first, id)
        watch = self._keys.watch
        return [Range(watch(first), prefix_end(watch(last)), _MAX_WATCHED, True) for first, last in bursts.values()]

    async def _finish_part(self, part: _Part, done: Sequence[Change], lease: int) -> None:
        """Write the transaction `also` for those changes that the first request has applied."""
        guarded = part.answer_log is not None and part.answer_log.guarded
        if not done and (guarded or not part.extra_ops):
            # a compare of the whole request failed, so nothing was written: the caller sends the request again,
            # and only then there is an answer to keep
            if part.answer_log is not None:
                part.answer_log.unused()
            return
        try:
            for _ in range(4 * ROUNDS):
                if (await self._send(part, done, lease)).also is not None:
                    return
            raise StoreUnavailableError(self._url, "too many writers at once")
        except BaseException:
            self._remember_doubt()
            raise


class _Part:
    """The changes of one request, and its result."""

    def __init__(self, changes: Sequence[Change], reads: Sequence[Range]) -> None:
        self.changes = changes
        self.reads = reads
        self.positions = _first_positions(changes)
        """Queue → first position that the changes add to the queue."""
        self.adders = _adders(changes)
        """Queue → number of changes that add entries to the queue."""
        self.extra_ops: Sequence[Op] = ()
        self.answer_log: AnswerLogPart | None = None
        self.applied = Applied(0, ())
        self.ended: Sequence[str] = ()
        self.found: Sequence[Found] = ()
        self.found_revision = 0

    def set_written(self, applied: Applied, shard: CounterShard) -> None:
        """Remember that `also` was written."""
        self.found, self.found_revision = applied.also or (), applied.revision
        shard.written(applied.revision)
        if self.answer_log is not None:
            self.answer_log.written(applied.revision)


def _joined(parts: Sequence[_Part]) -> Written:
    revisions = [0 if answer is None else part.applied.revision for part in parts for answer in part.applied.answers]
    settles: list[str] = []
    for part in parts:
        for change, answer in zip(part.changes, part.applied.answers, strict=True):
            # a change that was refused ends nothing: what needs its instance still has to wait
            if change.settles and answer is not None:
                settles += change.settles
    written = Written(
        revisions,
        settles=settles,
        ended=[id for part in parts for id in part.ended if part.found],
        watched=[answer for part in parts for answer in part.found[_LISTENER_READS + len(part.reads) :]],
    )
    latest = max(parts, key=lambda part: part.found_revision)
    if latest.found:
        written.idle, written.listeners = (answer.items for answer in latest.found[:_LISTENER_READS])
        written.read = latest.found[_LISTENER_READS : _LISTENER_READS + len(latest.reads)]
    return written


def _with(change: Change, openings: Mapping[str, Opening]) -> Change:
    """A change that also opens the queues to which no other change adds."""
    opens = {queue: position for queue, position in _first_positions([change]).items() if queue in openings}
    if not opens:
        return change
    begun = [openings[queue] for queue in opens]
    return replace(
        change,
        compares=[*change.compares, *(compare for opening in begun for compare in opening.compares)],
        ops=[*change.ops, *(op for opening in begun for op in opening.ops)],
        adds=tuple(pair for pair in change.adds if pair[0] not in openings),
        opens=tuple(opens.items()),
    )


def _first_positions(changes: Iterable[Change]) -> dict[str, str]:
    """Queue → first position that the changes add to the queue."""
    positions: dict[str, str] = {}
    for change in changes:
        for queue, position in change.adds:
            known = positions.get(queue)
            if known is None or position < known:
                positions[queue] = position
    return positions


def _adders(changes: Iterable[Change]) -> dict[str, int]:
    """Queue → number of changes that add entries to the queue."""
    adders: dict[str, int] = {}
    for change in changes:
        adds = change.adds
        for queue in (adds[0][0],) if len(adds) == 1 else {queue for queue, _ in adds}:
            adders[queue] = adders.get(queue, 0) + 1
    return adders


def _summed(changes: Iterable[Change]) -> dict[str, list[int]]:
    sums: dict[str, list[int]] = {}
    for change in changes:
        for kind, slot, more in change.shifts:
            known = sums.get(kind)
            if known is None:
                known = sums[kind] = [0] * SLOTS
            known[slot] += more
    return sums
