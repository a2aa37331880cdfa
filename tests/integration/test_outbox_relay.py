"""A relay makes one instance of each committed row, on PostgreSQL and SQLite, with each kind of engine."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, event

from peerjob import Job, JobFailed, Node, RowRefusedError, State, TableError, UnknownInstanceError
from peerjob.sql import Outbox, OutboxRelay, relay
from peerjob.sql.databases import EngineDatabase
from peerjob.sql.outbox import relays
from peerjob.sql.relay_rows import give_back, take
from support.division import in_matrix
from support.outbox_base import Base, base_of
from support.postgres import Database
from support.stalls import Stalls, now_us
from support.waiting import until


async def double(number: int) -> int:
    if number < 0:
        raise ValueError(number)
    return 2 * number


job = Job("double", double)
outbox = Outbox()
ROWS = 10
ENGINES = ["psycopg", "async-psycopg", "asyncpg", "sqlite", "aiosqlite"]
MakeNode = Callable[..., AbstractAsyncContextManager[Node]]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the outbox has logged."""
    return [record.getMessage() for record in caplog.records if record.name == "peerjob.sql"]


@pytest.fixture(
    params=[
        kind
        if kind in ("psycopg", "asyncpg", "sqlite")
        else pytest.param(kind, marks=pytest.mark.matrix("another driver runs the same test"))
        for kind in ENGINES
    ]
)
async def base(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Base]:
    async with base_of(request, tmp_path) as made:
        yield made


@pytest.fixture
def make_node(redis_url: str, namespace: str) -> MakeNode:
    @asynccontextmanager
    async def make(base: Base, jobs: Any = (job,), **options: Any) -> AsyncGenerator[Node]:
        given = OutboxRelay(base.relay_engine)
        async with Node(redis_url, jobs=jobs, namespace=namespace, outbox=given, **options) as node:
            yield node

    return make


async def test_rows_become_instances_and_leave_the_table(base: Base, make_node: MakeNode) -> None:
    with base.engine.begin() as connection:
        before = outbox.schedule_many(connection, [job.call(number) for number in range(3)])
    async with make_node(base) as node:
        assert [await row.result(node, 30) for row in before] == [0, 2, 4]
        with base.engine.begin() as connection:
            row = outbox.schedule(connection, job.call(21))
            bad = outbox.schedule(connection, job.with_options(max_retries=0).call(-1))
        assert await row.result(node, 30) == 42
        with pytest.raises(JobFailed, match="-1"):
            await bad.result(node, 30)
        instance = await row.instance(node)
        assert (instance.id, instance.state) == (row.id, State.COMPLETED)
        await until(lambda: base.rows() == [])
        assert len(await node.lookup_instances()) == 5


async def test_a_take_ends_with_the_row_that_fills_its_bytes(base: Base, make_node: MakeNode) -> None:
    size = Job("size", len)
    with base.engine.begin() as connection:
        rows = outbox.schedule_many(connection, [size.call("x" * 300_000) for _ in range(10)])
    database = EngineDatabase(base.relay_engine)
    taken = await database.run(lambda connected: take(connected, "peerjob_outbox", 500, 1 << 20))
    assert [one.id for one in taken] == [row.id for row in rows[:4]]
    async with make_node(base, size) as node:
        assert [await row.result(node, 30) for row in rows] == [300_000] * 10


async def test_a_rollback_makes_no_instance(base: Base, make_node: MakeNode) -> None:
    async with make_node(base) as node:
        with base.engine.connect() as connection:
            lost = outbox.schedule(connection, job.call(1))
            connection.rollback()
            kept = outbox.schedule(connection, job.call(2))
            connection.commit()
        assert await kept.result(node, 30) == 4
        with pytest.raises(UnknownInstanceError):
            await lost.instance(node, arrival=0.1)
        with pytest.raises(TimeoutError, match=r"is not final after 0\.2 s"):
            await lost.result(node, 0.2)


