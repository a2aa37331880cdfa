"""What becomes of schedules while the coordinator or the store is away."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from peerjob import Store, StoreLimits
from peerjob.model.clock import SystemClock
from peerjob.model.firing import FireOutcome, Term
from peerjob.store.drivers import open_elections, open_store
from support.etcd import StartEtcd
from support.leaders import SECOND, ElectionNode, Misfire, accounted, definition, put, read_ledger
from support.servers import ServerKind, StartServer
from support.waiting import until

TTL = 2.0
POLICIES: tuple[Misfire, ...] = ("skip", "run_once", "run_all")
CLOCK = SystemClock()


@contextlib.asynccontextmanager
async def standing(
    url: str, namespace: str, coordinator: str | None = None
) -> AsyncGenerator[tuple[Store, list[ElectionNode]]]:
    """Three that stand for leader, and a store of the test's own."""
    elections = None if coordinator is None else open_elections(coordinator, namespace=namespace, clock=CLOCK)

    def store() -> Store:
        return open_store(url, namespace=namespace, clock=CLOCK, limits=StoreLimits(), retry_for=1)

    nodes = [ElectionNode(CLOCK, store(), name, ttl=TTL, elections=elections) for name in "abc"]
    own = store()
    await own.open()
    try:
        for one in nodes:
            await one.start()
        yield own, nodes
    finally:
        for one in nodes:
            await one.stop()
            await one.flaky.inner.close()
        await own.close()


async def leader_of(nodes: list[ElectionNode]) -> tuple[ElectionNode, Term]:
    """Wait until a node acts as leader; return the node and its term."""
    found: list[tuple[ElectionNode, Term]] = []

    async def acts() -> bool:
        found[:] = [(one, term) for one in nodes if (term := one.election.term) is not None]
        return bool(found)

    await until(acts)
    (leader,) = found
    return leader


async def no_leader(nodes: list[ElectionNode]) -> None:
    """Wait until no node acts as leader, and no node knows a leader."""

    async def left() -> bool:
        return not [one for one in nodes if one.election.is_leader or one.election.leader]

    await until(left)


async def fired_since(store: Store, moment_us: int, *schedules: str) -> None:
    """Wait until the latest of each schedule came after a moment, and was fired."""

    async def fired() -> bool:
        latest = [record for name in schedules for record in (await read_ledger(store, name))[-1:]]
        in_time = [one for one in latest if one.nominal_us > moment_us and one.outcome is FireOutcome.FIRED]
        return len(in_time) == len(schedules)

    await until(fired)


@pytest.mark.matrix("a long fault; shorter ones have the same promises")
async def test_a_coordinator_that_restarts_costs_fires_that_the_policy_makes_up_for(
    redis_url: str, namespace: str, start_etcd: StartEtcd
) -> None:
    etcd = start_etcd()
    async with standing(redis_url, namespace, etcd.url) as (store, nodes):
        _, before = await leader_of(nodes)
        assert before.coordinator.startswith("etcd:")
        began_us = CLOCK.time_us()
        for policy in POLICIES:
            wanted = definition(every_us=SECOND, anchor_us=began_us, misfire=policy)
            await put(store, policy, wanted, now_us=began_us)
        await fired_since(store, began_us, *POLICIES)
        etcd.kill()
        await no_leader(nodes)
        await asyncio.sleep(3)  # so much more is missed
        etcd.restart()
        _, after = await leader_of(nodes)
        assert after.coordinator == before.coordinator
        await fired_since(store, CLOCK.time_us() + 2 * SECOND, *POLICIES)
        outcomes: dict[str, set[FireOutcome]] = {}
        for policy in POLICIES:
            records = await read_ledger(store, policy)
            times = accounted(records, definition(every_us=SECOND, anchor_us=began_us))
            assert times == list(range(began_us + SECOND, times[-1] + 1, SECOND))
            outcomes[policy] = {record.outcome for record in records}
        assert outcomes == {
            "skip": {FireOutcome.FIRED, FireOutcome.MISSED},
            "run_once": {FireOutcome.FIRED, FireOutcome.COALESCED},
            "run_all": {FireOutcome.FIRED},
        }


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_store_that_stands_still_is_caught_up_on(
    kind: ServerKind, namespace: str, start_server: StartServer
) -> None:
    server = start_server(kind)
    async with standing(server.url, namespace) as (store, nodes):
        _, first = await leader_of(nodes)
        began_us = CLOCK.time_us()
        wanted = definition(every_us=SECOND // 5, anchor_us=began_us, misfire="run_all")
        await put(store, "s", wanted, now_us=began_us)
        await fired_since(store, began_us + SECOND, "s")
        server.pause()
        await no_leader(nodes)
        await asyncio.sleep(2)  # the server's lease ends, too
        server.resume()
        _, second = await leader_of(nodes)
        assert second.number > first.number
        await fired_since(store, CLOCK.time_us() + 2 * SECOND, "s")
        times = accounted(await read_ledger(store, "s"), wanted)
        assert times == list(range(began_us + SECOND // 5, times[-1] + 1, SECOND // 5))
