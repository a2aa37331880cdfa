"""A row counts as sent only if a relay may have sent it, so rows of an outage of any length are sent after it."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from peerjob import Job, Node, State
from peerjob.model.errors import StoreError, StoreFullError, StorePermissionError
from peerjob.model.record import NewInstance
from peerjob.node.work.outbox import OutboxState, RelayNode
from peerjob.sql import Outbox, OutboxRelay
from peerjob.sql.databases import EngineDatabase
from peerjob.sql.relay_rows import TakenRow, give_back, take
from peerjob.sql.tables import channel_of
from support.outbox_base import Base, base_of
from support.servers import StartServer
from support.waiting import until

outbox = Outbox()


async def double(number: int) -> int:
    return 2 * number


job = Job("double", double)


@pytest.fixture(params=["psycopg", "asyncpg", "sqlite", "aiosqlite"])
async def base(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Base]:
    async with base_of(request, tmp_path) as made:
        yield made


class Watched:
    """A relay that notes how often it asks the store in vain, the sizes of its calls, and each refusal of its rows."""

    def __init__(self, base: Base) -> None:
        self._relay = OutboxRelay(base.relay_engine)
        self.unreached = 0
        self.refusals: list[StoreError] = []
        self.sizes: list[int] = []

    async def run(self, node: RelayNode) -> None:
        watched = self

        class Watching:
            clock, states, remember, look_aside = node.clock, node.states, node.remember, node.look_aside

            async def send(self, instances: Sequence[NewInstance]) -> list[Exception | None]:
                watched.sizes.append(len(instances))
                try:
                    return await node.send(instances)
                except StoreError as error:
                    watched.refusals.append(error)
                    raise

            async def reach(self) -> None:
                try:
                    await node.reach()
                except StoreError:
                    watched.unreached += 1
                    raise

        await self._relay.run(Watching())

    async def state(self) -> OutboxState:
        return await self._relay.state()


@asynccontextmanager
async def running(url: str, relay: Watched) -> AsyncGenerator[Node]:
    async with Node(url, jobs=[job], outbox=relay, store_retry=0) as node:
        yield node


async def test_rows_are_not_taken_while_the_store_is_away(
    base: Base, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peerjob.sql.relay.KNOWN_FOR", 0.0)  # as if a second had passed since the last answer
    server, relay = start_server("redis", appendonly=True), Watched(base)
    async with running(server.url, relay) as node:
        with base.engine.begin() as connection:
            first = outbox.schedule(connection, job.call(1))
        assert await first.result(node, 30) == 2
        await until(lambda: base.rows() == [])
        server.kill()
        if base.engine.dialect.name == "postgresql":
            # a pass that reached the store before the kill takes rows, and has ended when a later one does not reach it
            base.execute(f"NOTIFY {channel_of('peerjob_outbox')}")
            await until(lambda: relay.unreached > 0)
        with base.engine.begin() as connection:
            late = outbox.schedule(connection, job.call(2))
        seen = relay.unreached
        await until(lambda: relay.unreached >= seen + 2)
        assert [row.taken for row in base.rows()] == [None]
        await asyncio.to_thread(server.restart)
        await until(lambda: base.rows() == [])
        assert (await node.wait_final(late.id, 60)).state is State.COMPLETED
    assert base.rows("peerjob_outbox_bad") == []


async def test_rows_that_a_full_store_refuses_are_given_back(base: Base, start_server: StartServer) -> None:
    server, relay = start_server("redis"), Watched(base)
    async with running(server.url, relay) as node:
        server.command("CONFIG", "SET", "maxmemory", "1")
        with base.engine.begin() as connection:
            row = outbox.schedule(connection, job.call(1))
        await until(lambda: len(relay.refusals) >= 2)
        assert all(isinstance(error, StoreFullError) and not error.is_unsure for error in relay.refusals)
        await until(lambda: [row.taken for row in base.rows()] == [None])
        server.command("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: base.rows() == [])
        assert (await node.wait_final(row.id, 60)).state is State.COMPLETED


@pytest.mark.parametrize("base", ["psycopg"], indirect=True)
async def test_rows_wait_while_the_user_of_the_store_lacks_a_right(
    base: Base, start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server, relay = start_server("redis"), Watched(base)
    server.command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all")
    async with running(server.url.replace("//", "//app:secret@"), relay) as node:
        server.command("ACL", "SETUSER", "app", "-zadd")
        with base.engine.begin() as connection:
            rows = outbox.schedule_many(connection, [job.call(number) for number in range(3)])
        await until(lambda: len(relay.refusals) >= 3)
        assert all(isinstance(error, StorePermissionError) for error in relay.refusals)
        assert relay.sizes[-1] == 1, "the relay tries with one row"
        await until(lambda: [row.taken for row in base.rows()] == [None] * 3)
        server.command("ACL", "SETUSER", "app", "+zadd")
        await until(lambda: base.rows() == [])
        assert [(await node.wait_final(row.id, 60)).state for row in rows] == [State.COMPLETED] * 3
    (told,) = [record for record in caplog.records if record.name == "peerjob.sql"]
    assert told.levelname == "ERROR"
    assert re.search(r"rows of the outbox peerjob_outbox wait.*user 'app'.*lacks a right.*'zadd'", told.getMessage())
    assert base.rows("peerjob_outbox_bad") == []


async def test_a_row_that_another_relay_has_taken_since_is_not_given_back(base: Base) -> None:
    database = EngineDatabase(base.relay_engine)

    async def taken() -> list[TakenRow]:
        return await database.run(lambda connected: take(connected, "peerjob_outbox", 500, 1 << 20))

    async def given_back(rows: list[TakenRow]) -> None:
        await database.run(lambda connected: give_back(connected, "peerjob_outbox", rows))

    def lapse() -> None:
        shifted = "taken - interval '2 seconds'" if base.engine.dialect.name == "postgresql" else None
        shifted = shifted or "strftime('%Y-%m-%d %H:%M:%f', taken, '-2 seconds')"
        base.execute(f"UPDATE peerjob_outbox SET taken = {shifted}")

    with base.engine.begin() as connection:
        row = outbox.schedule(connection, job.call(1))
    mine = await taken()
    assert [one.id for one in mine] == [row.id]
    assert mine[0].first is not None
    await given_back(mine)
    assert [one.taken for one in base.rows()] == [None]

    early = await taken()
    lapse()
    stored = str(base.rows()[0].taken)
    shifted = [one._replace(first=stored) for one in early]  # the time that the other relay will find
    late = await taken()
    assert [(one.id, one.first) for one in late] == [(row.id, None)], "it may have been sent"
    await given_back(shifted)
    await given_back(late)
    assert [one.taken is None for one in base.rows()] == [False]
    assert str(base.rows()[0].taken) < stored
