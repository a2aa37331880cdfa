"""A database with the tables of an outbox, and the engine of a relay for each driver."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from peerjob.sql import Outbox
from support.postgres import Database


class Base:
    """A database with the tables, an engine for rows, and the engine of a relay."""

    def __init__(self, kind: str, database: Database | None, file: Path) -> None:
        self.kind = kind
        self.engine: Engine = create_engine(f"sqlite:///{file}" if database is None else database.url())
        drivers = {"async-psycopg": "psycopg", "asyncpg": "asyncpg"}
        if database is None:
            urls = (f"sqlite:///{file}", f"sqlite+aiosqlite:///{file}")
        else:
            urls = (database.url(), database.url(drivers.get(kind, "psycopg")))
        self.relay_engine: Any = (
            create_engine(urls[0]) if kind in ("psycopg", "sqlite") else create_async_engine(urls[1])
        )
        with self.engine.begin() as connection:
            Outbox().create_table(connection)

    def rows(self, table: str = "peerjob_outbox") -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(f"SELECT * FROM {table} ORDER BY 1")).all())

    def execute(self, sql: str, **given: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(sql), given)

    async def close(self) -> None:
        self.engine.dispose()
        disposing = self.relay_engine.dispose()
        if disposing is not None:
            await disposing


@asynccontextmanager
async def base_of(request: pytest.FixtureRequest, folder: Path) -> AsyncGenerator[Base]:
    """The database for the driver that is the parameter of a fixture."""
    database: Database | None = None if "sqlite" in request.param else request.getfixturevalue("postgres")
    base = Base(request.param, database, folder / "own.db")
    yield base
    await base.close()
