"""A store that loses its data while nodes live: the nodes restore what they need, without a restart."""

import asyncio
from collections.abc import Callable

import pytest

from peerjob import Job, Node, StoreLimits
from peerjob.model.clock import SystemClock
from peerjob.store.drivers import open_store
from peerjob.testing.factories import Factory
from support.etcd import SHORT_LEASES, EtcdServer, StartEtcd
from support.servers import Server, StartServer
from support.waiting import until


async def report(number: int = 0) -> int:
    return number


REPORT = Job("report", report)
DAILY = Job("daily", report, cron="0 3 * * *")


@pytest.fixture(params=["redis", "valkey", "etcd"])
def server(request: pytest.FixtureRequest, start_server: StartServer, start_etcd: StartEtcd) -> Server | EtcdServer:
    """A store that loses all data when it is `emptied`."""
    if request.param == "etcd":
        return start_etcd(config=SHORT_LEASES)
    return start_server(request.param)


@pytest.fixture
def emptied(server: Server | EtcdServer) -> Callable[[], None]:
    """Stops the server, and starts it without its data."""

    def empty() -> None:
        server.kill()
        if isinstance(server, EtcdServer):
            server.wipe()
        server.start()

    return empty


async def until_joined_anew(node: Node) -> None:
    async def joined() -> bool:
        return [one.name for one in await node.nodes()] == [node.name]

    await until(joined)


async def test_kinds_and_schedules_of_code_are_there_again_after_the_store_lost_all(
    server: Server | EtcdServer, emptied: Callable[[], None], namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Node(server.url, namespace=namespace, name="worker", jobs=[REPORT, DAILY], lease_ttl=2) as node:
        assert await (await node.schedule(REPORT, 1)).result(timeout=30) == 1
        await asyncio.to_thread(emptied)
        await until_joined_anew(node)

        async def has_schedule() -> bool:
            return [one.name for one in await node.schedules()] == ["daily"]

        await until(has_schedule)
        async with Node(server.url, namespace=namespace, name="front", workers=0) as front:
            instance = await front.schedule("report", 2)
            assert await instance.result(timeout=30) == 2
    assert "the store has lost 1 schedule(s) that code defines, such as 'daily'" in caplog.text


async def test_a_kind_that_a_live_node_runs_is_known_though_the_catalogue_is_gone(
    redis_url: str, namespace: str
) -> None:
    async with (
        Node(redis_url, namespace=namespace, jobs=[REPORT]) as node,
        Node(redis_url, namespace=namespace, workers=0) as front,
    ):
        store = open_store(redis_url, namespace=namespace, clock=SystemClock(), limits=StoreLimits(kinds_kept_us=0))
        await store.open()
        await store.publish_kinds([])  # which forgets all
        await store.close()
        assert await (await front.schedule("report", 3)).result(timeout=30) == 3
        assert node.running


async def test_a_store_takes_another_lease_after_its_etcd_lost_all(start_etcd: StartEtcd, namespace: str) -> None:
    etcd = start_etcd(config=SHORT_LEASES)
    make = Factory(SystemClock())
    store = open_store(etcd.url, namespace=namespace, clock=SystemClock(), limits=StoreLimits(), retry_for=20)
    await store.open()
    new = make.instance(kind="report")
    await store.enqueue([new])
    # each of these takes a lease that one store has for all
    await store.watch_final("one", [new.id])
    await asyncio.to_thread(etcd.kill)
    etcd.wipe()
    await asyncio.to_thread(etcd.start)
    assert await store.watch_final("one", [new.id]) == [None]
    await asyncio.to_thread(etcd.kill)
    etcd.wipe()
    await asyncio.to_thread(etcd.start)
    assert not await store.remove_schedule("none", request="first")
    node = make.node()
    await store.join(node, ttl_us=10_000_000)
    assert await store.leave(node.incarnation) == 0
    await store.close()
