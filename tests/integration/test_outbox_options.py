"""The options of a call pass through an outbox: key, key limit, tags, priority, delay and time."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from peerjob import (
    Client,
    Job,
    KeyLimit,
    Node,
    Query,
    Rights,
    Role,
    RowRefusedError,
    Server,
    State,
    UnknownInstanceError,
)
from peerjob.handles.scoped_manager import ScopedManager
from peerjob.sql import Outbox, OutboxRelay, ScheduledRow
from support.outbox_base import Base, base_of
from support.waiting import until

outbox = Outbox()
MakeNode = Callable[..., AbstractAsyncContextManager[Node]]


@pytest.fixture(params=["psycopg", "sqlite"])
async def base(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Base]:
    async with base_of(request, tmp_path) as made:
        yield made


@pytest.fixture(params=["redis", "sqlite"])
def store(request: pytest.FixtureRequest) -> str:
    """A store of each engine of the contract."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def make_node(base: Base, store: str, namespace: str) -> MakeNode:
    @asynccontextmanager
    async def make(*jobs: Job[..., Any, Any], workers: int = 8) -> AsyncGenerator[Node]:
        relay = OutboxRelay(base.relay_engine)
        async with Node(store, jobs=jobs, namespace=namespace, workers=workers, outbox=relay) as node:
            yield node

    return make


def write(base: Base, *calls: Any) -> list[ScheduledRow[Any]]:
    with base.engine.begin() as connection:
        return outbox.schedule_many(connection, calls)


async def test_priorities_order_the_rows_and_tags_stay(base: Base, make_node: MakeNode) -> None:
    ran: list[str] = []

    async def note(name: str) -> None:
        ran.append(name)

    job = Job("note", note, tags=["from a row"])
    write(base, *(job.with_options(priority=priority).call(str(priority)) for priority in (9, -3, 5, 0)))
    async with make_node(job, workers=0) as node:
        await until(lambda: base.rows() == [])
        found = await node.lookup_instances(Query(tag="from a row"))
        assert sorted(one.priority for one in found) == [-3, 0, 5, 9]
    async with make_node(job, workers=1):
        await until(lambda: ran == ["-3", "0", "5", "9"])


async def test_delays_and_times_are_those_of_the_call(base: Base, make_node: MakeNode) -> None:
    async def body() -> None: ...

    job = Job("later", body)
    at = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)
    before = datetime.now(UTC)
    delayed, timed, soon = write(
        base,
        job.with_options(after="1h").call(),
        job.with_options(at=at).call(),
        job.with_options(after="300ms").call(),
    )
    after = datetime.now(UTC)
    async with make_node(job) as node:
        await soon.result(node, 30)
        first, second = await delayed.instance(node), await timed.instance(node)
        assert (first.state, second.state) == (State.SCHEDULED, State.SCHEDULED)
        hour = timedelta(hours=1)
        assert before + hour <= first.due_at <= after + hour
        assert second.due_at == at
    assert base.rows() == []


async def test_a_key_limit_counts_the_instances_of_rows(base: Base, make_node: MakeNode) -> None:
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    met = asyncio.Event()

    async def serve(tenant: str) -> None:
        running[tenant] += 1
        most[tenant] = max(most[tenant], running[tenant])
        if running["a"] and running["b"]:
            met.set()
        await met.wait()
        await asyncio.sleep(0.01)
        running[tenant] -= 1

    job = Job("serve", serve, limits=[KeyLimit("tenant/{tenant}")])
    rows = write(base, *(job.call(tenant) for tenant in "aabbab"))
    async with make_node(job) as node:
        for row in rows:
            await row.result(node, 30)
    assert most == {"a": 1, "b": 1}, "one at a time for each key, and both keys at a time"


async def test_a_row_whose_key_is_taken_leaves_without_an_instance(
    base: Base, make_node: MakeNode, store: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "peerjob.sql")
    go_on, ran = asyncio.Event(), list[int]()

    async def book(order: int, number: int) -> int:
        await go_on.wait()
        ran.append(number)
        return number

    job = Job("book", book, key="order/{order}")
    async with make_node(job) as node:
        held = await node.schedule(job, 1, 10)
        taken, first, second, other = write(base, job.call(1, 11), job.call(2, 20), job.call(2, 21), job.call(3, 30))
        await until(lambda: base.rows() == [])
        assert {one.id for one in await node.lookup_instances()} == {held.id, first.id, other.id}
        why = f"instance {held.id} of 'book' has its key 'order/1'"
        assert f"row {taken.id} of the outbox made no instance: {why}" in caplog.text
        async with Server(node, "127.0.0.1:0") as server, Client(server.target) as client:
            for manager in (node, client):
                with pytest.raises(RowRefusedError, match=re.escape(f"(when a relay sent its row, {why})")) as refused:
                    await taken.result(manager, 10)
                assert (refused.value.uuid, refused.value.holder) == (taken.id, held.id)
        with pytest.raises(RowRefusedError, match="'order/2'"):
            await second.result(node, 10)
        with pytest.raises(UnknownInstanceError, match="no instance") as hidden:
            await ScopedManager(node, Rights(role=Role.OPERATOR, kinds=("other",))).lookup_instance(taken.id)
        assert "order/1" not in str(hidden.value)
        async with Node(store, namespace=namespace, workers=0) as other_node:
            told = rf"no instance {taken.id} .*not sent by a relay yet, removed by retention, or another .* 'order/1'\)"
            with pytest.raises(UnknownInstanceError, match=told):
                await taken.instance(other_node, arrival=0.05)
        go_on.set()
        assert [await first.result(node, 30), await other.result(node, 30), await held.result(30)] == [20, 30, 10]
        # the key is free again, for a row as for a call
        (again,) = write(base, job.call(1, 12))
        assert await again.result(node, 30) == 12
    assert (sorted(ran), base.rows(), base.rows("peerjob_outbox_bad")) == ([10, 12, 20, 30], [], [])


async def test_a_row_without_a_key_tells_no_key(base: Base, make_node: MakeNode) -> None:
    async def body() -> None: ...

    job = Job("plain", body)
    with base.engine.connect() as connection:
        lost = outbox.schedule(connection, job.call())
        connection.rollback()
    async with make_node(job) as node:
        with pytest.raises(UnknownInstanceError, match=r"\(rolled back or not committed, not sent .* by retention\)"):
            await lost.instance(node, arrival=0)
