"""`?durability=`: acknowledged work survives the loss of the server, its disk or its machine, as the option says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from peerjob.model.errors import StoreError, StoreUnconfirmedError
from peerjob.model.firing import Fire, FireOutcome, FireStatus, SchedulePut
from peerjob.model.record import Ack, Action
from peerjob.model.state import State
from peerjob.testing.factories import outcome
from support.fault_jobs import work
from support.fires import fired_until, read_fires, settled
from support.lua_site import Site
from support.peers import everything, peers
from support.servers import Server, ServerCluster, ServerKind, StartServer
from support.waiting import IN_TIME, until

EVERYSEC = ("--appendfsync", "everysec")
ALWAYS = ("--appendfsync", "always")
AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""A new replica is served without waiting for others."""


@pytest.fixture
async def cleanup() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End calls whose server has died; a call may fail only for this reason."""
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(ended, StoreError | asyncio.CancelledError), ended


class Pair:
    """A primary, its replica, and stores on the current primary."""

    def __init__(self, start: StartServer, kind: ServerKind, cleanup: AsyncExitStack) -> None:
        self._start = start
        self.kind: ServerKind = kind
        self.primary = start(kind, config=AT_ONCE)
        self.replica = self.follow(self.primary)
        self.site = Site(self.primary, cleanup)
        self.url = f"{self.primary.url}?durability=replicas:1&durability_timeout=30s"
        self.hasty = f"{self.primary.url}?durability=replicas:1&durability_timeout=300ms"

    def follow(self, primary: Server) -> Server:
        """A new replica of a server, in step with it."""
        replica = self._start(self.kind, config=(*AT_ONCE, "--replicaof", f"127.0.0.1 {primary.port}"))
        # a replica counts only after its first acknowledgement
        assert primary.command("WAIT", 1, 50_000) == 1
        return replica

    def fail_over(self) -> Server:
        """Kill the primary, and promote its replica on the same address; returns a new replica."""
        self.primary.kill()
        self.replica.command("REPLICAOF", "NO", "ONE")
        self.replica.command("CONFIG", "SET", "port", self.primary.port)
        self.replica.port = self.primary.port
        return self.follow(self.replica)


@pytest.fixture(params=["redis", "valkey+glide"])
def pair(request: pytest.FixtureRequest, start_server: StartServer, cleanup: AsyncExitStack) -> Pair:
    return Pair(start_server, request.param, cleanup)


# -- the server's own disk


async def test_a_power_cut_loses_what_was_not_on_disk(start_server: StartServer, cleanup: AsyncExitStack) -> None:
    """Without the option, work is lost; otherwise the next test would prove nothing."""
    here = Site(start_server("redis", appendonly=True, traced=True, config=EVERYSEC), cleanup)
    store = await here.open()
    lost = 0
    while not lost:  # a pause of this machine may be long enough for a sync
        ids = [new.id for new in here.make.instances(3)]
        for id in ids:
            await store.enqueue([here.make.instance(id=id)])
        here.server.cut_power()
        here.server.start()
        lost = (await store.get(ids)).count(None)


async def test_a_confirmed_call_repeats_no_script_that_another_caller_has_loaded(
    start_server: StartServer, cleanup: AsyncExitStack
) -> None:
    here = Site(start_server("redis", appendonly=True), cleanup)
    store = await here.open()
    here.server.command("SCRIPT", "FLUSH")
    await store.enqueue(here.make.instances(1))
    confirmed = await here.open(url=f"{here.server.url}?durability=aof&durability_timeout=30s")
    (answer,) = await confirmed.enqueue(here.make.instances(1))
    assert answer.is_new
    assert not answer.repeated


@pytest.mark.parametrize(("kind", "sync"), [("redis", EVERYSEC), ("redis", ALWAYS), ("valkey", ALWAYS)])
async def test_a_power_cut_loses_nothing_that_the_disk_confirmed(
    kind: ServerKind, sync: tuple[str, str], start_server: StartServer, cleanup: AsyncExitStack
) -> None:
    here = Site(start_server(kind, appendonly=True, traced=True, config=sync), cleanup)
    store = await here.open(url=f"{here.server.url}?durability=aof&durability_timeout=30s", retry_for=0)
    assert (store.capabilities.durability, store.capabilities.confirmed_by) == ("fsync", "aof")
    peer = await here.join(store)
    acknowledged: list[str] = []
    enough = asyncio.Event()

    async def schedule() -> None:
        while True:
            batch = here.make.instances(2)
            await store.enqueue(batch)
            acknowledged.extend(new.id for new in batch)
            if len(acknowledged) >= 40:
                enough.set()

    tasks = [asyncio.create_task(schedule()) for _ in range(10)]
    await enough.wait()
    (claim,) = await peer.take(1)
    assert await peer.end(claim) is Ack.DONE
    here.server.cut_power()
    await stop(tasks)
    here.server.start()

    again = await here.open()
    records = [
        record
        for start in range(0, len(acknowledged), 100)
        for record in await again.get(acknowledged[start : start + 100])
    ]
    assert None not in records
    (ended,) = await again.get([claim.id])
    assert ended is not None
    assert ended.state is State.COMPLETED


@pytest.mark.parametrize(
    ("kind", "appendonly", "sync", "message"),
    [
        ("redis", False, EVERYSEC, "set appendonly yes"),
        ("redis", True, ("--appendfsync", "no"), "appendfsync no"),
        ("valkey", True, EVERYSEC, "set appendfsync always"),
    ],
)
async def test_a_server_that_cannot_confirm_is_refused(
    kind: ServerKind,
    appendonly: bool,
    sync: tuple[str, str],
    message: str,
    start_server: StartServer,
    cleanup: AsyncExitStack,
) -> None:
    here = Site(start_server(kind, appendonly=appendonly, config=sync), cleanup)
    with pytest.raises(StoreError, match=message):
        await here.open(url=f"{here.server.url}?durability=aof")


@pytest.mark.parametrize("way", ["turned off", "suspended"])
@pytest.mark.parametrize("kind", ["redis", "valkey+glide"])
async def test_a_disk_that_no_longer_confirms_is_reported(
    kind: ServerKind, way: str, start_server: StartServer, cleanup: AsyncExitStack
) -> None:
    here = Site(start_server(kind, appendonly=True, config=ALWAYS), cleanup)
    patient = await here.open(url=f"{here.server.url}?durability=aof&durability_timeout=30s", retry_for=0)
    assert (await patient.enqueue(here.make.instances(1)))[0].is_new
    store = await here.open(url=f"{here.server.url}?durability=aof&durability_timeout=100ms", retry_for=0)
    if way == "turned off":
        here.server.command("CONFIG", "SET", "appendonly", "no")
    else:
        here.server.command("CONFIG", "SET", "no-appendfsync-on-rewrite", "yes", "rdb-key-save-delay", 10_000_000)
        here.server.command("BGREWRITEAOF")
    (new,) = here.make.instances(1)
    with pytest.raises(StoreUnconfirmedError, match="did not confirm it"):
        await store.enqueue([new])
    assert [record and record.id for record in await store.get([new.id])] == [new.id]


# -- replicas


async def test_a_hanging_replica_is_reported_in_time_and_no_write_is_repeated(pair: Pair) -> None:
    here = pair.site
    store = await here.open(url=pair.hasty, retry_for=0)
    other = await here.open(url=pair.hasty, retry_for=0)
    direct = await here.open()
    assert (store.capabilities.durability, store.capabilities.confirmed_by) == ("replicated", "replicas:1")
    peer = await here.join(store)
    held, queued = here.make.instances(2), here.make.instances(3, due_us=1)
    await direct.enqueue(held)
    claims = await peer.take(2)
    put = SchedulePut(name="daily", kind="work", definition=b"x", next_us=1_000)
    row = await direct.put_schedule(put)
    assert row is not None
    fire = Fire(
        schedule="daily",
        revision=row.revision,
        nominal_us=1_000,
        next_us=2_000,
        outcome=FireOutcome.FIRED,
        instance=here.make.instance(),
        request=here.make.request(),
    )
    commit, cancel, turn = here.make.request(), here.make.request(), here.make.request()
    calls: list[Callable[[], Any]] = [
        lambda: store.enqueue(queued),
        lambda: peer.commit(outcome(claims[0]), request=commit),
        lambda: store.turn(peer.incarnation, [outcome(claims[1], Action.RETRY)], peer.want(1), request=turn),
        lambda: store.cancel([queued[2].id], request=cancel),
        lambda: store.fire([fire], term=None),
        lambda: store.put_schedule(SchedulePut(name="weekly", kind="work", definition=b"x", next_us=None)),
    ]

    pair.replica.pause()
    for _ in range(2):  # a repeated call writes nothing, and must not be confirmed for that reason
        for call in calls:
            async with asyncio.timeout(IN_TIME):
                with pytest.raises(StoreUnconfirmedError, match=r"1 replica did not confirm it within 0\.3 s"):
                    await call()
    with pytest.raises(StoreUnconfirmedError):
        await other.enqueue(queued)  # over connections that have written nothing at all
    # calls without a guarantee continue
    assert not (await peer.renew()).dead
    assert len(await peer.take(1)) == 1
    assert await peer.report(claims[0]) is Ack.LOST
    states = (await direct.health()).counts["work"]

    pair.replica.resume()
    assert pair.primary.command("WAIT", 1, 50_000) == 1
    store = peer.store = await here.open(url=pair.url, retry_for=0)
    added, acks, turned, cancelled, fired, weekly = [await call() for call in calls]
    assert [answer.is_new for answer in added] == [True] * 3
    assert (acks, turned[0], cancelled) == ([Ack.DONE], [Ack.DONE], [State.SCHEDULED])
    assert [answer.status for answer in fired] == [FireStatus.DONE]
    assert weekly is None or weekly.name == "weekly"
    assert (await direct.health()).counts["work"] == states


async def test_a_removal_that_was_not_confirmed_is_one_when_it_is(pair: Pair) -> None:
    here = pair.site
    store = await here.open(url=pair.hasty)
    await store.put_schedule(SchedulePut(name="daily", kind="work", definition=b"x", next_us=None))
    direct = await here.open()
    pair.replica.pause()
    removing = asyncio.create_task(store.remove_schedule("daily", request="r1"))

    async def removed() -> bool:
        return await direct.get_schedules(["daily"]) == [None]

    await until(removed)

    def waits() -> int:
        stats = here.server.command("INFO", "commandstats")
        assert isinstance(stats, dict)
        return int(stats["cmdstat_wait"]["calls"])

    before = waits()
    await until(lambda: waits() >= before + 2)
    pair.replica.resume()
    assert await removing is True
    assert await store.remove_schedule("daily", request="r2") is False


@pytest.mark.parametrize("durable", [False, True])
async def test_a_failover_keeps_what_the_replica_confirmed(pair: Pair, durable: bool) -> None:
    here = pair.site
    store = await here.open(url=pair.url if durable else None, retry_for=0)
    direct = await here.open()
    row = await store.put_schedule(SchedulePut(name="often", kind="work", definition=b"x", next_us=1))
    assert row is not None

    def fire(nominal: int) -> Fire:
        return Fire(
            schedule="often",
            revision=row.revision,
            nominal_us=nominal,
            next_us=nominal + 1,
            outcome=FireOutcome.FIRED,
            instance=here.make.instance(),
            request=here.make.request(),
        )

    acknowledged: list[str] = []
    enough = asyncio.Event()

    async def schedule() -> None:
        while True:
            batch = here.make.instances(5)
            await store.enqueue(batch)
            acknowledged.extend(new.id for new in batch)

    fired: list[int] = []

    async def tick() -> None:
        for nominal in range(1, 100_000):
            (answer,) = await store.fire([fire(nominal)], term=None)
            assert answer.status is FireStatus.DONE
            fired.append(nominal)
            if nominal == 100:
                enough.set()

    tasks = [asyncio.create_task(work) for work in (tick(), *(schedule() for _ in range(5)))]
    await enough.wait()
    # the link breaks just before the primary dies: writes in between reach no replica
    pair.replica.command("REPLICAOF", "NO", "ONE")
    if not durable:
        seen = len(acknowledged)
        # the write of a running call may precede the break, and its answer follow it
        await until(lambda: len(acknowledged) >= seen + 60)
    pair.fail_over()
    await stop(tasks)

    records = [
        record
        for start in range(0, len(acknowledged), 100)
        for record in await direct.get(acknowledged[start : start + 100])
    ]
    if not durable:
        assert None in records  # so the test can fail
        return
    assert acknowledged
    assert None not in records
    (row_now,) = await direct.get_schedules(["often"])
    assert row_now is not None
    assert row_now.last_us >= fired[-1]
    (again,) = await store.fire([fire(fired[-1])], term=None)
    assert again.status is not FireStatus.DONE
    # the new replica confirms
    assert (await store.enqueue(here.make.instances(1)))[0].is_new


async def test_too_few_replicas_are_warned_of(start_server: StartServer, cleanup: AsyncExitStack) -> None:
    here = Site(start_server("redis"), cleanup)
    store = await here.open(url=f"{here.server.url}?durability=replicas:2&durability_timeout=50ms", retry_for=0)
    assert any("0 of them are connected" in warning for warning in store.capabilities.warnings)
    with pytest.raises(StoreUnconfirmedError, match=r"2 replicas did not confirm it within 0\.05 s \(0 did\)"):
        await store.enqueue(here.make.instances(1))


# -- clusters


@pytest.mark.parametrize("kind", ["redis", "valkey+glide"])
async def test_a_cluster_confirms_on_the_connection_that_wrote(kind: ServerKind, cleanup: AsyncExitStack) -> None:
    with ServerCluster(kind, shards=2) as cluster:
        for node in cluster.nodes:
            node.command("CONFIG", "SET", "appendfsync", "always")
            node.command("CONFIG", "SET", "appendonly", "yes")
        here = Site(cluster.nodes[0], cleanup)
        store = await here.open(url=f"{cluster.url}&durability=aof&durability_timeout=30s")
        slot = cluster.nodes[0].command("CLUSTER", "KEYSLOT", here.key(""))
        owner = cluster.nodes[int(str(slot)) >= 8192]

        with redis.Redis(port=owner.port) as client, client.monitor() as monitor:
            assert (await store.enqueue(here.make.instances(1)))[0].is_new
            sent: dict[str, list[str]] = {}
            while not any(words[-1:] == ["WAITAOF"] for words in sent.values()):
                command = await asyncio.to_thread(monitor.next_command)
                assert command is not None
                words = sent.setdefault(str(command["client_port"]), [])
                if command["client_type"] != "lua":
                    words.append(str(command["command"]).split()[0])
        (used,) = [words for words in sent.values() if "WAITAOF" in words]
        assert used[-3:] == ["EVALSHA", "EVALSHA", "WAITAOF"]


# -- nodes


@pytest.mark.soak
async def test_nodes_go_on_after_a_failover_with_all_that_was_acknowledged(
    pair: Pair, namespace: str, tmp_path: Path
) -> None:
    url = f"{pair.primary.url}?durability=replicas:1"
    async with peers(url, namespace, tmp_path) as group:
        for jobs in ("support.recurring_jobs", "support.fault_jobs") * 2:
            group.start(workers=5, jobs=jobs)
        client = group.client
        acknowledged: list[str] = []
        failed_over = asyncio.Event()

        async def schedule() -> None:
            while not failed_over.is_set() or len(acknowledged) < 200:
                acknowledged.append((await client.schedule(work, len(acknowledged), 0.01)).id)
                await asyncio.sleep(0.02)  # no more than the nodes can run

        scheduling = [asyncio.create_task(schedule()) for _ in range(5)]
        (name,) = [one.name for one in await client.schedules()]
        started = (await client.lookup_schedule(name)).row.created_us
        await fired_until(client, name, started + 4_000_000)
        fired = {entry.nominal: entry.instance_id for entry in await read_fires(client, name)}
        await asyncio.to_thread(pair.fail_over)
        failed_over.set()
        await asyncio.gather(*scheduling)
        now = (await client.lookup_schedule(name)).row.last_us
        await fired_until(client, name, now + 3_000_000)
        ledgers = await settled(client)

        after = {entry.nominal: entry.instance_id for entry in ledgers[name]}
        assert {nominal: after[nominal] for nominal in fired} == fired
        ended = {one.id: one for one in await everything(client)}
        assert ended.keys() >= set(acknowledged)
        assert all(len(one.record.history) == 4 for one in ended.values() if one.id in acknowledged)
