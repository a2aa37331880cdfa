"""A client that calls too often is refused, and others are not."""

from functools import partial

import grpc
import pytest
from grpc_health.v1 import health_pb2

from peerjob import Client, Job, Node, RemoteError, Role, Server, Token, Tokens
from peerjob.model import rate_limiter
from peerjob.model.errors import OptionError
from peerjob.model.rate_limiter import RateLimiter
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.server.rpc_service import host_of
from peerjob.testing.clock import VirtualClock
from support.rpc import forwarding, health_client, raw_client, served
from support.waiting import until

Code = grpc.StatusCode


async def test_calls_come_back_with_time(clock: VirtualClock) -> None:
    limit = RateLimiter(3, clock)

    assert [limit.allows("a") for _ in range(5)] == [True, True, True, False, False]
    assert limit.allows("b")
    await clock.advance(0.4)
    assert [limit.allows("a") for _ in range(2)] == [True, False]
    await clock.advance(3600)
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]


async def test_less_than_one_call_a_second(clock: VirtualClock) -> None:
    limit = RateLimiter(0.1, clock)

    assert [limit.allows("a") for _ in range(2)] == [True, False]
    await clock.advance(9)
    assert not limit.allows("a")
    await clock.advance(1.1)
    assert limit.allows("a")


async def test_not_everybody_is_remembered(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limiter, "MAX_CLIENTS", 2)
    limit = RateLimiter(1, clock)

    assert [limit.allows(client) for client in "abca"] == [True, True, True, True]
    assert not limit.allows("c")


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(OptionError, match="rate"):
        Server(Node(), rate=rate)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:5", "10.0.0.1"),
        ("ipv6:[::1]:5", "::1"),
        ("ipv6:%5B::1%5D:5", "::1"),
        ("unix:/x", "unix:/x"),
    ],
)
def test_the_port_does_not_count(peer: str, host: str) -> None:
    assert host_of(peer) == host


async def test_a_client_that_calls_too_often_gets_an_error() -> None:
    async with served(Job("work", lambda: None), rate=0.01) as (_, server), raw_client(server.target) as client:
        codes = [await client.code("GetVersion", pb.VersionRequest()) for _ in range(3)]

        assert codes == [Code.OK, Code.RESOURCE_EXHAUSTED, Code.RESOURCE_EXHAUSTED]
        assert await client.code("Watch", pb.WatchRequest()) is Code.RESOURCE_EXHAUSTED
        with pytest.raises(RemoteError, match="too many calls"):
            await Client(server.target).start()  # from the same address


async def test_a_client_that_guesses_tokens_is_slowed_and_no_other() -> None:
    tokens = Tokens([Token.of("read", Role.READER)])
    version = pb.VersionRequest()
    async with (
        served(Job("work", lambda: None), rate=0.001, tokens=tokens) as (_, server),
        raw_client(server.target) as guessing,
        forwarding(server, host="127.0.0.2") as elsewhere,
        raw_client(elsewhere) as other,
    ):
        assert await guessing.code("GetVersion", version, token="guess 0") is Code.UNAUTHENTICATED
        for number in range(1, 20):
            assert await guessing.code("GetVersion", version, token=f"guess {number}") is Code.RESOURCE_EXHAUSTED
        assert await guessing.code("Watch", pb.WatchRequest(), token="guess") is Code.RESOURCE_EXHAUSTED
        assert await guessing.code("GetVersion", version, token="read") is Code.RESOURCE_EXHAUSTED, "it tells nothing"

        assert await other.code("GetVersion", version, token="read") is Code.OK
        async with health_client(server.target) as health:
            status = (await health.Check(health_pb2.HealthCheckRequest())).status
            assert status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_trusted_proxy_names_the_caller_of_a_call(trusted: bool, caplog: pytest.LogCaptureFixture) -> None:
    tokens = Tokens([Token.of("read", Role.READER, "ada"), Token.of("act", Role.OPERATOR, "bob")])
    proxies = ["127.0.0.2"] if trusted else ["127.0.0.3", "203.0.113.0/24"]
    caplog.set_level("INFO", "peerjob.audit")
    async with (
        served(Job("work", lambda: None), rate=0.001, tokens=tokens, trusted_proxies=proxies) as (node, server),
        forwarding(server, host="127.0.0.2") as proxy,
        raw_client(proxy) as client,
    ):

        async def code(token: str, forwarded: str, name: str = "GetVersion") -> grpc.StatusCode:
            headers = (("x-forwarded-for", "10.9.9.9"), ("x-forwarded-for", forwarded))
            return await client.code(name, b"", token=token, metadata=headers)

        assert await code("guess", "203.0.113.66") is Code.UNAUTHENTICATED
        assert await code("guess", "203.0.113.66") is Code.RESOURCE_EXHAUSTED
        assert await code("read", "203.0.113.5") is (Code.OK if trusted else Code.RESOURCE_EXHAUSTED)
        if not trusted:
            return
        assert await code("guess", "2001:db8::1") is Code.UNAUTHENTICATED
        assert await code("guess", "2001:db8::2") is Code.RESOURCE_EXHAUSTED, "another address of the same network"
        assert await code("read", "203.0.113.7", "CancelInstances") is Code.PERMISSION_DENIED
        assert await code("act", "203.0.113.8", "ScheduleJob") is Code.NOT_FOUND
        await until(partial(_audited, node, 1))
        assert [one.address for one in await node.audit()] == ["203.0.113.8"]
        assert "203.0.113.7" in str([vars(one) for one in caplog.records]), "the refused call"


async def _audited(node: Node, records: int) -> bool:
    return len(await node.audit()) == records
