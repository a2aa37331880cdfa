"""Each kind of session that an outbox takes, on PostgreSQL and on SQLite, behind the same verbs."""

import contextlib
import inspect
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from peerjob import Call
from peerjob.sql import Outbox, ScheduledRow
from support.postgres import Database

POSTGRES = [
    *("Session/pg", "Connection/pg", "AsyncSession/psycopg", "AsyncSession/asyncpg", "AsyncConnection/psycopg"),
    *("psycopg", "psycopg-async", "psycopg-block"),
]
SQLITE = ["Session/sqlite", "Connection/sqlite", "AsyncSession/aiosqlite", "sqlite3", "sqlite3-begin"]


class Site:
    """A database, and sessions of one kind on it."""

    def __init__(self, kind: str, *, database: Database | None, file: Path) -> None:
        self.kind = kind
        self.outbox = Outbox()
        self._database = database
        self._file = file
        self.engine: Engine = create_engine(
            database.url() if database is not None else f"sqlite:///{file}", pool_size=2, connect_args={}
        )
        with self.engine.begin() as connection:
            self.outbox.create_table(connection)
            connection.execute(text("CREATE TABLE orders (number integer)"))

    @property
    def async_url(self) -> str:
        driver = self.kind.partition("/")[2]
        return f"sqlite+aiosqlite:///{self._file}" if self._database is None else self._database.url(driver)

    def close(self) -> None:
        self.engine.dispose()

    def rows(self, table: str = "peerjob_outbox") -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(f"SELECT * FROM {table} ORDER BY 1")).all())

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncGenerator[Any]:
        """A session in a transaction, which commits at the end, and rolls back after an error."""
        name = self.kind.partition("/")[0]
        if name == "Session":
            with Session(self.engine) as session, session.begin():
                yield session
        elif name == "Connection":
            with self.engine.begin() as connection:
                yield connection
        elif name in ("AsyncSession", "AsyncConnection"):
            engine = create_async_engine(self.async_url)
            try:
                if name == "AsyncSession":
                    async with AsyncSession(engine) as own, own.begin():
                        yield own
                else:
                    async with engine.begin() as connected:
                        yield connected
            finally:
                await engine.dispose()
        else:
            async with self._raw(name) as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def _raw(self, name: str) -> AsyncGenerator[Any]:
        if self._database is None:
            with contextlib.closing(sqlite3.connect(self._file)) as connection:
                if name == "sqlite3-begin":
                    connection.isolation_level = None
                    connection.execute("BEGIN")
                with connection:
                    yield connection
        elif name == "psycopg-async":
            async with await psycopg.AsyncConnection.connect(self._database.conninfo) as asynchronous:
                yield asynchronous
        elif name == "psycopg-block":
            with (
                psycopg.connect(self._database.conninfo, autocommit=True) as blocked,
                blocked.transaction(),
            ):
                yield blocked
        else:
            with psycopg.connect(self._database.conninfo) as plain:
                yield plain

    async def schedule(self, session: Any, *calls: Call[Any]) -> list[ScheduledRow[Any]]:
        """Call the verb that fits the session and the number of calls."""
        is_async = isinstance(session, AsyncSession | AsyncConnection | psycopg.AsyncConnection)
        name = ("schedule" if len(calls) == 1 else "schedule_many") + ("_async" if is_async else "")
        verb: Callable[..., Any] = getattr(self.outbox, name)
        given: Call[Any] | Iterable[Call[Any]] = calls[0] if len(calls) == 1 else calls
        answer = verb(session, given)
        if inspect.isawaitable(answer):
            answer = await answer
        return answer if isinstance(answer, list) else [answer]

    async def order(self, session: Any) -> None:
        """Write the program's own row."""
        sql: Any = "INSERT INTO orders VALUES (1)"
        answer = session.execute(sql if self.kind.startswith(("psycopg", "sqlite3")) else text(sql))
        if inspect.isawaitable(answer):
            await answer
