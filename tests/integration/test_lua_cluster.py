"""A namespace in a real cluster of three shards: the contract, also while its slot moves."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from peerjob.model.clock import SystemClock
from peerjob.model.errors import StoreError, StoreUnavailableError
from peerjob.model.firing import Candidate
from peerjob.model.record import Action, StoreLimits
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.lua.client.address import parse_address
from peerjob.store.lua.client.cluster_search import key_slot
from peerjob.store.lua.client.driver import prefix
from peerjob.store.lua.client.redis_driver import RedisDriver
from peerjob.store.lua.store import lua_store
from peerjob.testing.factories import Factory, Peer, outcome
from peerjob.testing.store_conformance.cancel import CancelRules
from peerjob.testing.store_conformance.changes import ChangeRules
from peerjob.testing.store_conformance.children import ChildRules
from peerjob.testing.store_conformance.election import ElectionRules
from peerjob.testing.store_conformance.fires import FiringRules, TermRules
from peerjob.testing.store_conformance.hinted_claims import HintedClaimRules
from peerjob.testing.store_conformance.hints import HintRules
from peerjob.testing.store_conformance.holds import CascadeRules, HoldRules
from peerjob.testing.store_conformance.ledger import LedgerRules
from peerjob.testing.store_conformance.liveness import LivenessRules
from peerjob.testing.store_conformance.lookups import ReadingRules
from peerjob.testing.store_conformance.overlap import OverlapRules
from peerjob.testing.store_conformance.queue import QueueRules
from peerjob.testing.store_conformance.restoring import RestoreRules
from peerjob.testing.store_conformance.retention import RetentionRules
from peerjob.testing.store_conformance.schedules import ScheduleRules
from peerjob.testing.store_conformance.signals import SignalRules
from peerjob.testing.store_conformance.steps import StepRules
from peerjob.testing.store_conformance.suite import StoreSuite
from peerjob.testing.store_conformance.suspending import SuspendRules
from peerjob.testing.store_conformance.timetable import ScheduleSuite
from support.lua_site import with_each_driver_to_a_cluster
from support.servers import MissingServerError, Server, ServerCluster, ServerKind, free_port, needed, through_glide
from support.slots import Slot, id_of
from support.waiting import until

KINDS: list[ServerKind] = ["redis", "valkey+glide"]


def on_cluster(kind: ServerKind) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server_cluster", [kind], indirect=True)


@pytest.mark.usefixtures("patient")
class OnCluster(StoreSuite):
    """Stores in a cluster."""

    url = ""

    claims_wait = True

    @pytest.fixture(autouse=True)
    def server(self, server_cluster: ServerCluster) -> None:
        self.url = server_cluster.url

    def make_store(self, namespace: str, limits: StoreLimits) -> Store:
        return lua_store(self.url, namespace=namespace, clock=SystemClock(), limits=limits)


class EveryScript(
    OnCluster,
    QueueRules,
    LivenessRules,
    CancelRules,
    HintRules,
    ReadingRules,
    RetentionRules,
    ScheduleRules,
    ChangeRules,
    FiringRules,
    TermRules,
    LedgerRules,
    OverlapRules,
    ElectionRules,
    StepRules,
    SignalRules,
    SuspendRules,
    ChildRules,
    HoldRules,
    CascadeRules,
    RestoreRules,
):
    """Rules that together run every script."""


@on_cluster("redis")
class TestRedisCluster(EveryScript, HintedClaimRules):
    """Redis."""

    conformance_on = "redis-cluster"


@on_cluster("valkey")
class TestValkeyCluster(EveryScript):
    """Valkey, without valkey-glide."""

    conformance_on = "valkey-cluster"


@on_cluster("valkey")
class TestGlideCluster(OnCluster, QueueRules, HintRules, HintedClaimRules):
    """Rules that use each kind of call of valkey-glide to a cluster; leases and elections do not use it."""

    conformance_on = "glide-cluster"

    @pytest.fixture(autouse=True)
    def server(self, server_cluster: ServerCluster) -> None:
        self.url, self.cluster = through_glide(server_cluster.url), server_cluster

    async def wait_given_up(self) -> None:
        # GLIDE closes a connection a moment after `close()`; a hint that the server sends on it until then is lost
        async def none_waits() -> bool:
            infos: list[Any] = [await asyncio.to_thread(node.command, "INFO", "clients") for node in self.cluster.nodes]
            return all(clients["blocked_clients"] == 0 for clients in infos)

        await until(none_waits)


@pytest.fixture(params=KINDS)
def own_cluster(request: pytest.FixtureRequest) -> Iterator[ServerCluster]:
    """A cluster that the test may reshard."""
    try:
        cluster = ServerCluster(request.param)
    except MissingServerError as missing:
        pytest.skip(str(missing))
    with cluster:
        yield cluster


async def test_a_namespace_rests_while_its_slot_moves(own_cluster: ServerCluster) -> None:
    namespace, clock = f"moving-{uuid.uuid4().hex[:8]}", SystemClock()
    url = own_cluster.url
    store = lua_store(url, namespace=namespace, clock=clock, limits=StoreLimits(), retry_for=120)
    hasty = lua_store(url, namespace=namespace, clock=clock, limits=StoreLimits(), retry_for=0)
    make = Factory(clock)
    await store.open()
    await hasty.open()
    peer = await Peer(store=store, info=make.node(), make=make).join()
    impatient = Peer(store=hasty, info=peer.info, make=make)
    batch = make.instances(20)
    await store.enqueue(batch)
    held = await peer.take(5)
    suite = ScheduleSuite()
    row = await suite.schedule(store)
    elections = hasty.elections()
    await elections.open()

    async def all_verbs_are_refused() -> None:
        for verb in (
            lambda: hasty.enqueue(make.instances(1)),
            lambda: hasty.enqueue(make.instances(2)),
            lambda: impatient.take(3),
            lambda: impatient.commit(*map(outcome, held)),
            lambda: hasty.cancel([batch[9].id], request=make.request()),
            lambda: hasty.reap(10, reaper=peer.incarnation),
            lambda: hasty.get([batch[0].id]),
            lambda: hasty.leave(peer.incarnation),
            hasty.health,
            lambda: suite.schedule(hasty, "other"),
            lambda: suite.send(hasty, suite.a_fire(row)),
            lambda: suite.send(hasty, suite.stretch(row, 0, 3)),
            lambda: hasty.fires("s"),
            lambda: hasty.changed_schedules(0),
            lambda: hasty.remove_schedule("s", request="r1"),
            lambda: elections.campaign(Candidate(incarnation=peer.incarnation, name="node"), ttl_us=5_000_000),
            elections.leader,
        ):
            with pytest.raises(StoreUnavailableError):
                await verb()

    slot = Slot(own_cluster, namespace)
    slot.begin()
    await all_verbs_are_refused()
    assert slot.move(7) == 7
    await all_verbs_are_refused()
    waiting = asyncio.create_task(peer.take(4))
    while slot.move(100):
        await all_verbs_are_refused()
    assert not waiting.done()
    slot.end()

    assert [claim.id for claim in await waiting] == [new.id for new in batch[5:9]]
    assert await peer.end(held[0], Action.COMPLETE) == "done"
    counts = (await store.health()).counts["work"]
    assert counts == {State.SCHEDULED: 11, State.PROCESSING: 8, State.COMPLETED: 1}
    await suite.done(store, suite.a_fire(row))
    for one in (store, hasty):
        await one.clear()
        await one.close()
    await elections.close()
    await peer.close()


async def test_a_search_goes_on_after_a_server_that_does_not_answer_or_knows_no_slots(
    server_cluster: ServerCluster, namespace: str, redis_server: Server
) -> None:
    """The URL can name a server that is down, and one that has left the cluster."""
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{redis_server.port},{server_cluster.url.partition('://')[2]}"
    driver = RedisDriver(parse_address(f"redis://{hosts}"), namespace=namespace)
    await driver.open()
    slot = int(str(server_cluster.nodes[0].command("CLUSTER", "KEYSLOT", prefix(namespace))))
    assert key_slot(prefix(namespace)) == slot
    assert driver.server is not None
    await driver.close()


@pytest.mark.parametrize("server_cluster", ["redis", "valkey"], indirect=True)
@pytest.mark.parametrize("preferred", ["ip", "hostname", "unknown-endpoint"])
async def test_members_are_found_however_a_cluster_announces_them(
    server_cluster: ServerCluster, preferred: str, namespace: str
) -> None:
    """Only one member has a host name. The others are `?` in the answers, and their IP addresses stand beside it."""
    nodes = server_cluster.nodes
    nodes[0].command("CONFIG", "SET", "cluster-announce-hostname", "localhost")
    try:
        for node in nodes:
            node.command("CONFIG", "SET", "cluster-preferred-endpoint-type", preferred)
        names = {key_slot(prefix(name)) // 5462: name for name in (f"{namespace}-{number}" for number in range(100))}
        for shard, name in names.items():
            driver = RedisDriver(parse_address(server_cluster.url), namespace=name)
            await driver.open()
            await driver.info()
            assert driver.server is not None
            assert driver.server.port == nodes[shard].port
            await driver.close()
        assert sorted(names) == [0, 1, 2]
    finally:
        nodes[0].command("CONFIG", "SET", "cluster-announce-hostname", "")
        for node in nodes:
            node.command("CONFIG", "SET", "cluster-preferred-endpoint-type", "ip")


@on_cluster("redis")
async def test_a_lease_is_renewed_while_a_member_hangs(server_cluster: ServerCluster) -> None:
    """A node that lost its connection asks the members again, and the first one that it knows does not answer."""
    hanging, serving, _ = server_cluster.nodes
    slots = [range(16_384 * part // 3, 16_384 * (part + 1) // 3) for part in range(3)]
    names = (f"hanging-{number}" for number in range(1000))
    namespace = next(name for name in names if key_slot(prefix(name)) in slots[1])
    clock = SystemClock()
    make = Factory(clock)
    store = lua_store(server_cluster.url, namespace=namespace, clock=clock, limits=StoreLimits())
    await store.open()
    peer = await Peer(store=store, info=make.node(), make=make).join()
    assert not (await peer.renew()).dead
    hanging.pause()
    try:
        serving.command("CLIENT", "KILL", "TYPE", "normal")
        with pytest.raises(StoreUnavailableError):
            await peer.renew(ttl_us=5_000_000)
        assert not (await peer.renew(ttl_us=10_000_000)).dead
    finally:
        hanging.resume()
    await peer.close()
    await store.close()


@pytest.mark.matrix("a long fault; shorter ones have the same promises")
async def test_a_lease_is_renewed_at_the_server_that_takes_over_from_one_that_hangs() -> None:
    """The old server accepts connections and answers nothing, so each renewal ends at its own limit of time."""
    clock, name = (
        SystemClock(),
        next(f"over-{number}" for number in range(1000) if key_slot(prefix(f"over-{number}")) < 5_000),
    )
    make = Factory(clock)
    with needed(), ServerCluster("redis", replicas=1) as cluster:
        store = lua_store(cluster.url, namespace=name, clock=clock, limits=StoreLimits())
        await store.open()
        peer = await Peer(store=store, info=make.node(), make=make).join()
        assert not (await peer.renew()).dead
        hanging, following = cluster.nodes[0], cluster.replicas[0]
        hanging.pause()
        following.command("CLUSTER", "FAILOVER", "TAKEOVER")
        others = [*cluster.nodes[1:], following]
        await until(lambda: all(id_of(following) in _owner_of_first_slot(node) for node in others))
        with pytest.raises(StoreUnavailableError):
            await peer.renew(ttl_us=5_000_000)
        assert not (await peer.renew(ttl_us=10_000_000)).dead
        hanging.resume()
        await peer.close()
        await store.close()


def _owner_of_first_slot(node: Server) -> str:
    slots = node.command("CLUSTER", "SLOTS")
    assert isinstance(slots, list)
    return str(next(entry for entry in slots if entry[0] == 0)[2])


@with_each_driver_to_a_cluster
async def test_a_cluster_must_be_called_one(server_cluster: ServerCluster, as_url: Callable[[str], str]) -> None:
    url = as_url(server_cluster.nodes[0].url)
    stores = [
        lua_store(url, namespace=f"any-{number}", clock=SystemClock(), limits=StoreLimits()) for number in range(50)
    ]
    with pytest.raises(StoreError, match="cluster=true"):
        await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))
