"""A client that calls too often is refused, and others are not."""

import grpc
import pytest

from peerjob import Client, Job, Node, RemoteError, Server
from peerjob.errors import OptionError
from peerjob.node.server import rates
from peerjob.node.server.rates import Rates, host_of
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.testing.clock import VirtualClock
from support.rpc import raw_client, served


async def test_calls_come_back_with_time(clock: VirtualClock) -> None:
    limit = Rates(3, clock)

    assert [limit.allows("a") for _ in range(5)] == [True, True, True, False, False]
    assert limit.allows("b")
    await clock.advance(0.4)
    assert [limit.allows("a") for _ in range(2)] == [True, False]
    await clock.advance(3600)
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]


async def test_less_than_one_call_a_second(clock: VirtualClock) -> None:
    limit = Rates(0.1, clock)

    assert [limit.allows("a") for _ in range(2)] == [True, False]
    await clock.advance(9)
    assert not limit.allows("a")
    await clock.advance(1.1)
    assert limit.allows("a")


async def test_not_everybody_is_remembered(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MAX_CLIENTS", 2)
    limit = Rates(1, clock)

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
        ("ipv6:[::1]:5", "[::1]"),
        ("ipv6:%5B::1%5D:5", "%5B::1%5D"),
        ("unix:/x", "unix:/x"),
    ],
)
def test_the_port_does_not_count(peer: str, host: str) -> None:
    assert host_of(peer) == host


async def test_whoever_calls_too_often_is_told() -> None:
    async with served(Job("work", lambda: None), rate=0.01) as (_, server), raw_client(server.target) as client:
        codes = [await client.code("GetVersion", pb.VersionRequest()) for _ in range(3)]

        assert codes == [grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert await client.code("Watch", pb.WatchRequest()) is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(RemoteError, match="too many calls"):
            await Client(server.target).start()  # from the same address
