"""Transactions in a transaction of SQLite: a transaction of ours compares first, and then writes all of it or nothing.

Several transactions of ours share one of SQLite. Their writes are collected, and reach SQLite together: with the next
read that may see them, or at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peerjob.store.kv.format.base import (
    Applied,
    Compare,
    Delete,
    Entry,
    Found,
    LeaseEndedError,
    Op,
    Put,
    Range,
    Transaction,
)

from .leases import Leases
from .table import Row, Table

PAGE = 4096
_NO_READS: tuple[Found, ...] = ()


class SharedTransaction:
    """The transactions of ours within one of SQLite."""

    def __init__(
        self, table: Table, leases: Leases, *, url: str, revision: int, now_us: int, heard: tuple[str, ...]
    ) -> None:
        self._table = table
        self._leases = leases
        self._url = url
        self._now_us = now_us
        self._heard = heard
        self.revision = revision
        """The revision of the last write."""
        self.revisions: list[int] = []
        """The revisions of all writes."""
        self.changes = 0
        """About how many pages of the file were written: one for each key, and those of large values."""
        self.told: dict[str, bytes] = {}
        """Keys that were put and that a watch wants, with their values."""
        self._puts: dict[str, Row] = {}
        self._deleted: set[str] = set()
        self._mods: dict[str, int] = {}
        """Known revisions: of keys that were compared or written."""
        self._known_leases: set[int] = set()

    def apply(
        self, transactions: Sequence[Transaction], also: Transaction | None, guards: Sequence[Compare]
    ) -> Applied:
        """See `KeyValue.txn`."""
        every = [*transactions, also] if also is not None else transactions
        self._load(compare for part in (guards, *(transaction.compares for transaction in every)) for compare in part)
        if not self._hold(guards):
            return Applied(self.revision, [None] * len(transactions), refused=True)
        held = [self._hold(transaction.compares) for transaction in transactions]
        with_also = also is not None and all(held) and self._hold(also.compares)
        done = [transaction for transaction, holds in zip(transactions, held, strict=True) if holds]
        self._check_leases([*done, also] if with_also and also is not None else done)
        revision = self.next_revision()
        answers = [
            self._do(transaction, revision) if holds else None
            for transaction, holds in zip(transactions, held, strict=True)
        ]
        last = self._do(also, revision) if with_also and also is not None else None
        return Applied(revision, answers, last)

    def read(self, wanted: Range) -> Found:
        """The answer to a read after the writes so far."""
        self.flush()
        return self._table.range(wanted)

    def next_revision(self) -> int:
        """A revision for a write. It follows the wall clock, so that none repeats after a power cut undid writes."""
        self.revision = max(self.revision + 1, self._now_us)
        self.revisions.append(self.revision)
        return self.revision

    def flush(self) -> None:
        """Give the collected writes to SQLite."""
        if self._puts or self._deleted:
            self.changes += len(self._deleted) + sum(1 + len(row[1]) // PAGE for row in self._puts.values())
            self._table.write(self._puts, self._deleted)
            self._puts, self._deleted = {}, set()

    def entries(self, keys: Sequence[str]) -> list[Entry | None]:
        """The entries of keys after the writes so far."""
        self.flush()
        entries = self._table.entries(keys)
        return [entries.get(key) for key in keys]

    def revoke(self, lease: int) -> None:
        """End a lease, and delete its keys."""
        self.flush()
        self._leases.revoke(lease)
        self.next_revision()
        self._mods.clear()
        self._known_leases.clear()

    def grant(self, ttl_us: int) -> int:
        """Make a lease; its number."""
        lease = self.next_revision()
        self._leases.grant(lease, ttl_us)
        return lease

    # -- compares -------------------------------------------------------------------------------------------------

    def _load(self, compares: Iterable[Compare]) -> None:
        unknown = {compare.key for compare in compares if not compare.end and compare.key not in self._mods}
        if unknown:
            self._mods |= self._table.mods(unknown)

    def _hold(self, compares: Sequence[Compare]) -> bool:
        mods = self._mods
        for compare in compares:
            if compare.end:
                self.flush()
                if not self._table.is_empty(compare.key, compare.end):
                    return False
            elif compare.below:
                value = self._value(compare.key)
                if value is None or not value < compare.below.encode():
                    return False
            elif mods[compare.key] != compare.mod:
                return False
        return True

    def _value(self, key: str) -> bytes | None:
        if not self._mods[key]:
            return None
        row = self._puts.get(key)
        if row is not None:
            return row[1]
        entry: Entry | None = self._table.entries((key,)).get(key)
        return None if entry is None else entry.value

    # -- writes ---------------------------------------------------------------------------------------------------

    def _check_leases(self, transactions: Sequence[Transaction]) -> None:
        leases = (
            {op.lease for transaction in transactions for op in transaction.ops if isinstance(op, Put)}
            - self._known_leases
            - {0}
        )
        for lease in leases:
            if not self._leases.exists(lease):
                raise LeaseEndedError(self._url, "the lease has ended")
        self._known_leases |= leases

    def _do(self, transaction: Transaction, revision: int) -> Sequence[Found]:
        for op in transaction.ops:
            if type(op) is Put:
                self._put(op, revision)
            else:
                self._delete(op)
        return [self.read(wanted) for wanted in transaction.reads] if transaction.reads else _NO_READS

    def _put(self, op: Put, revision: int) -> None:
        key = op.key
        self._puts[key] = (key, op.value, revision, op.lease)
        self._mods[key] = revision
        if self._heard and key.startswith(self._heard):
            self.told[key] = op.value

    def _delete(self, op: Op) -> None:
        if isinstance(op, Delete) and op.end:
            self.flush()
            self._table.delete_range(op.key, op.end)
            for key in [key for key in self._mods if op.key <= key < op.end]:
                self._mods[key] = 0
            return
        self._puts.pop(op.key, None)
        self._deleted.add(op.key)
        self._mods[op.key] = 0


def needs_disk(transactions: Iterable[Transaction]) -> bool:
    """Whether a transaction writes more than keys that end with their leases.

    A power cut ends all leases, so such keys need not wait for the disk.
    """
    return any(isinstance(op, Put) and not op.lease for transaction in transactions for op in transaction.ops)
