"""Rows of an outbox belong to the transaction of each kind of session, on PostgreSQL and SQLite."""

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from peerjob import ArgumentError, Job, OptionError, PayloadTooLargeError, TableError
from peerjob.model.ids import is_outbox_id
from peerjob.sql import Outbox
from peerjob.sql.rows import decode_row
from peerjob.sql.tables import channel_of
from support.outbox_sites import POSTGRES, SQLITE, Site
from support.postgres import Database


def charge(order: int, note: str = "") -> None: ...


job = Job("charge", charge, tags=["money"], retention="1h", priority=2)


# one of each library in `make test`, and each driver in the matrix
FEW = {"Session/pg", "AsyncSession/asyncpg", "psycopg", "psycopg-async", "AsyncSession/aiosqlite", "sqlite3"}


@pytest.fixture(
    params=[
        kind if kind in FEW else pytest.param(kind, marks=pytest.mark.matrix("another driver runs the same test"))
        for kind in [*POSTGRES, *SQLITE]
    ]
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    database: Database | None = request.getfixturevalue("postgres") if request.param in POSTGRES else None
    with contextlib.closing(Site(request.param, database=database, file=tmp_path / "own.db")) as made:
        yield made


async def test_a_committed_transaction_keeps_its_rows(site: Site) -> None:
    async with site.session() as session:
        await site.order(session)
        (one,) = await site.schedule(session, job.call(7, note="%s :id ☃"))
        more = await site.schedule(session, *(job.call(number) for number in range(3)))
    rows = site.rows()
    assert len(site.rows("orders")) == 1
    assert [str(row[0]) for row in rows] == [one.id, *(row.id for row in more)]
    assert all(is_outbox_id(str(row[0])) and uuid.UUID(str(row[0])).version == 7 for row in rows)
    new = decode_row(one.id, rows[0][1])
    assert (new.kind, new.tags, new.priority, new.retention_us) == ("charge", ("money",), 2, 3_600_000_000)
    assert rows[0][2] is not None
    assert rows[0][3] is None
    assert (one.kind, one.uuid) == ("charge", uuid.UUID(one.id))


async def test_the_transaction_that_a_session_begins_by_itself_keeps_a_row(postgres: Database) -> None:
    site = Site("Session/pg", database=postgres, file=Path())
    threads = scoped_session(sessionmaker(site.engine))
    engine = create_async_engine(postgres.url("asyncpg"))
    tasks = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: None)
    with Session(site.engine) as session:
        site.outbox.schedule(session, job.call(1))
        assert site.rows() == []
        session.commit()
    site.outbox.schedule(threads, job.call(2))
    threads.commit()
    await site.outbox.schedule_async(tasks, job.call(3))
    await tasks.commit()
    assert len(site.rows()) == 3
    site.outbox.schedule(threads, job.call(4))
    threads.rollback()
    await site.outbox.schedule_async(tasks, job.call(5))
    await tasks.rollback()
    threads.remove()
    await tasks.remove()
    await engine.dispose()
    assert len(site.rows()) == 3
    site.close()


async def test_a_savepoint_takes_its_rows_along(postgres: Database) -> None:
    site = Site("Session/pg", database=postgres, file=Path())
    with Session(site.engine) as session, session.begin():
        kept = site.outbox.schedule(session, job.call(1))
        with contextlib.suppress(ZeroDivisionError), session.begin_nested():
            site.outbox.schedule(session, job.call(2))
            raise ZeroDivisionError
        with session.begin_nested():
            released = site.outbox.schedule(session, job.call(3))
    assert [str(row[0]) for row in site.rows()] == [kept.id, released.id]
    site.close()


async def test_a_rollback_leaves_nothing(site: Site) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with site.session() as session:
            await site.order(session)
            await site.schedule(session, job.call(7))
            await site.schedule(session, job.call(8), job.call(9))
            raise ZeroDivisionError
    assert (site.rows(), site.rows("orders")) == ([], [])


async def test_an_invalid_call_writes_nothing_and_leaves_the_transaction_usable(site: Site) -> None:
    small = Outbox(max_payload=100)
    async with site.session() as session:
        with pytest.raises(ArgumentError, match="charge"):
            await site.schedule(session, job.call("seven"))  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="charge"):
            await site.schedule(session, job.call(1), job.call(2, 3))  # type: ignore[arg-type]
        site.outbox, usual = small, site.outbox
        with pytest.raises(PayloadTooLargeError, match="charge"):
            await site.schedule(session, job.call(1, "x" * 200))
        site.outbox = usual
        with pytest.raises(OptionError, match=r"call: expected a call of a job: job.call\(…\), got 'Job'"):
            await site.schedule(session, job)  # type: ignore[arg-type]
        assert await site.outbox.schedule_many_async(session, []) == []
        await site.order(session)
    assert (site.rows(), len(site.rows("orders"))) == ([], 1)


