"""Each node with a relay tells at once why a row has no instance, from the table of bad rows."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from peerjob import Client, Job, Node, RowRefusedError, Server, UnknownInstanceError
from peerjob.node.work.outbox import LOOK_ASIDE
from peerjob.sql import Outbox, OutboxRelay, ScheduledRow
from support.division import in_matrix
from support.outbox_base import Base, base_of
from support.postgres import Database
from support.stalls import Stalls, now_us
from support.waiting import PATIENCE, until

outbox = Outbox()
ASKS = "SELECT CAST(id AS text), error"


async def double(number: int) -> int:
    return 2 * number


job = Job("double", double)


@pytest.fixture(params=["psycopg", in_matrix("asyncpg", "an asynchronous driver"), "sqlite"])
async def base(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Base]:
    async with base_of(request, tmp_path) as made:
        yield made


def put_aside(base: Base, count: int = 1) -> list[ScheduledRow[int]]:
    """Rows that a relay of an earlier process has kept aside."""
    with base.engine.begin() as connection:
        rows = outbox.schedule_many(connection, [job.call(number) for number in range(count)])
    columns = "id, call, created, taken"
    base.execute(f"INSERT INTO peerjob_outbox_bad SELECT {columns}, 'the store said no' FROM peerjob_outbox")
    base.execute("DELETE FROM peerjob_outbox")
    return rows


def questions_of(engine: Any) -> list[str]:
    """The questions for rows that are aside, as they come."""
    asked: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith(ASKS):
            asked.append(statement)

    event.listen(getattr(engine, "sync_engine", engine), "before_cursor_execute", note)
    return asked


async def test_a_node_that_never_saw_the_row_tells_its_error_at_once(
    base: Base, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peerjob.node.work.outbox.LOOK_ASIDE", PATIENCE)  # a database on a busy machine answers late
    (row,) = put_aside(base)
    told = rf"no instance {row.id} .*peerjob_outbox_bad has its row: the store said no"
    async with (
        Node(redis_url, jobs=[job], namespace=namespace, outbox=OutboxRelay(base.relay_engine)) as node,
        Server(node, "127.0.0.1:0") as server,
        Client(server.target) as client,
    ):
        for manager in (node, client):
            with pytest.raises(RowRefusedError, match=told) as refused:
                await row.instance(manager, arrival=0)
            assert (refused.value.uuid, refused.value.holder) == (row.id, "")
        base.execute("INSERT INTO peerjob_outbox (id, call) SELECT id, call FROM peerjob_outbox_bad")
        base.execute("DELETE FROM peerjob_outbox_bad")
        assert await row.result(node, 30) == 0, "the row was sent again"


async def test_lookups_at_one_time_are_one_question(
    base: Base, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peerjob.node.work.outbox.LOOK_ASIDE", PATIENCE)  # a database on a busy machine answers late
    rows = put_aside(base, 20)
    asked = questions_of(base.relay_engine)
    async with Node(redis_url, jobs=[job], namespace=namespace, outbox=OutboxRelay(base.relay_engine)) as node:
        instance = await node.schedule(job, 4)
        assert await instance.result(30) == 8
        with pytest.raises(UnknownInstanceError):
            await node.lookup_instance("00000000-0000-7000-8000-000000000001")
        assert asked == [], "these ids are of no outbox"
        lookups = [asyncio.create_task(node.lookup_instance(row.id)) for row in rows]
        found = await asyncio.gather(*lookups, return_exceptions=True)
        assert {type(error) for error in found} == {RowRefusedError}
        assert 1 <= len(asked) <= 3


@pytest.mark.parametrize("base", ["psycopg", in_matrix("asyncpg", "an asynchronous driver")], indirect=True)
async def test_a_database_that_does_not_answer_keeps_no_lookup(
    base: Base, postgres: Database, redis_url: str, namespace: str
) -> None:
    (row,) = put_aside(base)
    asked = questions_of(base.relay_engine)
    async with Node(redis_url, jobs=[job], namespace=namespace, outbox=OutboxRelay(base.relay_engine)) as node:
        with psycopg.connect(postgres.conninfo) as locking, Stalls() as stalls:
            locking.execute("LOCK TABLE peerjob_outbox_bad")
            began_us = now_us()
            for _ in range(20):
                with pytest.raises(UnknownInstanceError) as unknown:
                    await node.lookup_instance(row.id)
                assert type(unknown.value) is UnknownInstanceError
            assert stalls.took(began_us) < 10 * LOOK_ASIDE, "only the first lookup waits"
            assert len(asked) == 1

        async def is_told() -> bool:
            try:
                await node.lookup_instance(row.id)
            except UnknownInstanceError as error:
                return isinstance(error, RowRefusedError)
            return False

        await until(is_told)


@pytest.mark.parametrize("base", ["psycopg", in_matrix("asyncpg", "an asynchronous driver")], indirect=True)
async def test_a_lookup_that_waits_for_the_table_keeps_no_row(
    base: Base, postgres: Database, redis_url: str, namespace: str
) -> None:
    (row,) = put_aside(base)
    async with Node(redis_url, jobs=[job], namespace=namespace, outbox=OutboxRelay(base.relay_engine)) as node:
        with psycopg.connect(postgres.conninfo) as locking:
            locking.execute("LOCK TABLE peerjob_outbox_bad")
            with pytest.raises(UnknownInstanceError):
                await node.lookup_instance(row.id)
            with base.engine.begin() as connection:
                other = outbox.schedule(connection, job.call(21))
            assert await other.result(node, 10) == 42


@pytest.mark.parametrize("base", ["psycopg", in_matrix("asyncpg", "an asynchronous driver")], indirect=True)
async def test_a_node_that_stops_gives_back_the_connection_of_a_lookup(
    base: Base, postgres: Database, redis_url: str, namespace: str
) -> None:
    (row,) = put_aside(base)
    async with Node(redis_url, jobs=[job], namespace=namespace, outbox=OutboxRelay(base.relay_engine)) as node:
        locking = psycopg.connect(postgres.conninfo)
        locking.execute("LOCK TABLE peerjob_outbox_bad")
        with pytest.raises(UnknownInstanceError):
            await node.lookup_instance(row.id)
        asyncio.get_running_loop().call_later(0.5, locking.close)
    assert base.relay_engine.pool.checkedout() == 0
    locking.close()  # an asynchronous lookup ends at once
