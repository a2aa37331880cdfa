"""Limits with a hundred thousand waiting instances: turns of tenants, and what idle nodes ask the server."""

from collections import Counter
from contextlib import AsyncExitStack

import pytest

from peerjob import Job, Limit, Node
from peerjob.cluster.lease import INTERVAL
from peerjob.model.clock import SystemClock
from peerjob.model.record import MAX_BATCH, NewInstance, StoreLimits
from peerjob.model.stored_limit import KindLimits
from peerjob.node.observe.observer import Observer
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer
from support.server_stalls import ServerStalls
from support.stalls import Stalls, now_us
from support.waiting import until

WAITING = {"redis": 100_000, "valkey": 100_000, "etcd": 20_000, "sqlite": 100_000}
"""How many instances wait; etcd takes a millisecond for each."""
NODES = 10
LONG = 0.5
"""Seconds of a stall that can end a wait for hints."""
BY_THE_CLOCK = (
    *("add_activity", "changed_schedules", "check_limits", "check_needs"),
    *("claim_on_hint", "expire", "next_hints", "renew"),
)
"""Calls that each idle node makes: renewals, waits for hints, and the searches of the leader."""


async def filled(url: str, namespace: str, make: Factory, count: int, key: str = "") -> Store:
    store = open_store(url, namespace=namespace, clock=SystemClock(), limits=StoreLimits())
    await store.open()
    if key:
        await store.publish_limits([KindLimits(kind="work", key_concurrency=3)])
    for at in range(0, count, MAX_BATCH):
        await store.enqueue(instances(make, min(MAX_BATCH, count - at), key))
    return store


def instances(make: Factory, count: int, key: str) -> list[NewInstance]:
    return [make.instance(limit_key=key, key_concurrency=3 if key else 0) for _ in range(count)]


@pytest.mark.matrix("100,000 instances take a minute")
@pytest.mark.parametrize("store_url", ["redis", "valkey", "etcd", "sqlite"], indirect=True)
async def test_a_tenant_with_one_job_waits_for_few_ends_of_one_with_many(store_url: str, namespace: str) -> None:
    make = Factory(SystemClock())
    store = await filled(store_url, namespace, make, WAITING[store_url.partition(":")[0]], "a")
    peer = await Peer(store=store, info=make.node(kinds=("work",)), make=make).join(LONG_TTL_US)
    try:
        running = [*await peer.take(2)]
        (one,) = instances(make, 1, "b")
        await store.enqueue([one])
        ends = 0
        while (claims := await peer.take(1)) and claims[0].id != one.id:
            await peer.end(running.pop(0))
            running += claims
            ends += 1
        assert claims, "the tenant with one job starts"
        assert ends <= 3
        assert {view.key: view.admitted for view in (await store.key_limits("work")).views} == {"a": 3, "b": 1}
    finally:
        await peer.close()
        await store.close()


class Calls(Observer):
    """Counts the calls of the store of one node, by verb."""

    def __init__(self) -> None:
        self.verbs: Counter[str] = Counter()

    def store_called(self, verb: str, seconds: float) -> None:
        self.verbs[verb] += 1


@pytest.mark.matrix("100,000 instances take a minute")
@pytest.mark.parametrize("store_url", ["redis", "valkey", "etcd"], indirect=True)
async def test_nodes_that_a_limit_keeps_idle_only_renew_their_leases(store_url: str, namespace: str) -> None:
    """All instances wait for a limit that is closed for an hour, and one node knows when it opens."""
    make, calls = Factory(SystemClock()), [Calls() for _ in range(NODES)]
    async with AsyncExitStack() as cleanup:
        nodes: list[Node] = []
        for one in calls:
            job = Job("work", str, limits=[Limit("closed", concurrency=5)])
            nodes.append(Node(store_url, namespace=namespace, jobs=[job], workers=3))
            nodes[-1].observe(one)
            await cleanup.enter_async_context(nodes[-1])
        store = await filled(store_url, namespace, make, 0)
        cleanup.push_async_callback(store.close)
        assert await store.throttle("closed", 3_600_000_000)
        await (await filled(store_url, namespace, make, WAITING[store_url.partition(":")[0]])).close()

        async def renewed(times: int) -> None:
            wanted = [one.verbs["renew"] + times for one in calls]
            await until(
                lambda: all(one.verbs["renew"] >= want for one, want in zip(calls, wanted, strict=True)),
                timeout=10 * times * INTERVAL,
            )

        with ServerStalls(store_url) as watched, Stalls(others=watched.spans) as stalls:
            while True:
                began_us = now_us()
                await renewed(2)
                before = sum((one.verbs for one in calls), Counter[str]())
                await renewed(4)
                after = sum((one.verbs for one in calls), Counter[str]())
                # a node whose wait for hints fails, because the server stands still, asks for work again
                if stalls.last_end(began_us, now_us(), least=LONG) == began_us:
                    break
        more = {verb: number for verb, number in (after - before).items() if verb not in BY_THE_CLOCK}
        assert more == {}
        waits = sum((after - before)[verb] for verb in ("claim_on_hint", "next_hints"))
        # a wait for hints takes longer than the time of four renewals, so each node begins at most two
        assert waits <= 2 * NODES
        assert all(not worker.instance for node in nodes for worker in node.workers())
