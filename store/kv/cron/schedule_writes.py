"""Writes puts and removals of schedules: each gets the next revision, and waiting ones share a request."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from peerjob.model.errors import PeerjobError, StoreRefusedError, StoreUnavailableError
from peerjob.model.firing import SchedulePut, ScheduleRow
from peerjob.store.kv.format.base import MAX_REQUEST_BYTES, Compare, Delete, Entry, Op, Put, Range, Transaction, mod_of
from peerjob.store.kv.format.keys import prefix_end, time_text
from peerjob.store.kv.format.rows import NOTHING_EXTRA, encode
from peerjob.store.kv.format.schedule_rows import (
    NextFire,
    Revisions,
    ScheduleState,
    SlotRow,
    decode_next_fire,
    decode_revisions,
    decode_schedule,
    decode_slot,
    to_schedule_row,
)
from peerjob.store.kv.format.unreadable import WRITTEN_ANEW
from peerjob.store.kv.index.scan import Head, Scan
from peerjob.store.kv.write.context import KVContext
from peerjob.store.per_loop import PerLoop
from peerjob.store.rules import MAX_REMOVALS

from .ledger import FireLedger

_ATTEMPTS = 64
_MAX_EDITS = 40
"""Most schedules that one request writes; further puts and removals wait for the next request."""


class ScheduleEdit(ABC):
    """The change of one schedule by one call."""

    removes = False
    """Whether the edit removes a schedule, so that the store adds a record of the removal."""

    def __init__(self, context: KVContext, name: str, further_key: str, size: int = 0) -> None:
        self._context = context
        self.name = name
        self.size = size
        """Bytes of the large values that the edit writes."""
        self.keys = (context.keys.schedule(name), context.keys.next_fire(name), further_key)
        """The keys that must be read before the transaction of the edit can be planned."""
        self.error: PeerjobError | None = None
        """The error of the request that contained the edit; None while no request has failed."""
        self.is_done = False

    @abstractmethod
    def transaction(self, revision: int, now_us: int, entries: Mapping[str, Entry | None]) -> Transaction | None:
        """The transaction that writes the edit with this revision; None if the edit has nothing to write."""

    def written(self) -> None:
        """Remember that the transaction was applied."""
        self.is_done = True


class ScheduleWriter:
    """Writes edits in the order of their calls."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self._lock = PerLoop(asyncio.Lock)
        self._waiting: list[ScheduleEdit] = []

    async def write(self, edit: ScheduleEdit) -> None:
        """Write an edit; edits that wait behind the edit share the request."""
        self._waiting.append(edit)
        try:
            async with self._lock():
                for _ in range(_ATTEMPTS):
                    if edit.error is not None:
                        raise edit.error
                    if edit.is_done:
                        return
                    await self._write([*self._next_edits()])
        finally:
            self._waiting.remove(edit)
        if not edit.is_done:
            raise StoreUnavailableError(self._context.url, "too many writers at once")

    def _next_edits(self) -> Iterable[ScheduleEdit]:
        """The first edits of different schedules that fit into one request."""
        names: set[str] = set()
        size = 0
        for edit in self._waiting:
            if edit.is_done or edit.error is not None or edit.name in names:
                continue
            size += edit.size
            if names and (len(names) == _MAX_EDITS or size > MAX_REQUEST_BYTES):
                return
            names.add(edit.name)
            yield edit

    async def _write(self, edits: Sequence[ScheduleEdit]) -> None:
        """Try once to write the edits in one request; an edit that has a conflict keeps waiting."""
        try:
            await self._try(edits)
        except StoreRefusedError as error:
            if len(edits) == 1:
                edits[0].error = error
                return
            # the server may have refused the request because of one edit only, so each edit gets a request of
            # its own
            for edit in edits:
                await self._write([edit])
        except PeerjobError as error:
            for edit in edits:
                edit.error = error

    async def _try(self, edits: Sequence[ScheduleEdit]) -> None:
        context, counter = self._context, self._context.keys.revisions
        wanted = [counter, *dict.fromkeys(key for edit in edits for key in edit.keys)]
        entries = dict(zip(wanted, await context.kv.get(wanted), strict=True))
        revisions = await read_revisions(context, entries[counter])
        revision, now_us, removals = revisions.latest, context.clock.time_us(), 0
        planned: list[ScheduleEdit] = []
        transactions: list[Transaction] = []
        for edit in edits:
            transaction = edit.transaction(revision + 1, now_us, entries)
            if transaction is not None:
                revision += 1
                removals += edit.removes
                planned.append(edit)
                transactions.append(transaction)
        if not transactions:
            return
        dropped = await self._dropped(revisions, removals) if removals else {}
        after = Revisions(
            revision, revisions.removals + removals - len(dropped), max([revisions.floor, *dropped.values()])
        )
        count = Transaction([], [Put(counter, encode(after)), *(Delete(key) for key in dropped)])
        # each put and each removal compares the revision counter, so that no two writes get the same revision
        guard = Compare(counter, mod=mod_of(entries[counter]))
        applied = await context.kv.txn([count, *transactions], guards=[guard])
        for edit, answer in zip(planned, applied.answers[1:], strict=True):
            if answer is not None:
                edit.written()

    async def _dropped(self, revisions: Revisions, more: int) -> dict[str, int]:
        """The stored removals to delete, so that `more` further ones stay within the limit: key → revision."""
        surplus = revisions.removals + more - MAX_REMOVALS
        if surplus <= 0:
            return {}
        queue = self._context.keys.removed
        removed = revision_scan(self._context, queue, revisions.floor, revisions.latest)
        await self._context.queues.first(removed, surplus)
        return {queue + position: int(position[:18]) for position in removed.positions[:surplus]}


