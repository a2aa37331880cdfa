"""A namespace of another layout: nothing is written to it, nodes drain and say so, and `jobd clear` removes it."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from peerjob import Job, LayoutError, Node, Probe, SystemClock
from peerjob.model.firing import Candidate, Fire, FireOutcome, SchedulePut
from peerjob.model.query import Filter
from peerjob.model.record import Action, StoreLimits
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.store.etcd.address import parse_address
from peerjob.store.etcd.driver import EtcdKeyValue
from peerjob.store.kv.format.base import Delete, Put, Transaction
from peerjob.store.rules import LAYOUT, READS_LAYOUT
from peerjob.testing.factories import Factory, Peer, outcome
from support.division import in_matrix
from support.etcd import EtcdServer
from support.jobd import Jobd
from support.servers import Server, ServerProcess
from support.waiting import PATIENCE, until

NEWER = READS_LAYOUT + 1


@dataclass
class Place:
    """A namespace on a server, whose layout a test may change."""

    server: ServerProcess
    namespace: str
    make: Factory

    @property
    def url(self) -> str:
        return self.server.url

    async def open(self) -> Store:
        store = open_store(self.url, namespace=self.namespace, clock=SystemClock(), limits=StoreLimits())
        await store.open()
        return store

    async def set_layout(self, layout: int | None) -> None:
        if isinstance(self.server, Server):
            key = f"{{peerjob:{self.namespace}}}:layout"
            self.server.command(*(("DEL", key) if layout is None else ("SET", key, layout)))
            return
        key = f"{self.namespace}/layout"
        kv = EtcdKeyValue(parse_address(self.url), SystemClock())
        await kv.open()
        await kv.txn([Transaction([], [Delete(key) if layout is None else Put(key, str(layout).encode())])])
        await kv.close()


@pytest.fixture(params=["redis", "valkey", "etcd"])
async def place(request: pytest.FixtureRequest) -> Place:
    server: Server | EtcdServer = request.getfixturevalue(f"{request.param}_server")
    return Place(server, f"layout-{uuid.uuid4().hex[:8]}", Factory(SystemClock()))


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = await place.open()
    yield store
    await place.set_layout(LAYOUT)
    await store.clear()
    await store.close()


async def test_no_verb_writes_to_a_namespace_of_another_layout(place: Place, store: Store) -> None:
    make = place.make
    peer = await Peer(store=store, info=make.node(), make=make).join()
    await store.enqueue(make.instances(3))
    claim, second = await peer.take(2)
    await peer.renew(claim, second)
    elections = store.elections()
    await elections.open()
    put = SchedulePut(name="s", kind="work", definition=b"", next_us=1)
    row = await store.put_schedule(put)
    assert row is not None
    fire = Fire(schedule="s", revision=row.revision, nominal_us=1, outcome=FireOutcome.MISSED, next_us=2, request="r")
    final = (await peer.take(1))[0]
    await peer.end(final)
    verbs: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "enqueue": lambda: store.enqueue(make.instances(1)),
        "enqueue many": lambda: store.enqueue(make.instances(2, key="k")),
        "claim": peer.claim,
        "commit": lambda: peer.commit(outcome(claim), outcome(second, Action.RETRY)),
        "turn": lambda: store.turn(peer.incarnation, [outcome(claim)], peer.want(), request=make.request()),
        "cancel": lambda: store.cancel([claim.id], request=make.request()),
        "watch_final": lambda: store.watch_final(peer.incarnation, [claim.id]),
        "watch_changes": lambda: store.watch_changes(peer.incarnation, 5),
        "join": lambda: store.join(make.node(), ttl_us=1_000_000),
        "renew": lambda: peer.renew(claim, second),
        "leave": lambda: store.leave(peer.incarnation),
        "put_schedule": lambda: store.put_schedule(msgspec.structs.replace(put, name="t")),
        "remove_schedule": lambda: store.remove_schedule("s", request=make.request()),
        "fire": lambda: store.fire([fire], term=None),
        "clear_instances": lambda: store.clear_instances(Filter()),
        "clear": store.clear,
        "campaign": lambda: elections.campaign(Candidate(incarnation=peer.incarnation, name="node"), ttl_us=5_000_000),
    }

    async def seen() -> list[object]:
        ids = [claim.id, second.id, final.id]
        return [await store.get(ids), (await store.health()).counts, await store.fires("s")]

    before = await seen()
    await place.set_layout(NEWER)
    for verb, call in verbs.items():
        with pytest.raises(LayoutError) as refused:
            await call()
        assert (refused.value.found, refused.value.known) == (NEWER, READS_LAYOUT), verb
    assert await seen() == before
    await elections.close()
    await peer.close()


async def test_a_layout_that_was_lost_is_written_again(place: Place, store: Store) -> None:
    """As after FLUSHALL; otherwise any release could write the namespace."""
    await place.set_layout(None)
    await store.enqueue(place.make.instances(1))
    await place.set_layout(NEWER)
    with pytest.raises(LayoutError):
        await store.enqueue(place.make.instances(1))


@pytest.mark.parametrize(("layout", "advice"), [(LAYOUT - 1, "jobd clear"), (NEWER, "upgrade this node")])
async def test_another_layout_is_refused_by_name(place: Place, store: Store, layout: int, advice: str) -> None:
    await place.set_layout(layout)
    with pytest.raises(LayoutError, match=rf"layout {layout}, this release reads up to {READS_LAYOUT}.*{advice}"):
        await place.open()


@pytest.mark.parametrize("place", ["redis", "etcd"], indirect=True)
async def test_a_node_of_an_older_release_drains_and_says_so_once(
    place: Place, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def long() -> None:
        started.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    job = Job("work", long)
    node = Node(place.url, namespace=place.namespace, jobs=[job], workers=2, name="old")
    async with node:
        instance = await node.schedule(job)
        await started.wait()
        caplog.set_level(logging.WARNING)
        await place.set_layout(NEWER)
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
        with pytest.raises(LayoutError):
            await node.schedule(job)
        assert not node.probe(Probe.READY).ok
        runtime: Any = node._runtime  # pyright: ignore[reportPrivateUsage]

        async def is_retired() -> bool:
            return not any(role.started for role in (runtime.claim_loop, *runtime.roles, runtime.lease))

        await until(is_retired)
    logged = [record for record in caplog.records if f"layout {NEWER}" in record.getMessage()]
    assert len(logged) == 1, [record.getMessage() for record in logged]
    assert logged[0].levelno == logging.ERROR
    (record,) = await store.get([instance.id])
    assert record is not None
    assert record.attempts == 1


@pytest.mark.parametrize("place", ["redis", in_matrix("etcd")], indirect=True)
async def test_jobd_names_both_layouts_and_clears_the_namespace(place: Place, store: Store, jobd: Jobd) -> None:
    await store.enqueue(place.make.instances(3))
    await place.set_layout(LAYOUT - 1)
    where = ("--store", place.url, "--namespace", place.namespace)
    checked = jobd.launch("check", "shop.jobs", *where)
    assert checked.wait() == 1
    words = "".join("".join(checked.lines).split())
    assert f"layout{LAYOUT - 1},thisreleasereadsupto{READS_LAYOUT}" in words
    assert jobd.launch("clear", *where, "--yes").wait() == 0
    again = await place.open()
    assert await again.get([]) == []
    assert not (await again.health()).counts
    await again.close()