async def test_a_row_that_cannot_be_read_is_kept_aside_and_hides_no_other(
    base: Base, make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    broken, newer = "00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002"
    for id, call in ((broken, b"\x01rubbish"), (newer, b"\x02")):
        base.execute("INSERT INTO peerjob_outbox (id, call) VALUES (:id, :call)", id=id, call=call)
    with base.engine.begin() as connection:
        good = outbox.schedule(connection, job.call(4))
    async with make_node(base) as node:
        assert await good.result(node, 30) == 8
        await until(lambda: base.rows() == [])
        relay: Any = node.outbox
        state = await relay.state()
    bad = base.rows("peerjob_outbox_bad")
    assert [str(row[0]) for row in bad] == [broken, newer]
    assert "cannot be read" in bad[0][4]
    assert "has the form 2, and this release reads the form 1" in bad[1][4]
    assert bytes(bad[0][1]) == b"\x01rubbish"
    assert (state.rows, state.refused, state.oldest) == (0, 2, 0.0)
    assert any("cannot be sent, and is kept in peerjob_outbox_bad" in line for line in told(caplog))


@pytest.mark.parametrize(
    "part",
    [
        "text as call",
        "number as call",
        "latin-1 as call",
        "latin-1 in id",
        "bytes as id",
        "capitals in id",
        "id of no outbox",
    ],
)
async def test_a_row_of_a_wrong_type_hides_no_other(tmp_path: Path, make_node: MakeNode, part: str) -> None:
    base = Base("sqlite", None, tmp_path / "own.db")
    with base.engine.begin() as connection:
        lost, good = outbox.schedule_many(connection, [job.call(3), job.call(4)])
    new: dict[str, tuple[str, object]] = {
        "text as call": ("call", "text"),
        "number as call": ("call", 5),
        "latin-1 as call": ("call", b"\xff"),
        "latin-1 in id": ("id", b"\xff"),
        "bytes as id": ("id", b"0" * 16),
        "capitals in id": ("id", lost.id.upper()),
        "id of no outbox": ("id", lost.id[:24] + "0" * 12),
    }
    column, value = new[part]
    written = "CAST(:value AS text)" if "latin-1" in part else ":value"
    base.execute(f"UPDATE peerjob_outbox SET {column} = {written} WHERE id = :id", value=value, id=lost.id)
    async with make_node(base) as node:
        assert await good.result(node, 30) == 8
        await until(lambda: base.rows("(SELECT 1 FROM peerjob_outbox)") == [])
        assert len(await node.lookup_instances()) == 1
        if column == "call":
            with pytest.raises(RowRefusedError, match="peerjob_outbox_bad has its row: row of an outbox has"):
                await lost.result(node, 30)
    kept = base.rows(f"(SELECT CAST({column} AS blob) FROM peerjob_outbox_bad)")
    assert kept == [(value if isinstance(value, bytes) else str(value).encode(),)]
    await base.close()


async def test_a_row_that_was_never_sent_is_sent_at_any_age(base: Base, make_node: MakeNode) -> None:
    with base.engine.begin() as connection:
        row = outbox.schedule(connection, job.call(4))
    id = f"00000000-0000{row.id[13:]}"
    base.execute("UPDATE peerjob_outbox SET id = :id", id=id)
    async with make_node(base) as node:
        await until(lambda: base.rows() == [])
        assert (await node.wait_final(id, 30)).state is State.COMPLETED


async def test_a_row_that_was_taken_is_sent_again_for_a_day(base: Base, make_node: MakeNode) -> None:
    with base.engine.begin() as connection:
        sent, old, future = outbox.schedule_many(connection, [job.call(number) for number in (4, 5, 6)])
    ago = {"pg": "now() - interval '{} minutes'", "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now', '-{} minutes')"}
    dialect = "sqlite" if "sqlite" in base.kind else "pg"
    for row, minutes in ((sent, 1_425), (old, 1_435)):
        base.execute(f"UPDATE peerjob_outbox SET taken = {ago[dialect].format(minutes)} WHERE id = :id", id=row.id)
    base.execute("UPDATE peerjob_outbox SET taken = '3000-01-01 00:00:00.000' WHERE id = :id", id=future.id)
    async with make_node(base) as node:
        assert await sent.result(node, 30) == 8
        await until(lambda: base.rows() == [])
    bad = base.rows("peerjob_outbox_bad")
    assert [str(id) for id, *_ in bad] == [old.id, future.id]
    assert all(taken is not None and "taken about a day ago" in error for _, _, _, taken, error in bad)


async def test_an_old_row_whose_instance_the_store_has_was_sent(base: Base, make_node: MakeNode) -> None:
    ran: list[int] = []

    async def note(number: int) -> None:
        ran.append(number)

    kept = Job("note", note)
    with base.engine.begin() as connection:
        row = outbox.schedule(connection, kept.call(1))
    (stored,) = base.rows()
    async with make_node(base, [kept]) as node:
        await row.result(node, 30)
        await until(lambda: base.rows() == [])
    long_ago = "now() - interval '2 days'" if "sqlite" not in base.kind else "'2020-01-01 00:00:00.000'"
    sql = f"INSERT INTO peerjob_outbox (id, call, taken) VALUES (:id, :call, {long_ago})"
    base.execute(sql, id=row.id, call=bytes(stored[1]))
    async with make_node(base, [kept]) as node:
        await until(lambda: base.rows() == [])
        assert (await node.lookup_instance(row.id)).record.attempts == 1
    assert (ran, base.rows("peerjob_outbox_bad")) == ([1], [])


async def test_a_row_is_sent_once_also_after_its_instance_was_removed(base: Base, make_node: MakeNode) -> None:
    """A relay was killed after the enqueue and before the delete, and the instance has run and is gone."""
    ran: list[int] = []

    async def note(number: int) -> None:
        ran.append(number)

    brief = Job("note", note, retention="0s")
    with base.engine.begin() as connection:
        row = outbox.schedule(connection, brief.call(1))
    (stored,) = base.rows()
    async with make_node(base, [brief]) as node:
        await until(lambda: ran == [1] and base.rows() == [])
        base.execute("INSERT INTO peerjob_outbox (id, call) VALUES (:id, :call)", id=row.id, call=bytes(stored[1]))
        with base.engine.begin() as connection:
            outbox.schedule(connection, brief.call(2))
        await until(lambda: ran == [1, 2] and base.rows() == [])
        assert node.running


async def test_a_missing_table_is_told_once_and_the_relay_goes_on(
    base: Base, make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    base.execute("DROP TABLE peerjob_outbox")
    caplog.set_level(logging.WARNING)
    async with make_node(base) as node:
        await until(lambda: any("outbox is missing" in line for line in told(caplog)))
        with base.engine.begin() as connection:
            outbox.create_table(connection)
            row = outbox.schedule(connection, job.call(4))
        assert await row.result(node, 30) == 8
    assert sum("outbox is missing" in line for line in told(caplog)) == 1


@pytest.mark.parametrize("table", ["peerjob_outbox", "peerjob_outbox_bad", "peerjob_inbox_fence"])
async def test_the_error_of_a_missing_table_names_this_table(base: Base, table: str) -> None:
    base.execute(f"DROP TABLE {table}")
    with pytest.raises(TableError, match=f"table {table} is missing") as caught:
        await OutboxRelay(base.relay_engine).state()
    assert caught.value.table == table


async def test_rows_in_another_database_than_the_relays_are_warned_of(
    base: Base, make_node: MakeNode, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    other, third = (create_engine(f"sqlite:///{tmp_path}/{name}.db") for name in ("other", "third"))
    async with make_node(base):
        await asyncio.sleep(0)
        for _ in range(2):
            with other.begin() as connection:
                outbox.create_table(connection)
                outbox.schedule(connection, job.call(4))
        with base.engine.begin() as connection:
            outbox.schedule(connection, job.call(4))
    with third.begin() as connection:  # the relay has ended
        outbox.create_table(connection)
        outbox.schedule(connection, job.call(4))
    for one in (other, third):
        one.dispose()
    warnings = [line for line in told(caplog) if "no relay may send" in line]
    assert len(warnings) == 1
    assert "other.db" in warnings[0]


@pytest.mark.long("waits for the last seconds that a node gives its database")
@pytest.mark.parametrize("kind", ["psycopg", in_matrix("asyncpg", "the other driver stays in make test")])
async def test_a_database_that_does_not_answer_keeps_no_node_from_its_stop(
    postgres: Database, make_node: MakeNode, tmp_path: Path, kind: str
) -> None:
    base = Base(kind, postgres, tmp_path)
    with psycopg.connect(postgres.conninfo) as locking, psycopg.connect(postgres.conninfo, autocommit=True) as watching:

        def blocked() -> bool:
            waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'peerjob_outbox'::regclass"
            return watching.execute(waits).fetchone() is not None

        with Stalls() as stalls:
            async with make_node(base):
                locking.execute("LOCK TABLE peerjob_outbox")
                await until(blocked)
                began_us = now_us()
            took = stalls.took(began_us)
        locking.rollback()
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"
        await until(lambda: watching.execute(others).fetchone() == (0,))
        await until(lambda: base.relay_engine.pool.checkedout() == 0)
    await base.close()
    assert took < 30, "the node waits 5 s for the call and 5 s for the end of its connection"


async def test_a_file_is_one_database_by_each_path(
    tmp_path: Path, make_node: MakeNode, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = Base("sqlite", None, Path("own.db"))
    async with make_node(base) as node:
        await until(lambda: bool(relays.get("peerjob_outbox")))
        with contextlib.closing(sqlite3.connect(tmp_path / "own.db")) as connection, connection:
            connection.row_factory = lambda cursor, row: dict(zip(cursor.description, row, strict=True))
            row = outbox.schedule(connection, job.call(4))
        assert await row.result(node, 30) == 8
    assert not any("no relay may send" in line for line in told(caplog))
    await base.close()


async def test_a_commit_wakes_the_relay(postgres: Database, make_node: MakeNode, tmp_path: Path) -> None:
    base = Base("psycopg", postgres, tmp_path)
    with Stalls() as stalls:
        async with make_node(base) as node:
            times: list[float] = []
            with psycopg.connect(postgres.conninfo) as connection:
                for number in range(40):
                    row = outbox.schedule(connection, job.call(number))
                    began_us = now_us()
                    connection.commit()
                    await row.result(node, 30)
                    times.append(stalls.took(began_us))
    await base.close()
    assert sorted(times)[len(times) // 2] < 0.5, "a look each second is slower than that"


async def test_the_relay_listens_again_after_its_connection_ended(
    postgres: Database, make_node: MakeNode, tmp_path: Path
) -> None:
    base = Base("psycopg", postgres, tmp_path)
    listening = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    ended = set[int]()
    async with make_node(base) as node:
        with psycopg.connect(postgres.conninfo, autocommit=True) as admin:

            def of_listeners(columns: str) -> set[int]:
                return {int(row[0]) for row in admin.execute(f"SELECT {columns} {listening}".encode())}

            def is_another() -> bool:
                return not of_listeners("pid") <= ended

            for number in range(3):
                with base.engine.begin() as connection:
                    row = outbox.schedule(connection, job.call(number))
                assert await row.result(node, 30) == 2 * number
                ended |= of_listeners("pid, pg_terminate_backend(pid)")
                await until(is_another)
    await base.close()


@pytest.mark.parametrize("base", ["psycopg", "sqlite"], indirect=True)
async def test_rows_of_a_process_that_was_paused_are_taken_anew(
    base: Base, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = pytest.MonkeyPatch()
    pause.setattr(relay, "SEND_LIMIT", -1.0)

    def noted(*given: Any) -> None:
        pause.undo()
        give_back(*given)

    monkeypatch.setattr(relay, "give_back", noted)
    with base.engine.begin() as connection:
        row = outbox.schedule(connection, job.call(4))
    async with make_node(base) as node:
        assert await row.result(node, 30) == 8
    assert relay.SEND_LIMIT > 0


def _has_deleted(seen: list[str], times: int) -> bool:
    return seen.count("DELETE") >= times


@pytest.mark.parametrize("kind", ["psycopg", "asyncpg"])
async def test_a_lone_row_costs_two_changes_and_no_transaction(
    postgres: Database, make_node: MakeNode, tmp_path: Path, kind: str
) -> None:
    base, seen = Base(kind, postgres, tmp_path), list[str]()
    watched = getattr(base.relay_engine, "sync_engine", base.relay_engine)
    event.listen(watched, "before_cursor_execute", lambda *given: seen.append(given[2].split()[0]))
    # a process of autovacuum is in the same database now and then
    clients = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    others = f"SELECT pid, query FROM pg_stat_activity WHERE {clients}"
    own = set[int]()
    async with make_node(base) as node:
        for number in range(1 + ROWS):
            if number == 1:
                seen.clear()
            deletes = seen.count("DELETE") + 1
            with base.engine.begin() as connection:
                own |= {*connection.exec_driver_sql("SELECT pg_backend_pid()").scalars()}
                row = outbox.schedule(connection, job.call(number))
            assert await row.result(node, 30) == 2 * number
            await until(partial(_has_deleted, seen, deletes))
        with psycopg.connect(postgres.conninfo, autocommit=True) as watching:
            rows = watching.execute(others.encode()).fetchall()
            last = {query.split()[0] for pid, query in rows if pid not in own}
    await base.close()
    assert set(seen) <= {"WITH", "DELETE", "SELECT"}
    # a row whose notification comes during a pass that takes the row costs one take more
    assert seen.count("DELETE") == ROWS <= seen.count("WITH") < 2 * ROWS
    assert "LISTEN" in last
    assert last <= {"LISTEN", "SELECT", "DELETE", "WITH"}, "a COMMIT would be the last statement of a transaction"
