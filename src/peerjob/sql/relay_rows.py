"""The rows of an outbox, as a relay takes, deletes and keeps them aside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from peerjob.node.work.outbox import OutboxState

from .statements import Connected
from .tables import FENCES, Dialect, bad_table, beside

REPEATED_FOR = 85_800
"""Seconds after the first time of `taken` in which a row is sent again. The store knows its id for a day, and a call
that begins before the end of this time ends within minutes."""
MOST_COUNTED = 100_000
"""Most rows of a table that a count reads."""
LENT_FOR = 1
"""Seconds after which another relay takes a row that was taken and not deleted."""
AHEAD = 60
"""A row whose time of `taken` is so many seconds in the future was taken by a wrong clock, and does not wait for it."""

_NOW: dict[Dialect, str] = {"postgresql": "now()", "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now')"}
_FROM_NOW: dict[Dialect, str] = {
    "postgresql": "now() + interval '{} seconds'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now', '{} seconds')",
}
_TAKEN: dict[Dialect, str] = {
    "postgresql": "least(due.taken - interval '1 microsecond', now())",
    "sqlite": (
        f"CASE WHEN taken IS NULL THEN {_NOW['sqlite']} "
        f"WHEN taken > {_NOW['sqlite']} THEN strftime('%Y-%m-%d %H:%M:%f', 'now', '-{LENT_FOR}.001 seconds') "
        "ELSE coalesce(strftime('%Y-%m-%d %H:%M:%f', taken, '-0.001 seconds'), taken) END"
    ),
}
"""The new time of `taken`. On SQLite, `take` reads from it whether the row was taken before."""
_ID: dict[Dialect, str] = {"postgresql": "CAST(:id AS uuid)", "sqlite": ":id"}
_FIRST: dict[Dialect, str] = {
    "postgresql": "CAST(CAST(:first AS text) AS timestamp) AT TIME ZONE 'UTC'",
    "sqlite": ":first",
}
_READ_ID: dict[Dialect, str] = {
    "postgresql": "CAST(id AS text)",
    # a driver raises an error for a text that is not UTF-8
    "sqlite": "CASE WHEN id GLOB '*[^ -~]*' THEN CAST(id AS blob) ELSE id END",
}
_READ_CALL = "CASE typeof(call) WHEN 'text' THEN CAST(call AS blob) ELSE call END"
_AGE: dict[Dialect, str] = {
    "postgresql": "CAST(coalesce(extract(epoch FROM now() - min(created)), 0) AS float8)",
    "sqlite": "coalesce((julianday('now') - julianday(min(created))) * 86400, 0)",
}


def is_empty(connected: Connected, table: str) -> bool:
    """Whether an outbox has no row; it takes no lock."""
    return not connected.execute(f"SELECT 1 FROM {table} LIMIT 1")  # noqa: S608  # the name is checked


class TakenRow(NamedTuple):
    """A row that a relay has taken. A column of SQLite can have values of any type."""

    id: Any
    call: Any
    first: str | None
    """The time of `taken`, if no relay may have sent the row before; otherwise None."""


def take(connected: Connected, table: str, limit: int, size: int) -> list[TakenRow]:
    """Take the first rows that no other relay has, in the order of their ids: at most `limit`, none after `size` bytes.

    The time of the first take stays, but for the least part of a second. So `give_back` sees a later take of a row.
    """
    dialect = connected.dialect
    times = (-LENT_FOR, -REPEATED_FOR, AHEAD, REPEATED_FOR)
    lent, old, ahead, future = (_FROM_NOW[dialect].format(seconds) for seconds in times)
    repeated = f"(taken < {lent} AND taken > {old}) OR (taken > {ahead} AND taken <= {future})"
    free = f"FROM {table} WHERE taken IS NULL OR {repeated} ORDER BY id LIMIT :limit"
    before = "sum(size) OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    within = f"coalesce({before}, 0) < CAST(:size AS bigint)"
    if dialect == "postgresql":
        sql = (
            f"WITH free AS (SELECT id, taken, octet_length(call) AS size {free} FOR UPDATE SKIP LOCKED), "  # noqa: S608  # the name is checked
            f"due AS (SELECT id, taken, {within} AS within FROM free) "
            f"UPDATE {table} AS row SET taken = {_TAKEN[dialect]} "
            "FROM due WHERE row.id = due.id AND within RETURNING CAST(row.id AS text), row.call, "
            # the abbreviation of a time zone can be read as that of another zone
            "CASE WHEN due.taken IS NULL THEN CAST(row.taken AT TIME ZONE 'UTC' AS text) END"
        )
    else:
        sql = (
            f"UPDATE {table} SET taken = {_TAKEN[dialect]} "  # noqa: S608  # the name is checked
            f"WHERE id IN (SELECT id FROM (SELECT id, {within} AS within FROM "
            f"(SELECT id, coalesce(length(call), 0) AS size {free})) WHERE within) "
            f"RETURNING {_READ_ID[dialect]}, {_READ_CALL}, "
            # a row that was taken before was taken a second ago or earlier
            f"CASE WHEN taken >= {lent} THEN taken END"
        )
    rows = [TakenRow(*row) for row in connected.execute(sql, {"limit": limit, "size": size})]
    return sorted(rows, key=lambda row: str(row.id))


def give_back(connected: Connected, table: str, rows: Sequence[TakenRow]) -> None:
    """Make rows again those that no relay may have sent, unless another relay has taken a row since."""
    given = [{"id": row.id, "first": row.first} for row in rows if row.first is not None]
    id, first = _ID[connected.dialect], _FIRST[connected.dialect]
    sql = f"UPDATE {table} SET taken = NULL WHERE id = {id} AND taken = {first}"  # noqa: S608  # the name is checked
    if given:
        connected.execute(sql, given)


def _ids(dialect: Dialect, ids: Iterable[Any]) -> list[tuple[str, list[Any]]]:
    """Conditions, and the ids for each: a text of SQLite that is not UTF-8 has been read as bytes."""
    given = list(ids)
    odd = [id for id in given if isinstance(id, bytes)]
    conditions = [(f"id = {_ID[dialect]}", [id for id in given if not isinstance(id, bytes)])]
    return [*conditions, ("CAST(id AS blob) = :id", odd)] if odd else conditions


def delete(connected: Connected, table: str, ids: Sequence[Any]) -> None:
    """Delete rows that were sent."""
    if not ids:
        return
    if connected.dialect == "postgresql":
        sql = f"DELETE FROM {table} WHERE id = ANY(CAST(:ids AS uuid[]))"  # noqa: S608  # the name is checked
        connected.execute(sql, {"ids": list(ids)})
    else:
        for condition, chosen in _ids("sqlite", ids):
            sql = f"DELETE FROM {table} WHERE {condition}"  # noqa: S608  # the name is checked
            if chosen:
                connected.execute(sql, [{"id": id} for id in chosen])


def keep_aside(connected: Connected, table: str, errors: Mapping[Any, str]) -> None:
    """Move rows to the table of bad rows, each with its error."""
    if not errors:
        return
    for condition, ids in _ids(connected.dialect, errors):
        sql = (
            f"INSERT INTO {bad_table(table)} (id, call, created, taken, error) "  # noqa: S608  # the name is checked
            f"SELECT id, call, created, taken, CAST(:error AS text) FROM {table} WHERE {condition} "
            "ON CONFLICT (id) DO UPDATE SET error = excluded.error"
        )
        if ids:
            connected.execute(sql, [{"id": id, "error": errors[id]} for id in ids])
    delete(connected, table, list(errors))


def refusals(connected: Connected, table: str, ids: Sequence[str]) -> dict[str, str]:
    """Why rows are in the table of bad rows, by id; other ids are left out."""
    names = {f"id{number}": id for number, id in enumerate(ids)}
    chosen = ", ".join(_ID[connected.dialect].replace(":id", f":{name}") for name in names)
    sql = f"SELECT CAST(id AS text), error FROM {bad_table(table)} WHERE id IN ({chosen})"  # noqa: S608  # checked
    return {id: f"{bad_table(table)} has its row: {error}" for id, error in connected.execute(sql, names)}


def old_rows(connected: Connected, table: str, limit: int) -> list[Any]:
    """Rows that were taken so long ago that the store perhaps does not know their ids any more.

    A row that was taken in the future, by a clock that was wrong, is one of them.
    """
    old, future = (_FROM_NOW[connected.dialect].format(seconds) for seconds in (-REPEATED_FOR, REPEATED_FOR))
    id = _READ_ID[connected.dialect]
    sql = f"SELECT {id} FROM {table} WHERE taken <= {old} OR taken > {future} LIMIT :limit"  # noqa: S608  # checked
    return [row[0] for row in connected.execute(sql, {"limit": limit})]


def state_of(connected: Connected, table: str) -> OutboxState:
    """Count the rows."""
    age = _AGE[connected.dialect]
    # ids ascend with the time, so the first id is about the oldest row
    first = f"SELECT created FROM {table} ORDER BY id LIMIT 1"  # noqa: S608  # the name is checked
    ((oldest,),) = connected.execute(f"SELECT {age} FROM ({first}) AS oldest")  # noqa: S608  # checked
    rows, refused, inbox = (_count(connected, name) for name in (table, bad_table(table), beside(table, FENCES)))
    return OutboxState(table=table, rows=rows, oldest=max(0.0, float(oldest)), refused=refused, inbox=inbox)


def _count(connected: Connected, table: str) -> int:
    sql = f"SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT {MOST_COUNTED}) AS counted"  # noqa: S608  # checked
    ((count,),) = connected.execute(sql)
    return int(count)