async def test_a_missing_table_is_told_with_its_ddl(site: Site) -> None:
    site.outbox = Outbox("other_outbox")
    with pytest.raises(TableError, match="table other_outbox is missing") as caught:
        async with site.session() as session:
            await site.schedule(session, job.call(1))
    assert "CREATE TABLE IF NOT EXISTS other_outbox (" in caught.value.ddl
    assert caught.value.ddl in str(caught.value)


async def test_a_table_of_another_version_is_told(site: Site) -> None:
    with site.engine.begin() as connection:
        connection.execute(text("ALTER TABLE peerjob_outbox RENAME COLUMN call TO called"))
    with pytest.raises(TableError, match="is of another version"):
        async with site.session() as session:
            await site.schedule(session, job.call(1))


async def test_a_schedule_costs_one_statement(postgres: Database) -> None:
    site = Site("Session/pg", database=postgres, file=Path())
    seen: list[str] = []
    event.listen(site.engine, "before_cursor_execute", lambda *given: seen.append(given[2]))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(site.close)
        session = await stack.enter_async_context(site.session())
        seen.clear()
        await site.schedule(session, job.call(1))
        assert len(seen) == 1
        await site.schedule(session, *(job.call(number) for number in range(100)))
        assert len(seen) == 2


def test_a_session_in_autocommit_or_closed_is_refused(postgres: Database, tmp_path: Path) -> None:
    outbox, call = Outbox(), job.call(1)
    file = tmp_path / "own.db"
    engines = [create_engine(postgres.url()), create_engine(f"sqlite:///{file}")]
    with contextlib.ExitStack() as stack:
        refused: list[tuple[Any, str]] = []
        for engine in engines:
            stack.callback(engine.dispose)
            commits = stack.enter_context(engine.connect().execution_options(isolation_level="AUTOCOMMIT"))
            refused.append((commits, "autocommit"))
            closed = engine.connect()
            closed.close()
            refused.append((closed, "closed"))
            once = Session(engine, close_resets_only=False)
            once.close()
            refused.append((once, "cannot be used"))
        refused.append((Session(), "without an engine"))
        refused.append((stack.enter_context(psycopg.connect(postgres.conninfo, autocommit=True)), "autocommit"))
        ended = psycopg.connect(postgres.conninfo)
        ended.close()
        refused.append((ended, "closed"))
        refused.append((stack.enter_context(contextlib.closing(_sqlite(file))), "autocommit"))
        gone = sqlite3.connect(file)
        gone.close()
        refused.append((gone, "cannot be used"))
        for session, problem in refused:
            with pytest.raises(OptionError, match=f"session: .*{problem}"):
                outbox.schedule(session, call)


def _sqlite(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file, isolation_level=None)


async def test_a_session_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    outbox, call = Outbox(), job.call(1)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/own.db")
    async with AsyncSession(engine) as session, engine.connect() as connection:
        with pytest.raises(OptionError, match=r"schedule_async\(\) takes"):
            outbox.schedule(session, call)
        with pytest.raises(OptionError, match=r"schedule_async\(\) takes"):
            outbox.schedule(connection, call)
    with pytest.raises(OptionError, match="a closed connection"):
        await outbox.schedule_async(connection, call)
    await engine.dispose()
    with contextlib.closing(sqlite3.connect(":memory:")) as raw:
        with pytest.raises(OptionError, match=r"schedule\(\) takes this one"):
            await outbox.schedule_async(raw, call)
        with pytest.raises(OptionError, match=r"expected a Session .* got 'Cursor'"):
            outbox.schedule(raw.cursor(), call)


@pytest.mark.parametrize("table", ["", "Outbox", "a b", "x" * 49, "a.b.c", "1a", 'a"b', None])
def test_a_bad_name_of_a_table_is_refused(table: Any) -> None:
    with pytest.raises(OptionError, match="table: expected a name"):
        Outbox(table)


def test_a_connection_in_autocommit_makes_the_tables(postgres: Database, tmp_path: Path) -> None:
    outbox = Outbox("in_autocommit")
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        outbox.create_table(connection)
        assert connection.execute("SELECT count(*) FROM in_autocommit").fetchone() == (0,)
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as file:
        outbox.create_table(file)
        assert file.execute("SELECT count(*) FROM in_autocommit").fetchone() == (0,)


