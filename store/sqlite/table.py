"""The keys in the file: reads and writes within a transaction of SQLite.

Each step of a statement releases the lock of the interpreter, and another thread may then keep that lock for
milliseconds while peers wait for the file. So one statement reads or writes many keys.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, islice

import msgspec

from peerjob.store.kv.format.base import Entry, Found, Range

_SIZES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of keys in one statement: few numbers, so that SQLite keeps the compiled statements."""
_NOTHING = Found((), 0)
_MODS = "SELECT json_group_object(key, mod) FROM kv WHERE key IN ({})"
_ENTRIES = "SELECT key, value, mod, lease FROM kv WHERE key IN ({})"
_DELETE = "DELETE FROM kv WHERE key IN ({})"
_PUT = (
    "INSERT INTO kv VALUES {} ON CONFLICT (key) DO UPDATE SET value = excluded.value, mod = excluded.mod,"
    " lease = excluded.lease"
)
_INSIDE = "FROM kv WHERE key >= ? AND key < ?"

_decode_mods = msgspec.json.Decoder(dict[str, int]).decode

Row = tuple[str, bytes, int, int]
"""Key, value, revision and lease."""


def _marks(statement: str, row: str) -> dict[int, str]:
    return {size: statement.format(", ".join([row] * size)) for size in _SIZES}


class Table:
    """The keys, through one connection."""

    _mods, _entries, _deletes = (_marks(statement, "?") for statement in (_MODS, _ENTRIES, _DELETE))
    _puts = _marks(_PUT, "(?, ?, ?, ?)")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._run = connection.execute

    def mods(self, keys: Collection[str]) -> dict[str, int]:
        """The revision of each key; 0 for a key that does not exist."""
        counts = dict.fromkeys(keys, 0)
        for part in _padded(keys):
            counts |= _decode_mods(self._run(self._mods[len(part)], part).fetchone()[0])
        return counts

    def entries(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries of those keys that exist."""
        return {
            key: Entry(value, mod, lease)
            for part in _padded(keys)
            for key, value, mod, lease in self._run(self._entries[len(part)], part).fetchall()
        }

    def range(self, wanted: Range) -> Found:
        """The answer to a read."""
        start, end, limit = wanted.start, wanted.end, wanted.limit
        if not end:
            entries = self.entries((start,))
            return Found(((start, entries[start]),), 1) if entries else _NOTHING
        value, order = "x''" if wanted.keys_only else "value", "DESC" if wanted.reverse else ""
        select = f"SELECT key, {value}, mod, lease {_INSIDE} ORDER BY key {order} LIMIT ?"
        rows = self._run(select, (start, end, limit or -1)).fetchall()
        if not rows:
            return _NOTHING
        count = len(rows)
        if limit and count == limit:
            (count,) = self._run(f"SELECT count(*) {_INSIDE}", (start, end)).fetchone()
        return Found([(key, Entry(value, mod, lease)) for key, value, mod, lease in rows], count)

    def is_empty(self, start: str, end: str) -> bool:
        """Whether no key is in [start, end)."""
        return bool(self._run(f"SELECT EXISTS (SELECT 1 {_INSIDE})", (start, end)).fetchone() == (0,))

    def newer(self, prefix: str, end: str, revision: int) -> list[tuple[str, bytes, int]]:
        """Keys with a prefix that were put after a revision: key, value, revision."""
        return self._run(f"SELECT key, value, mod {_INSIDE} AND mod > ?", (prefix, end, revision)).fetchall()

    def write(self, puts: Mapping[str, Row], deleted: Collection[str]) -> None:
        """Delete keys, then put keys: one that is in both comes back."""
        for part in _padded(deleted):
            self._run(self._deletes[len(part)], part)
        rows = iter([puts[key] for key in sorted(puts)])
        left = len(puts)
        while left:
            size = next(size for size in reversed(_SIZES) if size <= left)
            self._run(self._puts[size], [*chain.from_iterable(islice(rows, size))])
            left -= size

    def delete_range(self, start: str, end: str) -> None:
        """Delete all keys in [start, end)."""
        self._run(f"DELETE {_INSIDE}", (start, end))


def _padded(keys: Iterable[str]) -> Iterable[list[str]]:
    """The keys in parts of known sizes; a part repeats its last key to reach its size."""
    rest = iter(keys)
    while part := list(islice(rest, _SIZES[-1])):
        size = next(size for size in _SIZES if size >= len(part))
        part += part[-1:] * (size - len(part))
        yield part
