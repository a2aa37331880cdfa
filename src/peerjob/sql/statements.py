"""The statements of an outbox, and how each kind of connection executes them.

Parameters are written as `:name`. The statements of PostgreSQL use CAST, because `::` looks like a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from .tables import Dialect, channel_of

Parameters = Mapping[str, Any]
Rows = list[tuple[Any, ...]]
_PARAMETER = re.compile(r":(\w+)")


class Statement(NamedTuple):
    """One statement with its parameters, or with those of several rows."""

    sql: str
    parameters: Parameters | Sequence[Parameters]


class Connected(Protocol):
    """A connection in a transaction."""

    @property
    def dialect(self) -> Dialect:
        """The kind of the database."""
        ...

    def execute(self, sql: str, parameters: Parameters | Sequence[Parameters] = ...) -> Rows:
        """Execute a statement and return its rows; with a list of parameters, once for each, and without rows."""
        ...


def pyformat(sql: str) -> str:
    """A statement with parameters as `%(name)s`."""
    return _PARAMETER.sub(r"%(\1)s", sql.replace("%", "%%"))


class SqlAlchemyConnected:
    """A Connection of SQLAlchemy."""

    def __init__(self, connection: Any, dialect: Dialect) -> None:
        self.dialect: Dialect = dialect
        self._connection = connection

    def execute(self, sql: str, parameters: Parameters | Sequence[Parameters] = ()) -> Rows:
        from sqlalchemy import text

        result = self._connection.execute(text(sql), parameters or None)
        return [tuple(row) for row in result] if result.returns_rows else []


class PsycopgConnected:
    """A Connection of psycopg."""

    dialect: Dialect = "postgresql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Parameters | Sequence[Parameters] = ()) -> Rows:
        from psycopg import Cursor
        from psycopg.rows import tuple_row

        # the cursor of the connection can be of another class, with other placeholders
        made: Any = Cursor(self._connection, row_factory=tuple_row)
        with made as cursor:
            if parameters and not isinstance(parameters, Mapping):
                cursor.executemany(pyformat(sql), parameters)
            else:
                cursor.execute(pyformat(sql), parameters or {})
            return list(cursor.fetchall()) if cursor.description else []


class SqliteConnected:
    """A Connection of sqlite3."""

    dialect: Dialect = "sqlite"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Parameters | Sequence[Parameters] = ()) -> Rows:
        cursor = self._connection.cursor()
        cursor.row_factory = None
        if isinstance(parameters, Mapping) or not parameters:
            return list(cursor.execute(sql, parameters).fetchall())
        cursor.executemany(sql, parameters)
        return []


class DjangoConnected:
    """A connection of Django."""

    def __init__(self, connection: Any, dialect: Dialect) -> None:
        self.dialect: Dialect = dialect
        self._connection = connection

    def execute(self, sql: str, parameters: Parameters | Sequence[Parameters] = ()) -> Rows:
        with self._connection.cursor() as cursor:
            if isinstance(parameters, Mapping):
                cursor.execute(pyformat(sql), parameters)
            elif parameters:
                cursor.executemany(pyformat(sql), parameters)
            else:
                cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []


def insertion(table: str, dialect: Dialect, rows: Sequence[tuple[str, bytes]], *, notifies: bool = True) -> Statement:
    """One statement that adds rows, and on PostgreSQL wakes the relays at the commit.

    A transaction that notifies cannot be prepared for two phases.
    """
    if dialect == "sqlite":
        parameters = [{"id": id, "call": call} for id, call in rows]
        sql = f"INSERT INTO {table} (id, call) VALUES (:id, :call)"  # noqa: S608  # the name is checked
        return Statement(sql, parameters[0] if len(parameters) == 1 else parameters)
    values = "VALUES (CAST(:id AS uuid), CAST(:call AS bytea))"
    given: Parameters = {"channel": channel_of(table)} if notifies else {}
    if len(rows) == 1:
        given = {**given, "id": rows[0][0], "call": rows[0][1]}
    else:
        values = "SELECT row.id, row.call FROM unnest(CAST(:ids AS uuid[]), CAST(:calls AS bytea[])) AS row (id, call)"
        given = {**given, "ids": [id for id, _ in rows], "calls": [call for _, call in rows]}
    if not notifies:
        return Statement(f"INSERT INTO {table} (id, call) {values}", given)
    sql = (
        f"WITH added AS (INSERT INTO {table} (id, call) {values} RETURNING 1) "  # noqa: S608  # the name is checked
        "SELECT pg_notify(CAST(:channel AS text), '') FROM (SELECT 1 FROM added LIMIT 1) AS one"
    )
    return Statement(sql, given)
