"""Callers without a token, and callers that send no message, hold no memory and keep no other caller out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from peerjob import Job, OptionError, Role, Server, Token, Tokens
from peerjob.model.trusted_proxies import HEADER
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.server import calls, connection_shares
from peerjob.remote.wire.rpcs import SERVICE
from support.rpc import forwarding, health_client, open_calls, raw_client, served
from support.unread import UnreadCalls
from support.waiting import PATIENCE, until

Code = grpc.StatusCode
WORK = Job("work", lambda: None)
TOKENS = Tokens([Token.of("read", Role.READER)])
VERSION = f"/{SERVICE.full_name}/GetVersion"
CHECK = "/grpc.health.v1.Health/Check"
OWN: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]


class Silent:
    """A call that sends no message until it is let go on."""

    def __init__(self, channel: grpc.aio.Channel, path: str, token: str | None = None, address: str = "") -> None:
        self._go_on = asyncio.Event()
        metadata = [] if token is None else [("authorization", f"Bearer {token}")]
        if address:
            metadata.append((HEADER, address))
        method: Any = channel.stream_unary(path)
        self.call: Any = method(self._messages(), metadata=metadata, timeout=PATIENCE)

    async def _messages(self) -> AsyncIterator[bytes]:
        await self._go_on.wait()
        yield b""

    def go_on(self) -> None:
        self._go_on.set()

    async def code(self) -> grpc.StatusCode:
        code: grpc.StatusCode = await self.call.code()
        return code


def receiving(server: Server) -> int:
    """How many messages a server receives."""
    return len(server._access.calls._receiving)  # pyright: ignore[reportPrivateUsage]


def at_a_connection(server: Server) -> int:
    """How many messages a server receives, or will receive in their turn."""
    return sum(server._access.calls._by_connection._users.values())  # pyright: ignore[reportPrivateUsage]


async def test_a_call_without_a_token_is_refused_before_its_message() -> None:
    async with served(WORK, tokens=TOKENS) as (_, server), grpc.aio.insecure_channel(server.target) as channel:
        paths = [f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods]
        silent = [Silent(channel, path, token) for path in paths for token in (None, "wrong")]
        assert {await one.code() for one in silent} == {Code.UNAUTHENTICATED}


async def test_few_messages_are_received_on_a_connection_at_a_time() -> None:
    most = calls.MAX_RECEIVING_CONNECTION
    async with (
        served(WORK, tokens=TOKENS) as (_, server),
        grpc.aio.insecure_channel(server.target, options=OWN) as channel,
        raw_client(server.target, OWN) as other,
    ):
        assert await other.code("GetVersion", pb.VersionRequest(), token="read") is Code.OK
        *silent, given_up = [Silent(channel, VERSION, "read") for _ in range(most + 3)]
        await until(lambda: (receiving(server), at_a_connection(server)) == (most, most + 3))

        given_up.call.cancel()
        await until(lambda: at_a_connection(server) == most + 2)
        assert await other.code("GetVersion", pb.VersionRequest(), token="read") is Code.OK
        assert receiving(server) == most
        for one in silent:
            one.go_on()
        assert {await one.code() for one in silent} == {Code.OK}
        assert at_a_connection(server) == 0


async def test_without_tokens_the_silent_calls_of_one_address_keep_no_other_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "MAX_RECEIVING", 1)
    async with (
        served(WORK, trusted_proxies=["127.0.0.1"]) as (_, server),
        grpc.aio.insecure_channel(server.target, options=OWN) as channel,
        grpc.aio.insecure_channel(server.target, options=OWN) as other,
    ):
        silent = [Silent(channel, VERSION, address="192.0.2.1") for _ in range(2)]
        await until(lambda: (receiving(server), at_a_connection(server)) == (1, 2))
        answered = Silent(other, VERSION, address="192.0.2.2")
        answered.go_on()
        assert await answered.code() is Code.OK
        assert not any(one.call.done() for one in silent)
        for one in silent:
            one.go_on()
        assert {await one.code() for one in silent} == {Code.OK}


async def test_a_message_that_does_not_arrive_ends_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "RECEIVE_SECONDS", 0.0)
    async with served(WORK) as (_, server), grpc.aio.insecure_channel(server.target) as channel:
        silent = Silent(channel, VERSION)
        assert await silent.code() is Code.DEADLINE_EXCEEDED
        assert "did not arrive" in await silent.call.details()
        async with raw_client(server.target) as client:
            assert await client.code("GetVersion", pb.VersionRequest()) is Code.OK


async def test_silent_health_checks_keep_no_probe_out() -> None:
    async with served(WORK, tokens=TOKENS) as (_, server), grpc.aio.insecure_channel(server.target) as channel:
        silent: list[Silent] = []
        for number in range(1, 10):
            silent.append(Silent(channel, CHECK))
            await until(partial(_are, silent, ended=max(0, number - calls.MAX_PROBES), server=server))
        codes = [await one.code() for one in silent if one.call.done()]
        assert codes == [Code.RESOURCE_EXHAUSTED] * (len(silent) - calls.MAX_PROBES)
        assert not any(one.call.done() for one in silent[-calls.MAX_PROBES :]), "the oldest ones end"
        async with health_client(server.target) as health:
            answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for one in silent:
            one.call.cancel()


async def test_the_watches_of_the_health_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_PROBE_WATCHES", 2)
    async with served(WORK, tokens=TOKENS) as (_, server), health_client(server.target) as health:
        reading: list[asyncio.Task[grpc.StatusCode]] = []
        for _ in range(4):
            watch = health.Watch(health_pb2.HealthCheckRequest())
            await watch.initial_metadata()
            reading.append(asyncio.ensure_future(_end_of(watch)))
        oldest, open_ = reading[:2], reading[2:]
        async with asyncio.timeout(PATIENCE):
            assert [await one for one in oldest] == [Code.RESOURCE_EXHAUSTED] * 2
        assert not any(one.done() for one in open_)
        for one in open_:
            one.cancel()
        await asyncio.wait(open_)


async def test_calls_above_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_CALLS", 2)
    async with served(WORK) as (_, server), raw_client(server.target) as client:
        watching = [client.stream("Watch", pb.WatchRequest()) for _ in range(2)]
        for one in watching:
            await one.initial_metadata()
        assert await client.code("GetVersion", pb.VersionRequest()) is Code.RESOURCE_EXHAUSTED
        async with health_client(server.target) as health:
            await health.Check(health_pb2.HealthCheckRequest())
        for one in watching:
            one.cancel()
        await until(lambda: _is(len(server._access.calls._long), 0))  # pyright: ignore[reportPrivateUsage]
        assert await client.code("GetVersion", pb.VersionRequest()) is Code.OK


async def test_one_caller_leaves_calls_to_others_and_all_leave_some_to_admins(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(calls, "MAX_CALLS", 7)
    monkeypatch.setattr(calls, "MAX_CALLS_CALLER", 3)
    monkeypatch.setattr(calls, "RESERVED_CALLS", 2)
    roles = {"ann": Role.READER, "bob": Role.OPERATOR, "eve": Role.READER, "ada": Role.ADMIN}
    tokens = Tokens([Token.of(name, role, name) for name, role in roles.items()])
    async with served(WORK, tokens=tokens) as (_, server), raw_client(server.target) as client:
        open_: list[Any] = []
        reasons: list[str] = []

        async def watch(token: str) -> bool:
            """Whether a watch of a caller begins."""
            call = client.stream("Watch", pb.WatchRequest(), token=token)
            metadata = await call.initial_metadata()
            if "peerjob-watch" in dict(metadata):
                open_.append(call)
                return True
            assert await call.code() is Code.RESOURCE_EXHAUSTED
            reasons.append(await call.details())
            return False

        assert [await watch("ann") for _ in range(5)] == [True] * 3 + [False] * 2, "the share of one caller"
        assert [await watch("bob") for _ in range(3)] == [True] * 2 + [False], "the reserve"
        assert not await watch("eve")
        assert await client.code("GetVersion", pb.VersionRequest(), token="eve") is Code.RESOURCE_EXHAUSTED
        assert [await watch("ada") for _ in range(3)] == [True] * 2 + [False], "the limit of all"
        own, of_all = calls.TOO_MANY_OF_CALLER.text, calls.TOO_MANY.text
        assert reasons == [own, own, of_all, of_all, of_all], "a caller learns whose limit it has met"
        for call in open_:
            call.cancel()
        await until(lambda: _is(server._access.calls._open.total, 0))  # pyright: ignore[reportPrivateUsage]
        assert [await watch("ann") for _ in range(4)] == [True] * 3 + [False]
    warned = [record.getMessage() for record in caplog.records if "refuses a call" in record.getMessage()]
    assert len(warned) == 1
    assert "of ann from 127.0.0.1: 3 calls are open; one caller may have 3, and all 7" in warned[0]


async def test_answers_that_a_caller_does_not_read_are_limited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(calls, "MAX_UNREAD", 5 << 20)
    tokens = Tokens([Token.of("ann", Role.OPERATOR), Token.of("bob", Role.OPERATOR)])
    job = Job("large", lambda text: None)
    async with (
        served(job, tokens=tokens) as (node, server),
        raw_client(server.target, [*OWN, ("grpc.max_receive_message_length", -1)]) as client,
    ):
        for _ in range(3):
            await node.schedule(job.with_options(after=3600), "x" * 900_000)
        lookup = pb.LookupInstancesRequest(query=pb.Query(limit=10))
        held = server._access.calls._unread  # pyright: ignore[reportPrivateUsage]
        places = server._access.calls._open  # pyright: ignore[reportPrivateUsage]
        async with UnreadCalls(server.target) as unread:
            for _ in range(6):
                unread.call("LookupInstances", lookup, "ann")
            await until(lambda: _is(sum("does not read" in one.getMessage() for one in caplog.records), 1))
            assert 2_700_000 <= sum(held.values()) <= 5 << 20
            assert places.total >= len(held), "a call is open until its answer is sent"
            assert await client.code("LookupInstances", lookup, token="ann") is Code.RESOURCE_EXHAUSTED
            schedule = pb.ScheduleJobRequest(kind="large", arguments=["x"])
            assert await client.code("ScheduleJob", schedule, token="ann") is Code.OK, "what acts has its answer"
            assert await client.code("LookupInstances", lookup, token="bob") is Code.OK, "another caller"
        await until(lambda: _is(len(held) + places.total, 0))
        assert await client.code("LookupInstances", lookup, token="ann") is Code.OK


@pytest.mark.parametrize("limited", [True, False])
async def test_messages_of_streams_that_a_caller_does_not_read_are_limited(
    monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    monkeypatch.setattr(calls, "MAX_UNREAD", 5 << 20 if limited else 1 << 30)
    job = Job("large", lambda text: None)
    async with (
        served(job, workers=0) as (node, server),
        UnreadCalls(server.target) as unread,
        raw_client(server.target, OWN) as client,
    ):
        held = server._access.calls._unread  # pyright: ignore[reportPrivateUsage]
        for _ in range(12):
            unread.call("Watch", pb.WatchRequest(), "none")
        await until(lambda: _is(open_calls(server), 12))

        async def all_have_sent() -> bool:
            # a watch that began late misses the event before
            await node.schedule(job, "x" * 900_000)
            return open_calls(server) == 5 if limited else sum(held.values()) > 12 * 900_000

        await until(all_have_sent)
        assert sum(held.values()) <= (5 << 20 if limited else 12 << 20)
        assert await client.code("GetVersion", pb.VersionRequest()) is Code.OK


async def test_without_tokens_a_caller_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_CALLS_CALLER", 2)
    async with (
        served(WORK) as (_, server),
        raw_client(server.target) as client,
        forwarding(server, host="127.0.0.2") as elsewhere,
        raw_client(elsewhere) as other,
    ):
        watching = [client.stream("Watch", pb.WatchRequest()) for _ in range(2)]
        for one in watching:
            await one.initial_metadata()
        assert await client.code("GetVersion", pb.VersionRequest()) is Code.RESOURCE_EXHAUSTED
        assert await other.code("GetVersion", pb.VersionRequest()) is Code.OK
        for one in watching:
            one.cancel()


@pytest.mark.parametrize("trusted", [False, True])
async def test_one_address_leaves_connections_to_others(trusted: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The address has 20 of 40 connections, and the oldest ones stay. A trusted proxy may have all."""
    async with served(WORK, max_connections=40, trusted_proxies=["127.0.0.2"] if trusted else ()) as (_, server):
        opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        for number in range(35):
            if number == 20:
                await asyncio.sleep(connection_shares.INTERVAL * 2)  # the first ones are known by then
            opened.append(await asyncio.open_connection("127.0.0.1", server.port, local_addr=("127.0.0.2", 0)))
            assert await opened[-1][0].read(9), "the server begins HTTP/2"
        reading = [asyncio.ensure_future(_ends(reader)) for reader, _ in opened]
        if trusted:
            await asyncio.sleep(connection_shares.INTERVAL * 3)
            assert not any(one.done() for one in reading)
        else:
            async with asyncio.timeout(PATIENCE):
                await asyncio.wait(reading[20:])
            assert not any(one.done() for one in reading[:20])
        async with raw_client(server.target, OWN) as other:
            assert await other.code("GetVersion", pb.VersionRequest()) is Code.OK
        for one in reading:
            one.cancel()
        for _, writer in opened:
            writer.close()
    warned = [record.getMessage() for record in caplog.records if "closes connections" in record.getMessage()]
    assert len(warned) == (0 if trusted else 1)
    assert trusted or "from 127.0.0.2: one address may have 20 of 40" in warned[0]


async def _ends(reader: asyncio.StreamReader) -> None:
    """Read until the other side closes the connection."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass


async def test_connections_above_the_limit_are_closed() -> None:
    async with served(WORK, max_connections=2) as (_, server):
        opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
        async with asyncio.timeout(PATIENCE):
            assert all([await reader.read(1) for reader, _ in opened[:2]]), "the server begins HTTP/2"
            assert await opened[2][0].read(1) == b""
        for _, writer in opened:
            writer.close()


@pytest.mark.parametrize("most", [0, -1, 10_000_000])
def test_a_limit_of_connections_that_is_none_is_refused(most: int) -> None:
    from peerjob import Node

    with pytest.raises(OptionError, match="max_connections"):
        Server(Node(), max_connections=most)


async def _end_of(call: Any) -> grpc.StatusCode:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK


async def _are(silent: list[Silent], *, ended: int, server: Server) -> bool:
    """Whether so many health checks have ended, and the server receives the messages of the others."""
    places = server._access.calls._probes  # pyright: ignore[reportPrivateUsage]
    return sum(one.call.done() for one in silent) == ended and len(places) == len(silent) - ended


async def _is(found: int, expected: int) -> bool:
    return found == expected
