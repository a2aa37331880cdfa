"""Sees for which transactions SQLite waits for the disk, and what they write."""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from peerjob.store.sqlite.statement import PUT


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A transaction of SQLite that wrote keys."""

    kept: Sequence[str]
    """The keys that do not end with a lease."""
    waited: bool
    """Whether it waited for the disk."""


@contextmanager
def seen_commits() -> Generator[list[Committed]]:
    """The commits of connections that are opened within, in their order."""
    seen: list[Committed] = []
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        _kept: Sequence[str] = ()
        _waits = True

        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            answer = super().execute(sql, parameters)
            if sql.startswith("PRAGMA synchronous"):
                self._waits = sql.endswith("FULL")
            elif sql.startswith("BEGIN"):
                self._kept = []
            elif sql.startswith("INSERT INTO part"):
                # a transaction of its own: each row is the number of a step, key, value, revision
                kept = [key for what, key in zip(parameters[::4], parameters[1::4], strict=True) if what == PUT]
                seen.append(Committed(kept=kept, waited=self._waits))
            elif "INTO kv VALUES" in sql:
                # each row is key, value, revision, lease
                rows = zip(parameters[::4], parameters[3::4], strict=True)
                self._kept = [*self._kept, *(key for key, lease in rows if not lease)]
            elif sql == "COMMIT":
                seen.append(Committed(kept=self._kept, waited=self._waits))
            return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *given, **options: connect(*given, factory=Connection, **options))
        yield seen