def test_a_table_may_have_a_schema(postgres: Database) -> None:
    outbox = Outbox("app.own_outbox")
    with psycopg.connect(postgres.conninfo) as connection:
        connection.execute("CREATE SCHEMA app")
        outbox.create_table(connection)
        outbox.create_table(connection)
        outbox.schedule(connection, job.call(1))
        count = connection.execute("SELECT count(*) FROM app.own_outbox").fetchone()
    assert count == (1,)


def test_a_long_name_has_a_channel(postgres: Database) -> None:
    schema = "s" * 48
    outbox = Outbox(f"{schema}.{'t' * 48}")
    with psycopg.connect(postgres.conninfo) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        outbox.create_table(connection)
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel_of(outbox.table))))
        connection.commit()
        outbox.schedule(connection, job.call(1))
        connection.commit()
        heard = list(connection.notifies(timeout=10, stop_after=1))
    assert [one.channel for one in heard] == [channel_of(outbox.table)]


def test_tables_can_be_made_twice_at_one_time(postgres: Database) -> None:
    outbox = Outbox()

    def make() -> None:
        with psycopg.connect(postgres.conninfo) as late:
            outbox.create_table(late)

    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(postgres.conninfo, autocommit=True) as watching,
        psycopg.connect(postgres.conninfo) as early,
    ):
        outbox.create_table(early)
        second = pool.submit(make)
        waits = (
            "SELECT 1 FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = %s)"
        )
        while not watching.execute(waits, [postgres.name]).fetchone():
            assert not second.done()
        early.commit()
        second.result()


async def test_rows_belong_to_a_transaction_of_two_phases(postgres: Database) -> None:
    outbox = Outbox()
    engine = create_engine(postgres.url())
    with engine.begin() as connection:
        outbox.create_table(connection)
    with Session(engine, twophase=True) as session:
        one = outbox.schedule(session, job.call(1))
        session.commit()
    with psycopg.connect(postgres.conninfo) as plain:
        plain.tpc_begin("second")
        two, three = outbox.schedule_many(plain, [job.call(2), job.call(3)])
        plain.tpc_prepare()
        plain.tpc_commit()
    async with await psycopg.AsyncConnection.connect(postgres.conninfo) as asynchronous:
        await asynchronous.tpc_begin("third")
        four = await outbox.schedule_async(asynchronous, job.call(4))
        await asynchronous.tpc_prepare()
        await asynchronous.tpc_commit()
    with engine.connect() as connection:
        ids = [str(row[0]) for row in connection.execute(text("SELECT id FROM peerjob_outbox"))]
    engine.dispose()
    assert sorted(ids) == sorted(row.id for row in (one, two, three, four))


async def test_the_class_of_the_cursors_does_not_matter(postgres: Database) -> None:
    outbox = Outbox()
    with psycopg.connect(postgres.conninfo, cursor_factory=psycopg.RawCursor) as connection:
        outbox.create_table(connection)
        outbox.schedule(connection, job.call(1))
    factory = psycopg.AsyncRawCursor
    async with await psycopg.AsyncConnection.connect(postgres.conninfo, cursor_factory=factory) as asynchronous:
        await outbox.schedule_async(asynchronous, job.call(2))
        count = await (await asynchronous.execute("SELECT count(*) FROM peerjob_outbox")).fetchone()
    assert count == (2,)


def test_wrong_numbers_and_lists_are_refused() -> None:
    outbox = Outbox()
    single: Any = job.call(1)
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        outbox.create_table(connection)
        with pytest.raises(OptionError, match=r"calls: expected a list of calls; schedule\(\) takes one"):
            outbox.schedule_many(connection, single)
        for limit in (0, -1, "x"):
            with pytest.raises(OptionError, match="limit: expected a whole number"):
                outbox.clean(connection, limit=limit)  # type: ignore[arg-type]


def test_a_delay_begins_with_the_call() -> None:
    outbox = Outbox()
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        outbox.create_table(connection)
        row = outbox.schedule(connection, job.with_options(after="1h").call(1))
        (call,) = connection.execute("SELECT call FROM peerjob_outbox").fetchone()
    new = decode_row(row.id, call)
    assert new.delay_us is None
    assert abs(int(row.id.replace("-", "")[:12], 16) * 1000 + 3_600_000_000 - (new.due_us or 0)) < 5_000_000


def test_ids_ascend_in_threads() -> None:
    outbox = Outbox()
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        outbox.create_table(connection)
        rows = outbox.schedule_many(connection, [job.call(number) for number in range(2000)])
    ids = [row.id for row in rows]
    assert ids == sorted(set(ids))
