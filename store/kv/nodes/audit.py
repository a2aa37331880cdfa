"""The verbs of the audit log: a ring of keys, and a counter that says which key is the next one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from peerjob.model.audit import MAX_AUDIT, AuditRecord
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import check_batch
from peerjob.store.audit import audit_records
from peerjob.store.kv.format.base import MAX_TRANSACTION_OPS, Compare, Entry, Put, Range, Transaction, mod_of
from peerjob.store.kv.format.rows import number_of
from peerjob.store.kv.write.context import KVCommands, retried
from peerjob.store.kv.write.writer import ROUNDS

_BATCH = MAX_TRANSACTION_OPS - 1


class AuditCommands(KVCommands):
    """The verbs `add_audit` and `audit`."""

    async def add_audit(self, records: Sequence[AuditRecord]) -> None:
        check_batch(len(records))
        for first in range(0, len(records), _BATCH):
            await self._append(records[first : first + _BATCH])

    @retried
    async def _append(self, records: Sequence[AuditRecord]) -> None:
        counter = f"{self._keys.audit}next"
        for _ in range(ROUNDS):
            (entry,) = await self._kv.get([counter])
            before = await self._next(entry)
            ops = [Put(counter, str(before + len(records)).encode())]
            ops += [Put(self._slot(before + at), msgspec.msgpack.encode(record)) for at, record in enumerate(records)]
            if (await self._kv.txn([Transaction([Compare(counter, mod=mod_of(entry))], ops)])).answers[0] is not None:
                return
        raise StoreUnavailableError(self._keys.root[:-1], "the audit log changes again and again")

    @retried
    async def audit(self, limit: int = MAX_AUDIT) -> list[AuditRecord]:
        (entry,) = await self._kv.get([f"{self._keys.audit}next"])
        after = await self._next(entry)
        first = max(0, after - min(limit, MAX_AUDIT))
        (answer,) = await self._kv.read([self._ring])
        stored = {key: entry.value for key, entry in answer.items}
        slots = [self._slot(number) for number in range(after - 1, first - 1, -1)]
        return audit_records(stored[slot] for slot in slots if slot in stored)

    @property
    def _ring(self) -> Range:
        """The read of all records."""
        return Range(self._slot(0), f"{self._keys.audit}n")

    async def _next(self, entry: Entry | None) -> int:
        """The number of the next record. An unreadable one is found by the latest record, in the second round."""
        number = 0 if entry is None else number_of(entry.value)
        if number >= 0:
            return number
        (answer,) = await self._kv.read([self._ring])
        if not answer.items:
            return MAX_AUDIT
        latest, _ = max(answer.items, key=lambda item: (item[1].mod, item[0]))
        return MAX_AUDIT + int(latest[len(self._keys.audit) :]) + 1

    def _slot(self, number: int) -> str:
        return f"{self._keys.audit}{number % MAX_AUDIT:03d}"
