"""The tables of the outbox and of the inbox: their names, their columns, and the errors of tables that do not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from peerjob.model.errors import OptionError, TableError

Dialect = Literal["postgresql", "sqlite"]
DIALECTS: tuple[Dialect, ...] = ("postgresql", "sqlite")
DEFAULT_TABLE = "peerjob_outbox"
INBOX = "peerjob_inbox"
FENCES = "peerjob_inbox_fence"
MAX_TABLE = 48
"""Most characters of a name. With a suffix, it is a name of PostgreSQL, which has 63 bytes at most."""
MAX_CHANNEL = 63

_NAME = re.compile(rf"[a-z_][a-z0-9_]{{0,{MAX_TABLE - 1}}}")
_MISSING = {"42P01", "3F000"}
_CONFLICTS = {"40001", "40P01"}
_COLUMNS = {"42703", "42804", "42883", "23502"}

_POSTGRESQL_OUTBOX = """\
CREATE TABLE IF NOT EXISTS {outbox} (
    id uuid PRIMARY KEY,
    call bytea NOT NULL,
    created timestamptz NOT NULL DEFAULT clock_timestamp(),
    taken timestamptz
);
CREATE TABLE IF NOT EXISTS {bad} (
    id uuid PRIMARY KEY,
    call bytea NOT NULL,
    created timestamptz NOT NULL,
    taken timestamptz,
    error text NOT NULL
);
"""
_POSTGRESQL_INBOX = """\
CREATE TABLE IF NOT EXISTS {inbox} (
    instance uuid NOT NULL,
    name text NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (instance, name)
);
CREATE TABLE IF NOT EXISTS {fences} (
    instance uuid PRIMARY KEY,
    fence bigint NOT NULL,
    name text,
    written timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (instance, name) REFERENCES {inbox} DEFERRABLE INITIALLY DEFERRED
);
"""
_SQLITE_OUTBOX = """\
CREATE TABLE IF NOT EXISTS {outbox} (
    id text PRIMARY KEY NOT NULL,
    call blob NOT NULL,
    created text NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    taken text
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {bad} (
    id text PRIMARY KEY NOT NULL,
    call blob NOT NULL,
    created text NOT NULL,
    taken text,
    error text NOT NULL
) WITHOUT ROWID;
"""
_SQLITE_INBOX = """\
CREATE TABLE IF NOT EXISTS {inbox} (
    instance text NOT NULL,
    name text NOT NULL,
    value blob NOT NULL,
    PRIMARY KEY (instance, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {fences} (
    instance text PRIMARY KEY NOT NULL,
    fence integer NOT NULL,
    name text,
    written text NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    FOREIGN KEY (instance, name) REFERENCES peerjob_inbox DEFERRABLE INITIALLY DEFERRED
) WITHOUT ROWID;
"""
_DDL: dict[Dialect, str] = {
    "postgresql": _POSTGRESQL_OUTBOX + _POSTGRESQL_INBOX,
    "sqlite": _SQLITE_OUTBOX + _SQLITE_INBOX,
}


def checked_table(table: object) -> str:
    """The name of an outbox, with a schema before it or none; raises OptionError."""
    if isinstance(table, str) and all(map(_NAME.fullmatch, table.split("."))) and table.count(".") < 2:
        return table
    expected = f"a name of at most {MAX_TABLE} characters (a-z, 0-9, _), such as {DEFAULT_TABLE} or app.{DEFAULT_TABLE}"
    raise OptionError("table", table, expected)


def checked_dialect(dialect: object, option: str) -> Dialect:
    """The kind of a database; raises OptionError for one without an outbox."""
    for known in DIALECTS:
        if dialect == known:
            return known
    raise OptionError(option, dialect, "a database of PostgreSQL or SQLite")


def bad_table(table: str) -> str:
    """The table of the rows that a relay keeps aside."""
    return f"{table}_bad"


def channel_of(table: str) -> str:
    """The channel of the notifications of an outbox: PostgreSQL allows 63 bytes."""
    return table[-MAX_CHANNEL:]


def beside(table: str, other: str) -> str:
    """The name of a table in the schema of an outbox."""
    schema, dot, _ = table.rpartition(".")
    return f"{schema}{dot}{other}"


def _names(table: str) -> tuple[str, ...]:
    """The names of all tables; a table comes before the one that it refers to."""
    return table, bad_table(table), beside(table, FENCES), beside(table, INBOX)


def ddl(table: str, dialect: Dialect) -> str:
    """The statements that make all tables that are missing."""
    return _DDL[dialect].format(
        outbox=table, bad=bad_table(table), inbox=beside(table, INBOX), fences=beside(table, FENCES)
    )


def statements(table: str, dialect: Dialect) -> list[str]:
    """The statements of `ddl`, one by one."""
    return [statement.strip() for statement in ddl(table, dialect).split(";\n") if statement.strip()]


def creation_lock(dialect: Dialect) -> list[str]:
    """The statements that keep two transactions from making the tables at one time.

    On PostgreSQL, one of two simultaneous CREATE TABLE IF NOT EXISTS can fail.
    """
    return ["SELECT pg_advisory_xact_lock(194085)"] if dialect == "postgresql" else []


def removal(table: str) -> list[str]:
    """The statements that remove the tables with their rows."""
    return [f"DROP TABLE IF EXISTS {name}" for name in _names(table)]


def table_error(error: BaseException, table: str, dialect: Dialect) -> TableError | None:
    """What an error of the database says about the tables; None if it says nothing about them."""
    for cause in causes(error):
        state = _state_of(cause)
        text = str(cause)
        first_line = text.partition("\n")[0]
        if state in _MISSING or "no such table" in text:
            return TableError(_named_in(first_line, table), "is missing", ddl(table, dialect))
        if state in _COLUMNS or "has no column" in text or "no such column" in text or "NOT NULL constraint" in text:
            problem = f"is of another version ({first_line})"
            return TableError(_named_in(first_line, table), problem, ddl(table, dialect))
    return None


def _named_in(text: str, table: str) -> str:
    """The table that an error of the database names; the outbox itself if it names none."""
    return next((name for name in _names(table) if re.search(rf"\b{re.escape(name)}\b", text)), table)


def is_conflict(error: BaseException) -> bool:
    """Whether PostgreSQL has refused a transaction because of another one, so that a repeat can succeed."""
    return any(_state_of(cause) in _CONFLICTS for cause in causes(error))


def _state_of(error: BaseException) -> object:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and the errors of drivers in it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        orig = getattr(cause, "orig", None)
        waiting += [orig if isinstance(orig, BaseException) else None, cause.__cause__]