class PutEdit(ScheduleEdit):
    """A put; `row` is its answer."""

    def __init__(self, context: KVContext, put: SchedulePut) -> None:
        super().__init__(context, put.name, context.keys.slot(put.name), len(put.definition))
        self._put = put
        self.row: ScheduleRow | None = None

    def transaction(self, revision: int, now_us: int, entries: Mapping[str, Entry | None]) -> Transaction | None:
        context, keys, put = self._context, self._context.keys, self._put
        schedule_entry, next_entry, slot = (entries[key] for key in self.keys)
        old, next_fire = read_pair(context, put.name, schedule_entry, next_entry)
        waiting = read_slot(context, put.name, slot)
        if not _is_expected(put, old, next_fire):
            # an earlier attempt may have set a row, but the transaction of that attempt had a conflict
            self.row = None
            if old is not None and next_fire is not None and _is_same(put, old):
                self.row = to_schedule_row(put.name, old, next_fire, waiting)
            self.is_done = True
            return None
        schedule = ScheduleState(
            revision,
            revision if old is None else old.epoch,
            put.expected,
            put.kind,
            put.definition,
            put.paused,
            put.note,
            now_us if old is None else old.created_us,
            now_us,
            NOTHING_EXTRA if old is None else old.extra,
        )
        ops: list[Op] = [
            Put(keys.schedule(put.name), encode(schedule)),
            Put(position_at(context, keys.changed, revision, put.name), b""),
        ]
        after = next_fire or NextFire(
            revision, schedule.epoch, None, paused=False, last_us=put.trimmed_us, trimmed_us=put.trimmed_us
        )
        after = replace(after, revision=revision, next_us=put.next_us, paused=put.paused, stretch=None)
        if put.account is not None:
            record = replace(put.account, at_us=now_us)
            after = FireLedger(context).add_gap(after, record, ops)
        if old is not None:
            ops.append(Delete(position_at(context, keys.changed, old.revision, put.name)))
        ops.append(Put(self.keys[1], encode(after)))
        self.row = to_schedule_row(put.name, schedule, after, waiting)
        return Transaction([Compare(self.keys[1], mod=mod_of(next_entry))], ops)


class RemoveEdit(ScheduleEdit):
    """A removal; `removed` is its answer. A repeated request is recognized until `lease` ends."""

    removes = True

    def __init__(self, context: KVContext, name: str, expected: int | None, request: str, lease: int) -> None:
        super().__init__(context, name, context.keys.removal(request))
        self._expected = expected
        self._lease = lease
        self.removed = False

    def transaction(self, revision: int, now_us: int, entries: Mapping[str, Entry | None]) -> Transaction | None:
        context, keys = self._context, self._context.keys
        schedule_entry, next_entry, known = (entries[key] for key in self.keys)
        is_there = schedule_entry is not None or next_entry is not None
        parts = [
            read_part
            for read_part in read_parts(context, self.name, schedule_entry, next_entry)
            if read_part is not None
        ]
        # a schedule with a damaged part has no certain revision: it can be removed without one
        current = parts[0].revision if len(parts) == 2 and parts[0].revision == parts[1].revision else None
        if known is not None or not is_there or self._expected not in (None, current):
            self.removed, self.is_done = known is not None, True
            return None
        ops: list[Op] = [
            Delete(keys.schedule(self.name)),
            Delete(keys.next_fire(self.name)),
            Put(position_at(context, keys.removed, revision, self.name), b""),
        ]
        revisions = dict.fromkeys(part.revision for part in parts)
        ops.extend(Delete(position_at(context, keys.changed, old, self.name)) for old in revisions)
        ledgers = dict.fromkeys(keys.ledger(part.epoch) for part in parts)
        ops.extend(Delete(ledger, prefix_end(ledger)) for ledger in ledgers)
        if self._lease:
            ops.append(Put(self.keys[2], b"", self._lease))
        return Transaction([], ops)

    def written(self) -> None:
        self.removed = self.is_done = True


