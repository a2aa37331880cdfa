"""A client on a machine with a wrong clock acts as any other client: its ids take the time of the node."""

import logging

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
