"""A database with an inbox and a table of the program, and contexts of claims that were taken over."""

import functools
import os
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from peerjob import INJECTED, Context, Retry
from peerjob.sql import Outbox, transact
from support.postgres import Database

outbox = Outbox()


@dataclass
class Invoice:
    number: int
    at: datetime


class Bank:
    """A database with a table of the program and the tables of the inbox."""

    def __init__(self, url: str, async_url: str) -> None:
        self.url, self.async_url = url, async_url
        self.engine: Engine = create_engine(url)
        self.async_engine: AsyncEngine = create_async_engine(async_url)
        with self.engine.begin() as connection:
            outbox.create_table(connection)
            connection.execute(text("CREATE TABLE written (number integer)"))

    def written(self) -> list[int]:
        with self.engine.connect() as connection:
            return [row[0] for row in connection.execute(text("SELECT number FROM written ORDER BY 1"))]

    def kept(self, table: str = "peerjob_inbox") -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(f"SELECT * FROM {table} ORDER BY 1")).all())

    def execute(self, sql: str, **given: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(sql), given)


@asynccontextmanager
async def bank_of(database: Database | None, file: Path) -> AsyncGenerator[Bank]:
    """A bank on PostgreSQL, or in a file of SQLite."""
    if database is None:
        made = Bank(f"sqlite:///{file}", f"sqlite+aiosqlite:///{file}")
    else:
        made = Bank(database.url(), database.url("asyncpg"))
    yield made
    made.engine.dispose()
    await made.async_engine.dispose()


def write(session: Session, number: int) -> Invoice:
    session.execute(text("INSERT INTO written VALUES (:number)"), {"number": number})
    return Invoice(number, datetime(2026, 1, 1, tzinfo=UTC))


async def write_async(session: AsyncSession, number: int) -> Invoice:
    await session.execute(text("INSERT INTO written VALUES (:number)"), {"number": number})
    return Invoice(number, datetime(2026, 1, 1, tzinfo=UTC))


class Claims:
    """Contexts of one instance with any fence, for runs of claims that were taken over."""

    def __init__(self) -> None:
        self.id = str(uuid.UUID(int=uuid.uuid4().int & ~(0xF << 76) | 7 << 76))

    def run(self, fence: int) -> Context:
        backend: Any = object()
        return Context(id=self.id, kind="book", fence=fence, backend=backend)


@functools.cache
def _engine(url: str) -> Engine:
    return create_engine(url)


@functools.cache
def _async_engine(url: str, *, is_pooled: bool) -> AsyncEngine:
    return create_async_engine(url) if is_pooled else create_async_engine(url, poolclass=NullPool)


def book(url: str, number: int, context: Context = INJECTED) -> list[int]:
    """Book in a process: write a number once in two attempts, and return it with the process id."""
    invoice = transact(context, _engine(url), write, number)
    if context.attempt == 1:
        raise Retry(after=0)
    return [invoice.number, os.getpid()]


async def book_later(url: str, number: int, is_pooled: bool = False, context: Context = INJECTED) -> list[int]:
    """Like `book`, with an asynchronous engine."""
    invoice = await transact(context, _async_engine(url, is_pooled=is_pooled), write_async, number)
    if context.attempt == 1:
        raise Retry(after=0)
    return [invoice.number, os.getpid()]
