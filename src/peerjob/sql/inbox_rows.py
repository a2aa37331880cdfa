"""The rows of the inbox: which claim writes, what a function returned, and their removal."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.durations import Duration, to_seconds

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


def lock_fence(connected: Connected, table: str, instance: str, fence: int) -> bool:
    """Lock the row of an instance until the transaction ends; False if a later claim has written."""
    fences, dialect = beside(table, FENCES), connected.dialect
    sql = (
        f"INSERT INTO {fences} AS known (instance, fence) VALUES ({_ID[dialect]}, :fence) "  # noqa: S608  # checked
        f"ON CONFLICT (instance) DO UPDATE SET fence = excluded.fence, written = {_NOW[dialect]} "
        "WHERE known.fence <= excluded.fence RETURNING known.fence"
    )
    if dialect == "sqlite":
        sql = sql.replace("RETURNING known.fence", "RETURNING fence")
    return bool(connected.execute(sql, {"instance": instance, "fence": fence}))


def kept_value(connected: Connected, table: str, instance: str, name: str) -> bytes | None:
    """The value that an earlier run of the instance kept under a name; None if there was none."""
    id = _ID[connected.dialect]
    sql = f"SELECT value FROM {beside(table, INBOX)} WHERE instance = {id} AND name = :name"  # noqa: S608  # checked
    rows = connected.execute(sql, {"instance": instance, "name": name})
    return bytes(rows[0][0]) if rows else None


def keep_value(connected: Connected, table: str, instance: str, name: str, value: bytes) -> None:
    """Keep a value beside the writes of the transaction."""
    id = _ID[connected.dialect]
    sql = f"INSERT INTO {beside(table, INBOX)} (instance, name, value) VALUES ({id}, :name, :value)"  # noqa: S608
    connected.execute(sql, {"instance": instance, "name": name, "value": value})


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
    for name in (INBOX, FENCES):
        sql = f"DELETE FROM {beside(table, name)} WHERE instance = {id}"  # noqa: S608  # checked
        if ids:
            connected.execute(sql, [{"instance": instance} for instance in ids])


FIRST = "00000000-0000-0000-0000-000000000000"


def clean(connected: Connected, table: str, older: Duration, limit: int) -> int:
    """See `Outbox.clean`."""
    ids = old_instances(connected, table, to_seconds(older, "older"), FIRST, limit)
    remove_instances(connected, table, ids)
    return len(ids)
