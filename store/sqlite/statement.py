"""A whole transaction in one statement of SQLite, for a calling thread.

Python handles a signal between two calls, so a signal finds all of the transaction written, or nothing of it. The rows
of the statement go to a view; its triggers compare and write. They live in the connection, not in the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from peerjob.model.clock import Clock
from peerjob.store.kv.format.base import Compare, Found, Put, Range, Transaction

from .table import Table
from .transaction import PAGE

_MOST = 32
"""Most rows of a statement."""
_REVISION, _LOG, _COMPARE, _BELOW, PUT = range(5)
"""What a row of the statement does."""
_TRIGGERS = {
    # the revision must be that of no other write, and the watches those that the caller knows
    _REVISION: "UPDATE store SET revision = NEW.mod, changes = changes + NEW.value "
    "WHERE revision < NEW.mod AND watches = NEW.key; SELECT RAISE(ABORT, 'revision') WHERE changes() = 0",
    _LOG: "SELECT RAISE(ABORT, 'log') WHERE (SELECT changes - copied FROM store) >= NEW.mod",
    _COMPARE: "SELECT RAISE(ABORT, 'mod') WHERE coalesce((SELECT mod FROM kv WHERE key = NEW.key), 0) != NEW.mod",
    _BELOW: "SELECT RAISE(ABORT, 'below') "
    "WHERE NOT coalesce((SELECT value FROM kv WHERE key = NEW.key) < NEW.value, 0)",
    PUT: "INSERT INTO kv VALUES (NEW.key, NEW.value, NEW.mod, 0) ON CONFLICT (key) DO UPDATE "
    "SET value = excluded.value, mod = excluded.mod, lease = excluded.lease",
}
_INSERTS = [", ".join(["INSERT INTO part VALUES (?, ?, ?, ?)", *["(?, ?, ?, ?)"] * more]) for more in range(_MOST)]


class Statements:
    """A connection for such statements. One thread at a time uses it, and none waits in it for another connection."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock, *, synced: bool) -> None:
        self._connection = connection
        self._run = connection.execute
        self._table = Table(connection)
        self._clock = clock
        self._run("PRAGMA busy_timeout = 0")
        self._run(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        self._run("CREATE TEMP VIEW part AS SELECT 0 AS what, '' AS key, x'' AS value, 0 AS mod")
        for what, does in _TRIGGERS.items():
            self._run(
                f"CREATE TEMP TRIGGER part{what} INSTEAD OF INSERT ON part WHEN NEW.what = {what} BEGIN {does}; END"
            )

    def close(self) -> None:
        self._connection.close()

    def write(
        self,
        transactions: Sequence[Transaction],
        also: Transaction | None,
        guards: Sequence[Compare],
        heard: tuple[str, ...],
        watches: int,
        longest_log: int,
    ) -> int:
        """Write, and return the revision; 0 if it does not fit into a statement.

        Raises sqlite3.Error with nothing written, also for a compare that does not hold, for another number of
        `watches` than that of the file, and for a log of `longest_log` pages, which needs a checkpoint.
        """
        revision, pages = self._clock.time_us(), 0
        compares, puts = list[Any](), list[Any]()
        parts = [*transactions, also] if also is not None else transactions
        for guard in (*guards, *(compare for part in parts for compare in part.compares)):
            if guard.end:
                return 0
            compares += (
                (_BELOW, guard.key, guard.below.encode(), 0) if guard.below else (_COMPARE, guard.key, None, guard.mod)
            )
        for part in parts:
            if part.reads and part is not also:
                return 0
            for op in part.ops:
                if not isinstance(op, Put) or op.lease or op.key.startswith(heard):
                    return 0
                puts += (PUT, op.key, op.value, revision)
                pages += 1 + len(op.value) // PAGE
        size = 2 + (len(compares) + len(puts)) // 4
        if size > _MOST or not puts:
            return 0
        first = (_REVISION, watches, pages, revision, _LOG, None, None, longest_log)
        self._run(_INSERTS[size - 1], (*first, *compares, *puts))
        return revision

    def read(self, ranges: Sequence[Range]) -> list[Found]:
        """The answers to reads."""
        return [self._table.range(wanted) for wanted in ranges]
