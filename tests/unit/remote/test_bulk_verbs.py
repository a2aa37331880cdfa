"""Verbs that act on very many instances, through a client: in parts, each of which fits into one response."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from peerjob import (
    Client,
    Instance,
    Job,
    Node,
    Query,
    Server,
    State,
    StoreFullError,
    StoreLimits,
    SystemClock,
)
from peerjob.model.ids import IdSource
from peerjob.model.query import ResultPage
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.server import pages
from peerjob.remote.server.pages import MAX_BYTES, part_of
from peerjob.remote.wire.rpcs import RPCS
from peerjob.store.drivers import open_store
from peerjob.testing import VirtualClock
from support.factories import shared_url
from support.flaky import FlakyStore
from support.rpc import raw_client, served


def echo(*args: Any) -> tuple[Any, ...]:
    return args


ECHO = Job("echo", echo)
WAITING = [ECHO.with_options(after="1h").call(number, "x" * 3_000) for number in range(1_500)]


async def test_many_are_cancelled_and_retried_in_parts() -> None:
    async with served(ECHO) as (node, server), Client(server.target) as client:
        waiting = await node.schedule_many(WAITING)

        cancelled = await client.cancel_instances(Query(kind="echo"))
        assert [one.id for one in cancelled] == [one.id for one in waiting]
        await node.drain()
        id = IdSource(SystemClock()).one()
        made = await client.retry_instances(Query(kind="echo", state="final"), id=id)
        assert [one.retry_of for one in made] == [one.uuid for one in waiting]
        assert [one.args for one in made] == [one.args for one in waiting]
        assert await client.retry_instances(Query(kind="echo", state="final"), id=id) == made


async def test_a_part_of_many_fits_into_one_response() -> None:
    async with served(ECHO) as (node, server), raw_client(server.target) as raw:
        await node.schedule_many(WAITING)
        request = pb.CancelInstancesRequest(query=pb.Query(kind="echo"), in_parts=True)
        parts = cancelled = 0
        while not parts or request.query.cursor:
            answer = await raw.call("CancelInstances", request)
            assert answer.ByteSize() < MAX_BYTES
            assert all(one.arguments for one in answer.instances)
            parts, cancelled = parts + 1, cancelled + len(answer.instances)
            assert await node.count(Query(state=State.CANCELLED)) == cancelled
            request.query.cursor = answer.cursor
        assert (parts > 1, cancelled) == (True, len(WAITING))


@pytest.mark.parametrize("answered", [0, 2], ids=["first", "later"])
async def test_an_error_of_a_later_request_is_unsure(answered: int) -> None:
    flaky = FlakyStore(open_store(shared_url(), namespace="default", clock=SystemClock(), limits=StoreLimits()))
    async with (
        Node(flaky.store, jobs=[ECHO]) as node,
        Server(node, "127.0.0.1:0") as server,
        Client(server.target) as client,
    ):
        calls: list[Any] = []

        def is_late(instances: Any) -> bool:
            calls.append(instances)
            return len(calls) > answered

        flaky.refuse(StoreFullError("full"), "enqueue", when=is_late)
        with pytest.raises(StoreFullError) as caught:
            await client.schedule_many([ECHO.with_options(after="1h").call(number) for number in range(1_001)])
        assert await node.count() == answered * 500
        assert caught.value.is_unsure is (answered > 0)


@pytest.mark.parametrize("name", ["CancelInstances", "RetryInstances"])
async def test_a_part_is_given_a_share_of_the_timeout_of_its_client(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(pages, "PART_SHARE", 0.0)  # each page is a part, however long the machine stands still
    monkeypatch.setattr(pages, "PART_SECONDS", 3600.0)
    async with served(ECHO) as (node, server), raw_client(server.target) as raw:
        await node.schedule_many(ECHO.with_options(after="1h").call(number) for number in range(1_500))
        if name == "RetryInstances":
            await node.cancel_instances(Query.all())
            await node.drain()
        request: Any = RPCS[name].request(query=pb.Query(kind="echo"), in_parts=True)
        answer = await raw.call(name, request, timeout=60)
        assert 0 < len(answer.instances) < 1_500
        assert answer.cursor


@pytest.mark.parametrize(("left", "seconds"), [(None, 5), (60, 5), (1.5, 0.75)])
async def test_a_part_takes_half_of_the_time_that_is_left(
    clock: VirtualClock, left: float | None, seconds: float
) -> None:
    async def each_tenth() -> AsyncGenerator[ResultPage[Instance[Any]]]:
        for number in range(100):
            await asyncio.sleep(0.1)
            yield ResultPage((), str(number))

    begun = clock.elapsed()
    assert (await clock.run(part_of(each_tenth(), whole=False, left=left)))[1]
    assert seconds < clock.elapsed() - begun <= seconds + 0.2
