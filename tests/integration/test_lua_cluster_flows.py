"""Flows on a cluster whose slot moves, or whose server is replaced, while they are half done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from peerjob import Node, State
from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.lua.store import lua_store
from support.lab.checking import gather, read_journal, violations
from support.lab.flowing import Flowing, accepted_twice, read_steps
from support.lab.jobs import JOURNAL, group
from support.servers import ServerCluster, ServerKind, needed
from support.slots import Slot
from support.waiting import PATIENCE, until

pytestmark = pytest.mark.matrix("a long fault; shorter ones have the same promises")

CONFIRMED = "&durability=replicas:1&durability_timeout=5s"
FLOWS, MEMBERS = 6, 40
TTL = 2.0
LEASES_END = 2 * TTL
"""Seconds of a move after which each node has lost its lease."""
AT_ONCE = 40
"""Keys that move in one step."""


async def flows_during(url: str, namespace: str, journal: Path, harm: Callable[[], None]) -> list[str]:
    """Run flows, do harm when they are half done, and return what is wrong at the end."""
    flowing = Flowing(Random(namespace))

    def ended() -> int:
        return sum(run.end_us is not None for run in read_journal(journal))

    async with (
        Node(url, jobs=group, workers=4, name="one", namespace=namespace, lease_ttl=TTL),
        Node(url, jobs=group, workers=4, name="two", namespace=namespace, lease_ttl=TTL),
        Node(url, workers=0, name="client", namespace=namespace, lease_ttl=TTL) as client,
    ):
        for number in range(FLOWS):
            await flowing.schedule(client, number, MEMBERS)
        await until(lambda: ended() > MEMBERS)
        await asyncio.to_thread(harm)
        handles = [await client.lookup_instance(id) for id in flowing.orders]

        async def all_ended() -> bool:
            return all([(await handle.refresh()).state.is_final for handle in handles])

        await until(all_ended, PATIENCE)
        await until(lambda: asyncio.to_thread(lambda: all(run.end_us for run in read_journal(journal))))
    store = lua_store(url.partition("&")[0], namespace=namespace, clock=SystemClock(), limits=StoreLimits())
    await store.open()
    try:
        while await store.settle():
            pass
        steps = read_steps(journal, flowing.evidence)
        evidence = await gather(store, read_journal(journal), flowing.orders, [], flowing.evidence, ttl=TTL)
    finally:
        await store.close()
    assert len(evidence.records) >= FLOWS * (MEMBERS + 1)
    assert steps.calls
    states = [evidence.records[id].state for id in flowing.orders]
    wrong = ["no flow completed"] if State.COMPLETED not in states else []
    wrong += [f"{accepted_twice(flowing.evidence)} values accepted twice"] * (accepted_twice(flowing.evidence) > 0)
    return wrong + [str(violation) for violation in violations(evidence)]


@pytest.mark.parametrize(("kind", "seconds"), [("redis", 0.0), ("redis", LEASES_END), ("valkey+glide", LEASES_END)])
async def test_flows_go_on_after_their_slot_has_moved(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: ServerKind, seconds: float
) -> None:
    monkeypatch.setenv(JOURNAL, str(tmp_path / "journal"))
    with needed(), ServerCluster(kind) as cluster:

        def move() -> None:
            slot = Slot(cluster, namespace)
            slot.begin()
            slot.move(AT_ONCE)
            time.sleep(seconds)
            while slot.move(AT_ONCE):
                pass
            slot.end()

        assert await flows_during(cluster.url, namespace, tmp_path / "journal", move) == []


async def test_flows_go_on_at_the_replica_of_a_server_that_is_killed(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JOURNAL, str(tmp_path / "journal"))
    with needed(), ServerCluster("redis", replicas=1) as cluster:
        killed = Slot(cluster, namespace).source
        replica = cluster.replicas[cluster.nodes.index(killed)]

        def replace() -> None:
            killed.kill()
            replica.command("CLUSTER", "FAILOVER", "TAKEOVER")
            killed.start()

        assert await flows_during(cluster.url + CONFIRMED, namespace, tmp_path / "journal", replace) == []
