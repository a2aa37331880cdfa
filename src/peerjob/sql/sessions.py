"""Finds the open transaction in what the user gives: a session or a connection of a known library."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from peerjob.model.errors import OptionError

from .statements import (
    Connected,
    DjangoConnected,
    PsycopgConnected,
    SqlAlchemyConnected,
    SqliteConnected,
    Statement,
    pyformat,
)
from .tables import Dialect, checked_dialect

SESSION = "a Session or a Connection of SQLAlchemy, or a connection of psycopg, sqlite3 or Django"
ASYNC_SESSION = "an AsyncSession or an AsyncConnection of SQLAlchemy, or an AsyncConnection of psycopg"
OPEN = "an open one"
IN_TRANSACTION = "one in a transaction: in autocommit, the row would not belong to the transaction of your data"
_LOCAL = {"", "localhost", "127.0.0.1", "::1"}


class Identity(NamedTuple):
    """Which database it is, as far as a connection tells."""

    dialect: Dialect
    location: str
    name: str

    def __str__(self) -> str:
        return f"{self.dialect} {self.name!r}" + (f" at {self.location}" if self.location else "")


class OpenTransaction(NamedTuple):
    """The open transaction of a user, and the database that it is in."""

    connected: Connected
    identity: Callable[[], Identity]
    is_two_phase: bool = False
    """Whether the transaction can be prepared, and then committed later."""


def identity_of(dialect: Dialect, host: object, port: object, name: object) -> Identity:
    """The identity of a database. Names of this machine count as one. The place of a socket is its folder."""
    location = str(host or "")
    if dialect == "sqlite":
        file = str(name or "")
        is_file = file not in ("", ":memory:") and not file.startswith("file:")
        return Identity(dialect, "", os.path.realpath(file) if is_file else file)
    where = "localhost" if location in _LOCAL else location
    return Identity(dialect, f"{where}:{port or 5432}", str(name or ""))


def is_a(value: object, module: str, *names: str) -> bool:
    """Whether a value is an object of a class of a library, which is not imported for the question."""
    loaded = sys.modules.get(module)
    kinds = [getattr(loaded, name, None) for name in names]
    return any(isinstance(kind, type) and isinstance(value, kind) for kind in kinds)


def transaction_of(session: object, *, autocommit: bool = False) -> OpenTransaction:
    """The open transaction of a session; raises OptionError.

    `autocommit` allows a connection without a transaction.
    """
    given: Any = session
    if is_a(session, "sqlalchemy.orm", "scoped_session"):
        given = given()  # the session of this thread
    if is_a(given, "sqlalchemy.orm", "Session"):
        given = _connection_of(given)
    if is_a(given, "sqlalchemy", "Connection"):
        return _of_sqlalchemy(given, autocommit)
    if is_a(given, "psycopg", "Connection"):
        _check_psycopg(given, autocommit)
        return OpenTransaction(PsycopgConnected(given), lambda: _identity_of_psycopg(given), _has_tpc(given))
    if is_a(given, "sqlite3", "Connection"):
        return _of_sqlite(given, autocommit)
    if is_a(given, "django.db.backends.base.base", "BaseDatabaseWrapper") or is_a(
        given, "django.utils.connection", "ConnectionProxy"
    ):
        return _of_django(given, autocommit)
    if _is_async(given):
        raise OptionError("session", type(session).__name__, f"{SESSION}; schedule_async() takes asynchronous ones")
    raise OptionError("session", type(session).__name__, SESSION)


async def run_async(
    session: object, statement_of: Callable[[Dialect, Callable[[], Identity], bool], Statement]
) -> None:
    """Execute a statement in the open transaction of an asynchronous session; raises OptionError.

    `statement_of` gets the fields of the OpenTransaction.
    """
    given: Any = session
    if is_a(session, "sqlalchemy.ext.asyncio", "async_scoped_session"):
        given = given()
    if is_a(given, "sqlalchemy.ext.asyncio", "AsyncSession", "AsyncConnection"):

        def run(sync: object) -> None:
            transaction = transaction_of(sync)
            statement = statement_of(transaction.connected.dialect, transaction.identity, transaction.is_two_phase)
            transaction.connected.execute(*statement)

        if is_a(given, "sqlalchemy.ext.asyncio", "AsyncConnection") and given.closed:
            raise OptionError("session", "a closed connection", OPEN)
        await given.run_sync(run)
    elif is_a(given, "psycopg", "AsyncConnection"):
        _check_psycopg(given, autocommit=False)
        from psycopg import AsyncCursor

        statement = statement_of("postgresql", lambda: _identity_of_psycopg(given), _has_tpc(given))
        made: Any = AsyncCursor(given)
        async with made as cursor:
            await cursor.execute(pyformat(statement.sql), statement.parameters)
    else:
        expected = ASYNC_SESSION
        if _is_sync(given):
            expected += "; schedule() takes this one"
        raise OptionError("session", type(given).__name__, expected)


def _is_async(session: object) -> bool:
    return is_a(session, "psycopg", "AsyncConnection") or is_a(
        session, "sqlalchemy.ext.asyncio", "AsyncSession", "AsyncConnection", "async_scoped_session"
    )


def _is_sync(session: object) -> bool:
    return (
        is_a(session, "sqlalchemy.orm", "Session", "scoped_session")
        or is_a(session, "sqlalchemy", "Connection")
        or is_a(session, "psycopg", "Connection")
        or is_a(session, "sqlite3", "Connection")
        or is_a(session, "django.db.backends.base.base", "BaseDatabaseWrapper")
    )


# -- SQLAlchemy ------------------------------------------------------------------------------------------------------


def _connection_of(session: Any) -> Any:
    from sqlalchemy.exc import InvalidRequestError, UnboundExecutionError

    try:
        return session.connection()
    except UnboundExecutionError as error:
        expected = "a Session that is bound to an engine, or its connection: session.connection(bind_arguments=…)"
        raise OptionError("session", "a Session without an engine", expected) from error
    except InvalidRequestError as error:
        raise OptionError("session", f"a Session that cannot be used ({error})", OPEN) from error


def _of_sqlalchemy(connection: Any, autocommit: bool) -> OpenTransaction:
    from sqlalchemy import TwoPhaseTransaction

    if connection.closed:
        raise OptionError("session", "a closed connection", OPEN)
    dialect = checked_dialect(connection.dialect.name, "session")
    if not autocommit:
        pooled = connection.connection
        commits = connection.dialect.detect_autocommit_setting(pooled.dbapi_connection)
        # programs with a BEGIN of their own leave sqlite3 in autocommit
        if commits and not getattr(pooled.driver_connection, "in_transaction", False):
            raise OptionError("session", "a connection in autocommit", IN_TRANSACTION)
    is_two_phase = isinstance(connection.get_transaction(), TwoPhaseTransaction)
    connected = SqlAlchemyConnected(connection, dialect)
    return OpenTransaction(connected, lambda: identity_of_url(connection.engine.url), is_two_phase)


def identity_of_url(url: Any) -> Identity:
    """The identity of a database by its URL of SQLAlchemy."""
    dialect = checked_dialect(url.get_backend_name(), "engine")
    host = url.host or url.query.get("host", "")
    return identity_of(dialect, host if isinstance(host, str) else host[0], url.port, url.database)


# -- other libraries -------------------------------------------------------------------------------------------------


def _check_psycopg(connection: Any, autocommit: bool) -> None:
    from psycopg.pq import TransactionStatus

    if connection.closed:
        raise OptionError("session", "a closed connection", OPEN)
    status = connection.info.transaction_status
    if connection.autocommit and status is TransactionStatus.IDLE and not autocommit:
        raise OptionError("session", "a connection in autocommit", IN_TRANSACTION)


def _has_tpc(connection: Any) -> bool:
    # psycopg shows this nowhere else
    return getattr(connection, "_tpc", None) is not None


def _identity_of_psycopg(connection: Any) -> Identity:
    info = connection.info
    return identity_of("postgresql", info.host, info.port, info.dbname)


def _of_sqlite(connection: Any, autocommit: bool) -> OpenTransaction:
    import sqlite3

    try:
        connection.total_changes  # noqa: B018  # it raises on a closed connection
    except sqlite3.ProgrammingError as error:
        raise OptionError("session", f"a connection that cannot be used ({error})", OPEN) from error
    # Python 3.12 has the attribute `autocommit`, which is -1 for the older way
    commits = getattr(connection, "autocommit", -1) is True or (
        getattr(connection, "autocommit", -1) == -1 and connection.isolation_level is None
    )
    if commits and not connection.in_transaction and not autocommit:
        raise OptionError("session", "a connection in autocommit", IN_TRANSACTION)

    connected = SqliteConnected(connection)

    def identity() -> Identity:
        rows = connected.execute("PRAGMA database_list")
        return identity_of("sqlite", "", "", next((file for _, name, file in rows if name == "main"), ""))

    return OpenTransaction(connected, identity)


def _of_django(connection: Any, autocommit: bool) -> OpenTransaction:
    dialect = checked_dialect(connection.vendor, "session")
    if not autocommit and not connection.in_atomic_block and connection.get_autocommit():
        raise OptionError("session", "a connection in autocommit", f"{IN_TRANSACTION}; use transaction.atomic()")
    return OpenTransaction(DjangoConnected(connection, dialect), lambda: identity_of_django(connection, dialect))


def identity_of_django(connection: Any, dialect: Dialect) -> Identity:
    """The identity of a database by the settings of Django."""
    settings = connection.settings_dict
    return identity_of(dialect, settings.get("HOST"), settings.get("PORT"), settings.get("NAME"))
