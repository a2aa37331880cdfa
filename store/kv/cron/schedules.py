"""The verbs that put, remove and read schedules. Each put or removal gives the namespace its next revision."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.firing import MAX_SCHEDULES, FireRecord, SchedulePage, SchedulePut, ScheduleRow
from peerjob.store.kv.format.base import Compare, Entry, Op, Put, Transaction, mod_of
from peerjob.store.kv.format.keys import time_text
from peerjob.store.kv.format.rows import encode
from peerjob.store.kv.format.schedule_rows import decode_next_fire, to_schedule_row
from peerjob.store.kv.write.context import KVCommands, KVContext, retried
from peerjob.store.kv.write.writer import ROUNDS
from peerjob.store.rules import check_count

from .ledger import GAP, FireLedger
from .schedule_writes import (
    PutEdit,
    RemoveEdit,
    ScheduleWriter,
    are_pair,
    read_parts,
    read_revisions,
    read_slot,
    revision_scan,
    used_revisions,
    write_revisions,
)

_READ_BATCH = 100
_LOADING = 1 << 31
"""A negative revision continues the first load. The number without the sign is the revision at the start of the load,
times this constant, plus the last loaded revision."""


class ScheduleCommands(KVCommands):
    """The verbs about schedules, besides those about fires."""

    def __init__(self, context: KVContext) -> None:
        super().__init__(context)
        self._schedule_writer = ScheduleWriter(context)

    @retried
    async def put_schedule(self, put: SchedulePut) -> ScheduleRow | None:
        edit = PutEdit(self._context, put)
        await self._schedule_writer.write(edit)
        if edit.row is not None and put.account is not None:
            trimmed_us = await self._trim_ledger(put.name, put.account)
            return replace(edit.row, trimmed_us=max(edit.row.trimmed_us, trimmed_us))
        return edit.row

    async def _trim_ledger(self, name: str, account: FireRecord) -> int:
        """Keep the ledger within its limits: a schedule that is put again and again need never fire.

        The answer is `trimmed_us` afterwards. `account` is the record that the put has written, which stays.
        """
        key, now_us, ledger = self._keys.next_fire(name), self._clock.time_us(), FireLedger(self._context)
        (entry,) = await self._kv.get([key])
        next_fire = self._context.decoded(entry, key, decode_next_fire)
        if entry is None or next_fire is None:
            return 0
        first = await ledger.first_records([(next_fire, 0)], now_us)
        ops: list[Op] = []
        own = f"{self._keys.ledger(next_fire.epoch)}{time_text(account.nominal_us)}{GAP}"
        after = ledger.trim(next_fire, first.get(next_fire.epoch, ()), ops, now_us, account.nominal_us, {own})
        if ops:
            # a fire that comes in between trims the ledger itself
            await self._kv.txn([Transaction([Compare(key, mod=entry.mod)], [*ops, Put(key, encode(after))])])
        return after.trimmed_us

    @retried
    async def remove_schedule(self, name: str, *, expected: int | None = None, request: str) -> bool:
        lease = await self._writer.short_lease()
        edit = RemoveEdit(self._context, name, expected, request, lease)
        await self._schedule_writer.write(edit)
        return edit.removed

    @retried
    async def get_schedules(self, names: Sequence[str]) -> list[ScheduleRow | None]:
        return await self._read_schedules(names)

    async def _read_schedules(self, names: Sequence[str]) -> list[ScheduleRow | None]:
        check_count(names, "schedules")
        context, keys = self._context, self._keys
        rows: dict[str, ScheduleRow] = {}
        pending = list(dict.fromkeys(names))
        before: dict[str, tuple[int, int]] = {}
        for _ in range(ROUNDS):
            torn: dict[str, tuple[int, int]] = {}
            for at in range(0, len(pending), _READ_BATCH):
                part = pending[at : at + _READ_BATCH]
                entries = await self._kv.get(
                    [key for name in part for key in (keys.schedule(name), keys.next_fire(name), keys.slot(name))]
                )
                for position, name in enumerate(part):
                    schedule_entry, next_entry, slot_entry = entries[3 * position : 3 * position + 3]
                    schedule, next_fire = read_parts(context, name, schedule_entry, next_entry)
                    if schedule is not None and next_fire is not None and are_pair(schedule, next_fire):
                        rows[name] = to_schedule_row(name, schedule, next_fire, read_slot(context, name, slot_entry))
                    elif _is_torn((schedule, next_fire), (schedule_entry, next_entry)):
                        # parts that two reads find are stored like this: no write is under way
                        mods = mod_of(schedule_entry), mod_of(next_entry)
                        if before.get(name) != mods:
                            torn[name] = mods
            pending, before = list(torn), torn
            if not pending:
                return [rows.get(name) for name in names]
        raise StoreUnavailableError(context.url, "too many writers at once")

    @retried
    async def changed_schedules(self, revision: int, *, limit: int = MAX_SCHEDULES) -> SchedulePage:
        context, keys = self._context, self._keys
        limit = min(limit, MAX_SCHEDULES)
        (counter,) = await self._kv.get([keys.revisions])
        revisions = await read_revisions(context, counter)
        begun, after = divmod(-revision, _LOADING) if revision < 0 else (revision, revision)
        if begun > revisions.latest and counter is not None:
            # the store was restored, or a damaged counter is too low
            used = await used_revisions(context)
            if used.latest > revisions.latest:
                revisions = await write_revisions(context, counter, used)
        reset = 0 < begun < revisions.floor or begun > revisions.latest
        if reset or revision == 0:
            begun, after = revisions.latest, 0
        if after == revisions.latest:
            return SchedulePage(revision=revisions.latest, reset=reset)
        loading = reset or revision <= 0
        scans = [revision_scan(context, keys.changed, after, revisions.latest)]
        if revision != 0 and not reset:
            # during the first load, only removals after the start of the load matter: schedules removed before are not
            # loaded
            scans.append(revision_scan(context, keys.removed, max(after, begun), revisions.latest))
        while unfinished := [scan for scan in scans if not scan.done and len(scan.positions) <= limit]:
            await context.queues.read(unfinished, limit + 1)
        changes = sorted((position, scan is not scans[0]) for scan in scans for position in scan.positions)
        more = len(changes) > limit
        changes = changes[:limit]
        upto = int(changes[-1][0][:18]) if more else revisions.latest
        names = [keys.unescaped(position[19:]) for position, _ in changes]
        rows = await self._read_schedules(
            [name for name, (_, removed) in zip(names, changes, strict=True) if not removed]
        )
        current = {row.name: row for row in rows if row is not None}
        page: list[ScheduleRow] = []
        for name, (position, removed) in zip(names, changes, strict=True):
            at = int(position[:18])
            row = _removed(name, at) if removed else current.get(name)
            # a schedule that was written again after the scan is reported later, under the new revision
            if row is not None and row.revision == at:
                page.append(row)
        return SchedulePage(
            rows=tuple(page),
            revision=-(begun * _LOADING + upto) if loading and upto < begun else upto,
            more=more,
            reset=reset,
        )


def _is_torn(parts: Sequence[object | None], entries: Sequence[Entry | None]) -> bool:
    """Whether a put or a removal was under way during the read; an unreadable part would stay unreadable."""
    read = [part is not None for part in parts]
    return any(read) and read == [entry is not None for entry in entries]


def _removed(name: str, revision: int) -> ScheduleRow:
    return ScheduleRow(name=name, kind="", definition=b"", revision=revision, next_us=None, removed=True)
