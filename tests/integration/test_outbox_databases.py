"""An outbox on databases with other settings, clocks and crashes."""

import asyncio
import contextlib
import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from peerjob import INJECTED, Context, Job, Node, State
from peerjob.sql import Outbox, OutboxRelay, transact
from peerjob.sql.databases import EngineDatabase
from peerjob.sql.relay_rows import give_back, take
from support.outbox_base import Base, base_of
from support.outbox_checks import Noting, rows_in
from support.postgres import Database
from support.servers import StartServer
from support.waiting import PATIENCE, until

outbox = Outbox()


@pytest.fixture
def engine(postgres: Database) -> Iterator[Engine]:
    made = create_engine(postgres.url(), poolclass=NullPool)
    with made.begin() as connection:
        outbox.create_table(connection)
        connection.execute(text("CREATE TABLE written (number integer NOT NULL)"))
    yield made
    made.dispose()


def set_default(engine: Engine, setting: str) -> None:
    """Set a default of the database for later connections."""
    with engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {engine.url.database} SET {setting}"))


async def test_transactions_that_are_serializable_delay_no_relay(
    engine: Engine, postgres: Database, redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    noting, total = Noting(), 3_000
    set_default(engine, "default_transaction_isolation = 'serializable'")
    strict, *relays = (create_engine(postgres.url()) for _ in range(4))

    def write(first: int) -> None:
        for number in range(first, first + 1_000, 10):
            while True:
                try:
                    with strict.begin() as connection:
                        outbox.schedule_many(connection, [noting.job.call(number + extra) for extra in range(10)])
                except DBAPIError:
                    continue
                break

    async with contextlib.AsyncExitStack() as stack:
        for relayed in relays:
            await stack.enter_async_context(
                Node(redis_url, jobs=[noting.job], namespace=namespace, outbox=OutboxRelay(relayed))
            )
        await asyncio.gather(*(asyncio.to_thread(write, 1_000 * writer) for writer in range(3)))
        await until(lambda: rows_in(engine, "peerjob_outbox") == 0 and len(noting.runs) == total, PATIENCE)
    assert set(noting.runs.values()) == {1}
    told = [record.getMessage() for record in caplog.records if record.name == "peerjob.sql"]
    assert not told
    for one in (strict, *relays):
        one.dispose()


async def test_a_crash_of_the_database_loses_and_doubles_nothing(
    engine: Engine, postgres: Database, redis_url: str, namespace: str
) -> None:
    own, crashes, enough = create_engine(postgres.url()), 0, threading.Event()

    def write(session: Any, number: int) -> int:
        session.execute(text("INSERT INTO written VALUES (:number)"), {"number": number})
        return number

    async def book(number: int, context: Context = INJECTED) -> int:
        return int(await transact(context, own, write, number))

    job = Job("book", book, max_retries=1_000, backoff="20ms")

    def fill() -> int:
        number = 0
        while not enough.is_set():
            with contextlib.suppress(DBAPIError):
                with engine.begin() as connection:
                    outbox.schedule(connection, job.call(number))
                number += 1
        return number

    relays = [create_engine(postgres.url()) for _ in range(2)]
    first, second = (Node(redis_url, jobs=[job], namespace=namespace, outbox=OutboxRelay(one)) for one in relays)
    async with first as node, second:
        filling = asyncio.create_task(asyncio.to_thread(fill))
        while crashes < 3:
            await asyncio.sleep(0.5)
            with contextlib.suppress(psycopg.Error), psycopg.connect(postgres.conninfo) as victim:
                os.kill(victim.info.backend_pid, signal.SIGKILL)
                crashes += 1
        enough.set()
        total = await filling

        def is_over() -> bool:
            with contextlib.suppress(DBAPIError):
                return rows_in(engine, "peerjob_outbox") == 0
            return False

        await until(is_over, PATIENCE)
        await node.wait(timeout=PATIENCE)
        states = Counter(one.state for one in [one async for one in node.iter_instances()])
    with engine.connect() as connection:
        numbers = Counter(row[0] for row in connection.execute(text("SELECT number FROM written")))
    for one in (own, *relays):
        one.dispose()
    # a number whose commit lost its answer has a row more, at most one for each crash
    assert set(numbers) - {total} == set(range(total))
    assert states == {State.COMPLETED: numbers.total()}
    assert numbers.total() <= total + crashes


@pytest.fixture
async def base(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Base]:
    async with base_of(request, tmp_path) as made:
        yield made


@pytest.mark.parametrize("base", ["psycopg", "sqlite"], indirect=True)
async def test_a_row_that_a_wrong_clock_took_does_not_wait_for_its_time(
    base: Base, redis_url: str, namespace: str
) -> None:
    """The clock of the database was hours ahead when a relay took a row and died."""
    noting = Noting()
    with base.engine.begin() as connection:
        outbox.schedule(connection, noting.job.call(1))
    ahead = {
        "psycopg": "now() + interval '5 hours'",
        "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now', '+5 hours')",
    }
    base.execute(f"UPDATE peerjob_outbox SET taken = {ahead[base.kind]}")
    database = EngineDatabase(base.relay_engine)
    (row,) = await database.run(lambda connected: take(connected, "peerjob_outbox", 500, 1 << 20))
    assert row.first is None, "it may have been sent"
    base.execute(f"UPDATE peerjob_outbox SET taken = {ahead[base.kind]}")
    async with Node(redis_url, jobs=[noting.job], namespace=namespace, outbox=OutboxRelay(base.relay_engine)):
        await until(lambda: base.rows() == [])
        await until(lambda: noting.runs == {1: 1})


@pytest.mark.parametrize("base", ["sqlite"], indirect=True)
@pytest.mark.parametrize("store", ["redis", "etcd", "sqlite"])
async def test_a_row_with_an_id_of_a_far_future_runs(
    base: Base, request: pytest.FixtureRequest, namespace: str, store: str
) -> None:
    noting = Noting()
    with base.engine.begin() as connection:
        row = outbox.schedule(connection, noting.job.with_options(retention="1h").call(1))
        last = outbox.schedule(connection, noting.job.with_options(retention="1h").call(2))
    id = f"ffffffff-ffff{row.id[13:]}"
    base.execute("UPDATE peerjob_outbox SET id = :new WHERE id = :id", new=id, id=row.id)
    async with Node(
        request.getfixturevalue(f"{store}_url"),
        jobs=[noting.job],
        namespace=namespace,
        outbox=OutboxRelay(base.relay_engine),
    ) as node:
        await last.result(node, 30)
        assert (await node.wait_final(id, 30)).state is State.COMPLETED
        assert {one.id for one in await node.lookup_instances()} == {id, last.id}
    assert noting.runs == {1: 1, 2: 1}


async def test_a_database_that_only_reads_is_told_once(
    engine: Engine, postgres: Database, redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    noting, takes = Noting(), list[str]()
    with engine.begin() as connection:
        outbox.schedule(connection, noting.job.call(1))
    set_default(engine, "default_transaction_read_only = on")
    relayed = create_engine(postgres.url(), poolclass=NullPool)
    event.listen(relayed, "before_cursor_execute", lambda *given: takes.append(given[2]))
    async with Node(redis_url, jobs=[noting.job], namespace=namespace, outbox=OutboxRelay(relayed)):
        await until(lambda: sum(sql.startswith("WITH free") for sql in takes) >= 3)
        writer = create_engine(postgres.url(), connect_args={"options": "-c default_transaction_read_only=off"})
        set_default(writer, "default_transaction_read_only = off")
        writer.dispose()
        await until(lambda: noting.runs == {1: 1})
    told = [record.getMessage() for record in caplog.records if record.name == "peerjob.sql"]
    assert len(told) == 1
    assert "read-only transaction" in told[0]


async def test_rows_are_given_back_in_each_time_zone(engine: Engine, postgres: Database) -> None:
    with engine.begin() as connection:
        outbox.schedule(connection, Noting().job.call(1))
    # IST is the time of India as text, and that of Israel when PostgreSQL reads it
    options = "-c timezone=Asia/Kolkata -c datestyle=SQL,DMY"
    database = EngineDatabase(create_engine(postgres.url(), connect_args={"options": options}, poolclass=NullPool))
    rows = await database.run(lambda connected: take(connected, "peerjob_outbox", 500, 1 << 20))
    assert rows_in(engine, "peerjob_outbox WHERE taken IS NULL") == 0
    await database.run(lambda connected: give_back(connected, "peerjob_outbox", rows))
    assert rows_in(engine, "peerjob_outbox WHERE taken IS NULL") == 1


def lose_commits(engine: Engine, every: int) -> list[int]:
    """Lose the answer of one in `every` commits, with the connection; returns the numbers of these commits."""
    commit, seen, lost = engine.dialect.do_commit, itertools.count(1), list[int]()

    def commit_and_end(connection: Any) -> None:
        commit(connection)
        number = next(seen)
        if number % every == 0:
            lost.append(number)
            connection.close()
            raise psycopg.OperationalError("the connection is lost")

    engine.dialect.do_commit = commit_and_end  # type: ignore[assignment,method-assign]
    return lost


async def test_a_lost_answer_of_a_commit_doubles_nothing(
    engine: Engine, postgres: Database, redis_url: str, namespace: str
) -> None:
    noting, own, relayed = Noting(), create_engine(postgres.url()), create_engine(postgres.url())
    lost, lost_by_relay = lose_commits(own, 2), lose_commits(relayed, 3)

    def write(session: Any, number: int) -> int:
        session.execute(text("INSERT INTO written VALUES (:number)"), {"number": number})
        return number

    async def book(number: int, context: Context = INJECTED) -> int:
        return int(await transact(context, own, write, number))

    job = Job("book", book, max_retries=100, backoff="10ms")
    with engine.begin() as connection:
        # more than one pass of the relay, which is a transaction from the second one on
        outbox.schedule_many(connection, [noting.job.call(number) for number in range(1_500)])
        outbox.schedule_many(connection, [job.call(number) for number in range(30)])
    async with Node(redis_url, jobs=[noting.job, job], namespace=namespace, outbox=OutboxRelay(relayed)) as node:
        await until(lambda: rows_in(engine, "peerjob_outbox") == 0)
        await node.wait(timeout=PATIENCE)
    with engine.connect() as connection:
        numbers = Counter(row[0] for row in connection.execute(text("SELECT number FROM written")))
    own.dispose()
    relayed.dispose()
    assert numbers == Counter(range(30))
    assert noting.runs == Counter(range(1_500))
    assert lost
    assert lost_by_relay


async def test_a_conflict_leaves_no_row_that_a_full_store_refused_as_sent(
    engine: Engine, postgres: Database, start_server: StartServer
) -> None:
    server, noting, conflicts = start_server("redis"), Noting(), list[str]()
    relayed = create_engine(postgres.url(), poolclass=NullPool)

    def refuse(*given: Any) -> None:
        if "SET taken = NULL" in given[2] and not conflicts:
            conflicts.append(given[2])
            raise psycopg.errors.SerializationFailure

    event.listen(relayed, "before_cursor_execute", refuse)
    async with Node(server.url, jobs=[noting.job], outbox=OutboxRelay(relayed), store_retry=0):
        server.command("CONFIG", "SET", "maxmemory", "1")
        with engine.begin() as connection:
            outbox.schedule(connection, noting.job.call(1))
        await until(lambda: bool(conflicts))
        await until(lambda: rows_in(engine, "peerjob_outbox WHERE taken IS NULL") == 1)
        server.command("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: noting.runs == {1: 1})