# -- records ----------------------------------------------------------------------------------------------------------


def read_pair(
    context: KVContext, name: str, schedule_entry: Entry | None, next_entry: Entry | None
) -> tuple[ScheduleState, NextFire] | tuple[None, None]:
    """The definition and the next fire of a schedule, if both are readable and have the same revision."""
    schedule, next_fire = read_parts(context, name, schedule_entry, next_entry)
    if schedule is None or next_fire is None or not are_pair(schedule, next_fire):
        return None, None
    return schedule, next_fire


def read_parts(
    context: KVContext, name: str, schedule_entry: Entry | None, next_entry: Entry | None
) -> tuple[ScheduleState | None, NextFire | None]:
    """The definition and the next fire of a schedule, each if it is readable."""
    schedule = context.decoded(schedule_entry, context.keys.schedule(name), decode_schedule)
    return schedule, context.decoded(next_entry, context.keys.next_fire(name), decode_next_fire)


def are_pair(schedule: ScheduleState, next_fire: NextFire) -> bool:
    """Whether the two parts of a schedule belong together."""
    return (schedule.revision, schedule.epoch) == (next_fire.revision, next_fire.epoch)


def read_slot(context: KVContext, name: str, entry: Entry | None) -> SlotRow:
    """The slot of a schedule; an empty one if none is stored."""
    return context.decoded(entry, context.keys.slot(name), decode_slot) or SlotRow()


async def read_revisions(context: KVContext, entry: Entry | None) -> Revisions:
    """Decode the revisions. Unreadable ones are found again, and written."""
    if entry is None:
        return Revisions()
    revisions = context.unreadable.read(context.keys.revisions, entry, decode_revisions, WRITTEN_ANEW)
    if revisions is not None:
        return revisions
    return await write_revisions(context, entry, await used_revisions(context))


async def used_revisions(context: KVContext) -> Revisions:
    """The revisions that are in use. A reader that knows an earlier one than the latest must load all schedules."""
    keys = context.keys
    changed, removed = await context.kv.read(
        [
            Range(prefix, prefix_end(prefix), limit=1, keys_only=True, reverse=True)
            for prefix in (keys.changed, keys.removed)
        ]
    )
    positions = [
        key[len(prefix) :]
        for prefix, listed in ((keys.changed, changed), (keys.removed, removed))
        for key, _ in listed.items
    ]
    latest = max((int(position[:18]) for position in positions), default=0)
    return Revisions(latest, removed.count, latest)


async def write_revisions(context: KVContext, entry: Entry, revisions: Revisions) -> Revisions:
    """Replace the stored revisions, unless another store has written them meanwhile."""
    keys = context.keys
    await context.kv.txn(
        [Transaction([Compare(keys.revisions, mod=entry.mod)], [Put(keys.revisions, encode(revisions))])]
    )
    return revisions


def revision_scan(context: KVContext, queue: str, after: int, latest: int) -> Scan:
    """A scan of the positions after one revision, up to another."""
    return context.queues.scan(Head(queue, time_text(after + 1), 0), now_us=latest + 1, until=time_text(latest + 1))


def position_at(context: KVContext, queue: str, revision: int, name: str) -> str:
    """The key of a schedule in a queue that is sorted by revision."""
    return f"{queue}{time_text(revision)}/{context.keys.kind(name)}"


def _is_expected(put: SchedulePut, old: ScheduleState | None, next_fire: NextFire | None) -> bool:
    if put.expected == 0 or old is None or next_fire is None:
        return put.expected == 0 and old is None
    return old.revision == put.expected and next_fire.next_us == put.expected_next_us


def _is_same(put: SchedulePut, old: ScheduleState) -> bool:
    """Whether a put with the same values wrote the stored schedule, so that the put is a repetition."""
    return (old.before, old.kind, old.definition, old.paused, old.note) == (
        put.expected,
        put.kind,
        put.definition,
        put.paused,
        put.note,
    )
