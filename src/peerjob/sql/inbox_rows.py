"""The rows of the inbox: which claim writes, what a function returned, and their removal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import DecodeError

from .statements import Connected
from .tables import FENCES, INBOX, Dialect, beside

_AGE: dict[Dialect, str] = {
    "postgresql": "clock_timestamp() - CAST(:seconds AS float8) * interval '1 second'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || :seconds || ' seconds')",
}
_NOW: dict[Dialect, str] = {
    "postgresql": "clock_timestamp()",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now')",
}
_ID: dict[Dialect, str] = {"postgresql": "CAST(:instance AS uuid)", "sqlite": ":instance"}


_SAVEPOINT = "peerjob_transact"


def lock_fence(connected: Connected, table: str, instance: str, fence: int, name: str) -> int | None:
    """Lock the row of an instance until the transaction ends; None if a later claim has written.

    The row then names a value, and its foreign key refuses a commit before `keep_value` has written this value. SQLite
    checks foreign keys only on connections that turn them on. Returns the mark of the transaction, for `keep_value`.
    """
    fences, dialect = beside(table, FENCES), connected.dialect
    mark = "txid_current()" if dialect == "postgresql" else "0"
    sql = (
        f"INSERT INTO {fences} AS known (instance, fence, name) "  # noqa: S608  # checked
        f"VALUES ({_ID[dialect]}, :fence, :name) ON CONFLICT (instance) "
        f"DO UPDATE SET fence = excluded.fence, name = excluded.name, written = {_NOW[dialect]} "
        f"WHERE known.fence <= excluded.fence RETURNING {mark}"
    )
    rows = connected.execute(sql, {"instance": instance, "fence": fence, "name": name})
    if not rows:
        return None
    if dialect == "sqlite":
        connected.execute(f"SAVEPOINT {_SAVEPOINT}")
    return int(rows[0][0])


def kept_value(connected: Connected, table: str, instance: str, name: str) -> bytes | None:
    """The value that an earlier run of the instance kept under a name; None if there was none. Raises DecodeError."""
    id = _ID[connected.dialect]
    sql = f"SELECT value FROM {beside(table, INBOX)} WHERE instance = {id} AND name = :name"  # noqa: S608  # checked
    rows = connected.execute(sql, {"instance": instance, "name": name})
    if not rows:
        return None
    value: Any = rows[0][0]
    # SQLite keeps values of any type, and `bytes` makes NULs of a number
    if type(value) not in (bytes, bytearray, memoryview):
        raise DecodeError(f"value {name!r} of {instance} in the inbox is {type(value).__name__}, and not bytes")
    return bytes(value)


def keep_value(connected: Connected, table: str, instance: str, name: str, value: bytes, mark: int) -> bool:
    """Keep a value beside the writes of the transaction; False if it is another transaction than that of the mark."""
    inbox, given = beside(table, INBOX), {"instance": instance, "name": name, "value": value}
    if connected.dialect == "sqlite":
        # another transaction has not this savepoint
        try:
            connected.execute(f"RELEASE {_SAVEPOINT}")
        except Exception as error:
            if "no such savepoint" in str(error):
                return False
            raise
        sql = f"INSERT INTO {inbox} (instance, name, value) VALUES (:instance, :name, :value)"  # noqa: S608  # checked
        connected.execute(sql, given)
        return True
    sql = (
        f"INSERT INTO {inbox} (instance, name, value) "  # checked
        "SELECT CAST(:instance AS uuid), CAST(:name AS text), CAST(:value AS bytea) "
        "WHERE txid_current() = CAST(:mark AS bigint) RETURNING 1"
    )
    return bool(connected.execute(sql, {**given, "mark": mark}))


def old_instances(connected: Connected, table: str, seconds: float, after: str, limit: int) -> list[str]:
    """The next instances, in the order of their ids, that wrote nothing for so many seconds."""
    fences, dialect = beside(table, FENCES), connected.dialect
    sql = (
        f"SELECT CAST(instance AS text) FROM {fences} "  # noqa: S608  # checked
        f"WHERE instance > {_ID[dialect]} AND written < {_AGE[dialect]} ORDER BY instance LIMIT :limit"
    )
    rows = connected.execute(sql, {"instance": after, "seconds": seconds, "limit": limit})
    return [str(id) for (id,) in rows]


def remove_instances(connected: Connected, table: str, ids: Sequence[str]) -> None:
    """Remove the rows of instances."""
    id = _ID[connected.dialect]
    for name in (FENCES, INBOX):  # a fence refers to a value
        sql = f"DELETE FROM {beside(table, name)} WHERE instance = {id}"  # noqa: S608  # checked
        if ids:
            connected.execute(sql, [{"instance": instance} for instance in ids])


FIRST = "00000000-0000-0000-0000-000000000000"


def clean(connected: Connected, table: str, older: Duration, limit: int) -> int:
    """See `Outbox.clean`."""
    ids = old_instances(connected, table, to_seconds(older, "older"), FIRST, limit)
    remove_instances(connected, table, ids)
    return len(ids)
