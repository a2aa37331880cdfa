"""A node that stops while its relay sends rows leaves no row in the table that it has sent."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

import pytest

from peerjob import Job, Node
from peerjob.model.clock import Clock, SystemClock
from peerjob.model.errors import RowRefusedError
from peerjob.model.record import NewInstance
from peerjob.model.state import State
from peerjob.node.work.outbox import OutboxState, Refusals, RelayNode
from peerjob.sql import Outbox, OutboxRelay
from support.outbox_base import Base, base_of


async def double(number: int) -> int:
    return 2 * number


job = Job("double", double)
outbox = Outbox()


@pytest.fixture(params=["psycopg", "asyncpg", "sqlite", "aiosqlite"])
async def base(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Base]:
    async with base_of(request, tmp_path) as made:
        yield made


class StoppedRelay:
    """A relay that gets the answer of the store only after its node has told it to stop."""

    def __init__(self, base: Base) -> None:
        self._relay = OutboxRelay(base.relay_engine)
        self._stops = asyncio.Event()
        self.sent = asyncio.Event()

    async def run(self, node: RelayNode) -> None:
        stopped = self

        class Holding:
            clock, states, remember = node.clock, node.states, node.remember
            look_aside, reach = node.look_aside, node.reach

            async def send(self, instances: Sequence[NewInstance]) -> list[Exception | None]:
                errors = await node.send(instances)
                stopped.sent.set()
                await stopped._stops.wait()
                return errors

        running = asyncio.create_task(self._relay.run(Holding()))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            running.cancel()
            asyncio.get_running_loop().call_soon(self._stops.set)
            await running

    async def state(self) -> OutboxState:
        return await self._relay.state()


@pytest.mark.parametrize("most", [500, 1])
async def test_a_row_that_was_sent_leaves_the_table_at_the_stop(
    base: Base, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("peerjob.sql.relay.MAX_BATCH", most)
    with base.engine.begin() as connection:
        rows = outbox.schedule_many(connection, [job.call(1), job.call(2)])
    relay = StoppedRelay(base)
    async with Node(redis_url, jobs=[job], namespace=namespace, outbox=relay), asyncio.timeout(30):
        await relay.sent.wait()
    assert len(base.rows()) == max(0, 2 - most)
    async with Node(redis_url, jobs=[job], namespace=namespace, outbox=OutboxRelay(base.relay_engine)) as node:
        assert [await row.result(node, 30) for row in rows] == [2, 4]


@pytest.mark.parametrize("base", ["sqlite"], indirect=True)
async def test_a_second_cancellation_leaves_no_task_behind(base: Base) -> None:
    """A node can be cancelled while it waits for its relay."""
    sent = asyncio.Event()

    class Silent:
        clock: Clock = SystemClock()

        async def send(self, instances: Sequence[NewInstance]) -> list[Exception | None]:
            sent.set()
            await asyncio.Event().wait()
            return []

        async def reach(self) -> None: ...
        async def states(self, ids: Sequence[str]) -> dict[str, State]:
            return {}

        def remember(self, refused: Iterable[RowRefusedError]) -> None: ...
        def look_aside(self, refusals: Refusals) -> None: ...

    with base.engine.begin() as connection:
        outbox.schedule(connection, job.call(1))
    before = asyncio.all_tasks()
    running = asyncio.create_task(OutboxRelay(base.relay_engine).run(Silent()))
    await sent.wait()
    running.cancel()
    asyncio.get_running_loop().call_soon(running.cancel)
    await asyncio.wait([running])
    assert asyncio.all_tasks() == before
