"""Verbs that act on very many instances, through a client: in parts, each of which fits into one response."""

from typing import Any

import pytest

from peerjob import (
    Client,
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
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.server.pages import MAX_BYTES
from peerjob.store.drivers import open_store
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


@pytest.mark.parametrize("acts", ["cancel", "retry"])
async def test_a_part_ends_within_the_timeout_of_its_client(acts: str) -> None:
    flaky = FlakyStore(open_store(shared_url(), namespace="default", clock=SystemClock(), limits=StoreLimits()))
    async with (
        Node(flaky.store, jobs=[ECHO]) as node,
        Server(node, "127.0.0.1:0") as server,
        Client(server.target, timeout=1.5) as client,
    ):
        await node.schedule_many([ECHO.with_options(after="1h").call(number) for number in range(1_500)])
        if acts == "retry":
            await node.cancel_instances(Query.all())
            await node.drain()
        flaky.slow(0.15, "lookup")
        verb = client.cancel_instances if acts == "cancel" else client.retry_instances
        assert len(await verb(Query(kind="echo"))) == 1_500
