"""The open file of a process, with its lock and its socket: commits groups of writes, and tells watches of them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from peerjob.model.clock import Clock
from peerjob.model.errors import PeerjobError
from peerjob.store.kv.format.base import Applied, Compare, Transaction
from peerjob.store.kv.format.keys import prefix_end

from .bells import Bells
from .errors import no_space, translated
from .file import opened
from .leases import Leases
from .requests import Request
from .statement import Statements
from .table import Table
from .transaction import PAGE, SharedTransaction
from .watch import SqliteWatch
from .write_lock import WriteLock

CHECKPOINT_FROM = 2_000
"""The process that writes checkpoints writes one after about this many written pages."""
_OVERDUE = 16
"""Any process writes a checkpoint after this many times as many pages: the other process may be stopped."""
_RESERVE, _RESERVED_SHARE = 32 << 20, 5
"""New instances are refused below this many free bytes, or below this part of a small file system."""
_WAL_SHARE = 64
"""On a small file system, a checkpoint is due when the log may use this part of it."""
_OPEN_FOR = 2.0


class Session:
    """What a process has open for one file. Only one thread uses it, except for `write_directly`."""

    def __init__(self, path: Path, url: str, clock: Clock) -> None:
        random = clock.random
        self._url = url
        self._clock = clock
        self._file = opened(path, url, identity=f"{random.getrandbits(64):016x}", seconds=_OPEN_FOR)
        try:
            self.lock = WriteLock(path)
            self.lock.use(self._file.inode)
        except OSError:
            self._file.close()
            raise
        # with the process id, since forked processes have the same randomness
        self._bells = Bells(path, f"{os.getpid()}-{random.getrandbits(32):08x}")
        self.socket = self._bells.socket
        self._run = self._file.connection.execute
        self._table = Table(self._file.connection)
        self._leases = Leases(self._file.connection, clock)
        self.identity = ""
        self.full = False
        """Whether new instances must be refused, to leave space for the end of those that exist."""
        self.revision = 0
        """The last revision that this process has read or written."""
        self.first_end_us = 0
        """When the first lease ends, as far as this process knows."""
        self._statements: Statements | None = None
        self._heard: tuple[str, ...] = ()
        """The prefixes that any process watched at the last write."""
        self._durable: bool | None = None
        self._data_version = 0
        self._changes = self._copied = 0
        """Pages that were written since the file exists, and before the last checkpoint that is known here."""
        self._watches_version = -1
        self._peers: list[tuple[str, tuple[str, ...]]] = []
        """Other processes' sockets, each with the prefixes that its process watches."""
        self._own: set[int] = set()
        """Revisions of this process, since it has last looked for those of others."""
        self._checkpoint_from = CHECKPOINT_FROM
        try:
            self.identity = self._file.identity
            self.tick([])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._bells.close()
        self._close_file()

    def _close_file(self) -> None:
        if self._statements is not None:
            self._statements.close()
        self._file.close()
        self.lock.close()

    def abandon(self) -> None:
        """Close the copies of a child, and leave everything to the parent."""
        self._bells.abandon()
        self._close_file()

    def now_us(self) -> int:
        """The time that leases count in."""
        return self._leases.now_us()

    # -- requests -------------------------------------------------------------------------------------------------

    def read(self, requests: Sequence[Request]) -> None:
        """Answer reads, as of one moment; raises sqlite3.Error."""
        self._run("BEGIN")
        try:
            transaction = self._transaction(self.revision, ())
            for request in requests:
                request.run(transaction, self._leases)
        finally:
            self._run("ROLLBACK")

    def write(self, requests: Sequence[Request], watches: Sequence[SqliteWatch]) -> None:
        """Apply writes in one transaction of SQLite, while this process has the write lock.

        Raises sqlite3.Error or PeerjobError if nothing was written.
        """
        self._set_durable(any(request.durable for request in requests))
        self._run("BEGIN IMMEDIATE")
        try:
            transaction, before = self._begin(watches)
            for request in requests:
                try:
                    request.run(transaction, self._leases)
                except PeerjobError as error:
                    # the request was refused before it wrote
                    request.error = error
            transaction.flush()
            if transaction.revision != before:
                self._changes += transaction.changes
                told = (transaction.revision, self._changes, self._copied)
                self._run("UPDATE store SET revision = ?, changes = ?, copied = max(copied, ?)", told)
            self._run("COMMIT")
        except BaseException as error:
            if self._file.connection.in_transaction:
                self._run("ROLLBACK")
            if isinstance(error, sqlite3.Error) and no_space(error):
                self.full = True
            raise
        self.revision = transaction.revision
        self._own.update(transaction.revisions)
        if self._leases.changed:
            self._leases.changed = False
            self.first_end_us = self._leases.first_end_us()
        self.check_space()
        self._tell(transaction, watches)

    def write_directly(
        self, transactions: Sequence[Transaction], also: Transaction | None, guards: Sequence[Compare], *, synced: bool
    ) -> Applied | None:
        """`KeyValue.txn` in one call of SQLite; None if nothing was written, and the thread of the file has to do it.

        One thread at a time may call it, beside the thread of the file.
        """
        if self._leases.now_us() >= self.first_end_us or not self.lock.take():
            return None
        try:
            self._file.check_same()
            if self._statements is None:
                self._statements = Statements(self._file.another_connection(), self._clock, synced=synced)
            statements = self._statements
            known = (self._heard, self._watches_version, self._checkpoint_from)
            revision = statements.write(transactions, also, guards, *known)
        except (sqlite3.Error, PeerjobError):
            return None  # the thread of the file meets the error again, and knows what to do
        finally:
            self.lock.give()
        if not revision:
            return None
        try:
            answers = None if also is None else statements.read(also.reads)
        except sqlite3.Error as error:
            raise translated(error, self._url) from error
        return Applied(revision, [()] * len(transactions), answers)

    def _begin(self, watches: Sequence[SqliteWatch]) -> tuple[SharedTransaction, int]:
        self._file.check_same()
        row = self._run("SELECT revision, watches, changes, copied FROM store").fetchone()
        revision, version, self._changes, copied = row
        self._copied = max(self._copied, copied)
        if version != self._watches_version:
            self._read_peers(version)
        heard = {prefix for watch in watches for prefix in watch.prefixes}
        heard.update(prefix for _, prefixes in self._peers for prefix in prefixes)
        self._heard = tuple(heard)
        transaction = self._transaction(revision, self._heard)
        if self._leases.now_us() >= self.first_end_us and self._leases.end_due():
            transaction.next_revision()
        return transaction, revision

    def _transaction(self, revision: int, heard: tuple[str, ...]) -> SharedTransaction:
        now_us = self._clock.time_us()
        return SharedTransaction(
            self._table, self._leases, url=self._url, revision=revision, now_us=now_us, heard=heard
        )

    def _set_durable(self, durable: bool) -> None:
        if durable is not self._durable:
            self._run(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    # -- watches --------------------------------------------------------------------------------------------------

    def register(self, watches: Sequence[SqliteWatch]) -> None:
        """Write which keys this process watches, so that others ring its bell; needs the write lock."""
        name = self._bells.name
        self._run("BEGIN IMMEDIATE")
        try:
            self._run("DELETE FROM watch WHERE socket = ?", (name,))
            if name:
                for prefix in {prefix for watch in watches for prefix in watch.prefixes}:
                    self._run("INSERT INTO watch VALUES (?, ?)", (name, prefix))
            self._run("UPDATE store SET watches = watches + 1")
            self._run("COMMIT")
        except BaseException:
            if self._file.connection.in_transaction:
                self._run("ROLLBACK")
            raise

    def _read_peers(self, version: int) -> None:
        peers: dict[str, list[str]] = {}
        for name, prefix in self._run("SELECT socket, prefix FROM watch").fetchall():
            if name != self._bells.name:
                peers.setdefault(name, []).append(prefix)
        self._peers = [(name, tuple(prefixes)) for name, prefixes in peers.items()]
        self._watches_version = version

    def _tell(self, transaction: SharedTransaction, watches: Sequence[SqliteWatch]) -> None:
        told = transaction.told
        if not told:
            return
        for watch in watches:
            watch.tell_all(told)
        keys = [*told]
        gone = [
            name
            for name, prefixes in self._peers
            if any(key.startswith(prefixes) for key in keys) and not self._bells.ring(name)
        ]
        if gone:
            self._forget(gone)

    def _forget(self, gone: Sequence[str]) -> None:
        """Remove the registrations of processes that have ended; needs the write lock."""
        self._peers = [peer for peer in self._peers if peer[0] not in gone]
        for name in gone:
            self._run("DELETE FROM watch WHERE socket = ?", (name,))

    def heard(self) -> bool:
        """Whether another process has rung since the last call."""
        return self._bells.heard()

    def look(self, watches: Sequence[SqliteWatch]) -> None:
        """Tell watches which keys other processes have put."""
        self._run("BEGIN")
        try:
            self.revision, self._changes = self._run("SELECT revision, changes FROM store").fetchone()
            for watch in watches:
                newer = [self._table.newer(prefix, prefix_end(prefix), watch.seen) for prefix in watch.prefixes]
                watch.tell_all({key: value for rows in newer for key, value, mod in rows if mod not in self._own})
                watch.seen = self.revision
            self._own.clear()
        finally:
            self._run("ROLLBACK")

    # -- once a second --------------------------------------------------------------------------------------------

    def tick(self, watches: Sequence[SqliteWatch]) -> None:
        """Look whether other processes have written, and write a checkpoint if one is due."""
        (version,) = self._run("PRAGMA data_version").fetchone()
        if version != self._data_version:
            self.look(watches)
            self.first_end_us = self._leases.first_end_us()
            # last, so that the next second looks again after an error of the disk
            self._data_version = version
        else:
            self._own.clear()
            for watch in watches:
                watch.seen = self.revision
        self.check_space()

    def check_space(self) -> None:
        """Remember whether new instances must be refused."""
        free, size = self._file.free_bytes()
        # the next checkpoint may let the file grow by all that is in the log
        self.full = free - (self._changes - self._copied) * PAGE < reserve_of(size)
        self._checkpoint_from = min(CHECKPOINT_FROM, size // _WAL_SHARE // PAGE)

    def checkpoint(self) -> None:
        """Copy the log into the file if that is due, and this process's task."""
        waiting = self._changes - self._copied
        due = self._checkpoint_from
        if waiting >= due and (self.lock.lead() or waiting >= _OVERDUE * due):
            # without space, the log goes on, and the next write tries again
            with contextlib.suppress(sqlite3.Error):
                self._file.checkpoint()
                self._copied = self._changes


def reserve_of(size: int) -> int:
    """The free bytes below which a file system of this size takes no new instances."""
    return min(_RESERVE, size // _RESERVED_SHARE)
