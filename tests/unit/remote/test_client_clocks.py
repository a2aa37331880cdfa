"""A client on a machine with a wrong clock acts as any other client: its ids take the time of the node."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from peerjob import Client, Job, Node, OptionError, Query, SystemClock
from peerjob.model.ids import IdSource, id_time_us
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.server.instances import InstanceRpcs
from support.rpc import served

DAY_US = 86_400_000_000


class WrongClock(SystemClock):
    """A clock that is off until a test corrects it."""

    def __init__(self, off_us: int) -> None:
        super().__init__()
        self.off_us = off_us

    def time_us(self) -> int:
        return super().time_us() + self.off_us


def work() -> int:
    return 1


WORK = Job("work", work)


async def act(client: Client, node: Node) -> None:
    made = await client.schedule(WORK)
    assert await made.result(30) == 1
    again = await made.retry()
    assert await again.result(30) == 1
    assert len(await client.schedule_many([WORK.call(), WORK.call()])) == 2
    assert len(await client.retry_instances(Query(uuid=made.id))) == 1
    schedule = await client.add_schedule(WORK.with_options(every="1d", name="daily"))
    assert await schedule.trigger() is not None
    assert abs(id_time_us(again.id) - node.clock.time_us()) < 60_000_000


@pytest.mark.parametrize("days", [-400, -2, 0, 2, 400])
async def test_a_client_whose_clock_is_days_off_acts(days: int, caplog: pytest.LogCaptureFixture) -> None:
    clock = WrongClock(days * DAY_US)
    async with served(WORK) as (node, server), Client(server.target, clock=clock) as client:
        with caplog.at_level(logging.WARNING, "peerjob.client"):
            await act(client, node)
        warned = [line.message for line in caplog.records if line.name == "peerjob.client"]
        assert bool(warned) is bool(days)
        clock.off_us = 0  # the machine asked a time server
        await act(client, node)


@pytest.mark.parametrize("days", [-400, -2, -0.1, 0.1, 2, 400])
async def test_a_step_of_the_clock_of_a_client_changes_nothing(days: float) -> None:
    clock = WrongClock(0)
    async with served(WORK) as (node, server), Client(server.target, clock=clock) as client:
        await act(client, node)
        for off_us in (round(days * DAY_US), 0):
            clock.off_us = off_us
            await act(client, node)
            later = await client.schedule(WORK.with_options(after="1h"))
            now = datetime.now(UTC)
            assert abs(later.due_at - now - timedelta(hours=1)) < timedelta(minutes=1)
            assert abs(later.created_at - now) < timedelta(minutes=1)


@pytest.mark.parametrize("days", [-2, 0.1, 2])
async def test_a_client_follows_a_step_of_both_clocks(days: float) -> None:
    clock, node_clock = WrongClock(0), WrongClock(0)
    async with served(WORK, clock=node_clock) as (node, server), Client(server.target, clock=clock) as client:
        await act(client, node)
        # the machines were suspended, and their monotonic clocks did not count that time
        clock.off_us = node_clock.off_us = round(days * DAY_US)
        await act(client, node)


@pytest.mark.parametrize("days", [-400, -2, 2, 400])
async def test_a_client_follows_a_step_of_the_clock_of_its_node(days: int, caplog: pytest.LogCaptureFixture) -> None:
    node_clock = WrongClock(0)
    async with served(WORK, clock=node_clock) as (node, server), Client(server.target) as client:
        await act(client, node)
        for off_us in (days * DAY_US, 0):
            node_clock.off_us = off_us
            caplog.clear()
            await act(client, node)
            # the clock of the client is compared once, and is right in the end
            warned = [line for line in caplog.records if line.name == "peerjob.client"]
            assert len(warned) == bool(off_us)


@pytest.mark.parametrize("verb", ["schedule", "schedule_many", "retry", "retry many", "trigger"])
async def test_each_verb_with_an_own_id_is_repeated_after_a_step(verb: str) -> None:
    node_clock = WrongClock(0)
    async with served(WORK, clock=node_clock) as (_, server), Client(server.target) as client:
        made = await client.schedule(WORK)
        await made.wait(30)
        schedule = await client.add_schedule(WORK.with_options(every="1d", name="daily"))
        node_clock.off_us = -2 * DAY_US
        verbs: dict[str, Callable[[], Awaitable[object]]] = {
            "schedule": lambda: client.schedule("work"),
            "schedule_many": lambda: client.schedule_many([WORK.call()] * 3),
            "retry": made.retry,
            "retry many": lambda: client.retry_instances(Query(uuid=made.id)),
            "trigger": schedule.trigger,
        }
        before = await client.count()
        await verbs[verb]()
        assert await client.count() == before + (3 if verb == "schedule_many" else 1)


@pytest.mark.parametrize("verb", ["schedule_as", "retry"])
async def test_the_clock_of_a_client_is_right_after_the_refusal_of_an_id(verb: str) -> None:
    node_clock = WrongClock(0)
    async with served(WORK, clock=node_clock) as (_, server), Client(server.target) as client:
        made = await client.schedule(WORK)
        await made.wait(30)
        node_clock.off_us = -2 * DAY_US

        async def act_with(id: str) -> object:
            return await (client.schedule_as(id, WORK.call()) if verb == "schedule_as" else made.retry(id=id))

        with pytest.raises(OptionError, match="a day from the clock of the node"):
            await act_with(IdSource(client.clock).one())
        await act_with(IdSource(client.clock).one())


async def test_a_refusal_for_another_reason_is_not_repeated() -> None:
    local = Job("local", lambda: 1)
    async with served(local) as (_, server), Client(server.target) as client:
        with pytest.raises(OptionError, match="cannot be imported by name"):
            await client.schedule(Job("local").with_options(run_in="process"))


async def test_the_error_of_an_id_names_both_clocks() -> None:
    async with served(WORK) as (node, server), Client(server.target) as client:
        id = IdSource(WrongClock(-2 * DAY_US)).one()
        for to in (client, node):
            with pytest.raises(OptionError, match=r"a day from the clock of the node \(the id says 20.*, the clock 20"):
                await to.schedule_as(id, WORK.call())
        with pytest.raises(OptionError, match="the id says after the year 9999"):
            await client.schedule_as("ffffffff-ffff-7000-8000-000000000000", WORK.call())


async def test_the_warning_names_the_node_that_answered(caplog: pytest.LogCaptureFixture) -> None:
    clock = WrongClock(2 * DAY_US)
    async with served(WORK) as (_, server), Client(f"127.0.0.1:1,{server.target}", clock=clock):
        (warned,) = [line.getMessage() for line in caplog.records if line.name == "peerjob.client"]
        assert f"of the node at {server.target}:" in warned


@pytest.mark.parametrize("seconds", [-(2**62), 253_402_300_800, 10**18, 2**62])
async def test_a_time_outside_the_calendar_is_no_clock(seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def get_version(*_: object) -> pb.VersionResponse:
        return pb.VersionResponse(version="1", api_version="v1", time=Timestamp(seconds=seconds))

    monkeypatch.setattr(InstanceRpcs, "get_version", get_version)
    async with served(WORK) as (_, server), Client(server.target) as client:
        made = await client.schedule(WORK)
        assert await made.result(30) == 1


async def test_each_request_of_many_calls_is_repeated_after_a_step() -> None:
    node_clock = WrongClock(0)
    async with served(WORK, clock=node_clock) as (_, server), Client(server.target) as client:
        await client.schedule(WORK)
        node_clock.off_us = -2 * DAY_US
        assert len(await client.schedule_many([WORK.call()] * 2_500)) == 2_500  # three requests


async def test_calls_under_way_warn_once_of_a_step(caplog: pytest.LogCaptureFixture) -> None:
    clock = WrongClock(0)
    async with served(WORK) as (_, server), Client(server.target, clock=clock) as client:
        for off_us in (2 * DAY_US, 0, -DAY_US):
            clock.off_us = off_us
            caplog.clear()
            await asyncio.gather(*(client.schedule(WORK) for _ in range(20)))
            assert len([line for line in caplog.records if line.name == "peerjob.client"]) == bool(off_us)
