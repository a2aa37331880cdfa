"""What becomes of schedules while the coordinator or the store is away."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from peerjob import Store, StoreLimits
from peerjob.clock import SystemClock
from peerjob.firing import FireOutcome
from peerjob.store.url import open_elections, open_store
from support.etcd import StartEtcd
from support.factories import until
from support.leaders import SECOND, Misfire, Stander, accounted, definition, put, read_ledger
from support.servers import ServerKind, StartServer

TTL = 2.0
POLICIES: tuple[Misfire, ...] = ("skip", "run_once", "run_all")
CLOCK = SystemClock()


@contextlib.asynccontextmanager
async def standing(
    url: str, namespace: str, coordinator: str | None = None
) -> AsyncGenerator[tuple[Store, list[Stander]]]:
    """Three that stand for leader, and a store of the test's own."""
    elections = None if coordinator is None else open_elections(coordinator, namespace=namespace, clock=CLOCK)

    def store() -> Store:
        return open_store(url, namespace=namespace, clock=CLOCK, limits=StoreLimits(), retry_for=1)

    standers = [Stander(CLOCK, store(), name, ttl=TTL, elections=elections) for name in "abc"]
    own = store()
    await own.open()
    try:
        for one in standers:
            await one.start()
        yield own, standers
    finally:
        for one in standers:
            await one.stop()
            await one.flaky.inner.close()
        await own.close()


async def leader_of(standers: list[Stander]) -> Stander:
    """Who acts, once somebody does."""

    async def acts() -> bool:
        return any(one.election.is_leader for one in standers)

    await until(acts)
    (leader,) = [one for one in standers if one.election.is_leader]
    return leader


async def test_a_coordinator_that_restarts_costs_fires_that_the_policy_makes_up_for(
    redis_url: str, namespace: str, start_etcd: StartEtcd
) -> None:
    etcd = start_etcd()
    async with standing(redis_url, namespace, etcd.url) as (store, standers):
        before = await leader_of(standers)
        assert before.election.term is not None
        coordinator = before.election.term.coordinator
        assert coordinator.startswith("etcd:")
        began_us = CLOCK.time_us()
        for policy in POLICIES:
            wanted = definition(every_us=SECOND, anchor_us=began_us, misfire=policy)
            await put(store, policy, wanted, now_us=began_us)
        await asyncio.sleep(2.5)
        etcd.kill()
        await asyncio.sleep(TTL + 1)
        assert not [one for one in standers if one.election.is_leader or one.election.leader]
        await asyncio.sleep(3)
        etcd.restart()
        after = await leader_of(standers)
        assert after.election.term is not None
        assert after.election.term.coordinator == coordinator
        await asyncio.sleep(3)
        outcomes: dict[str, set[FireOutcome]] = {}
        for policy in POLICIES:
            records = await read_ledger(store, policy)
            times = accounted(records, definition(every_us=SECOND, anchor_us=began_us))
            assert times == list(range(began_us + SECOND, times[-1] + 1, SECOND))
            assert times[-1] >= CLOCK.time_us() - 2 * SECOND
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
    async with standing(server.url, namespace) as (store, standers):
        first = await leader_of(standers)
        assert first.election.term is not None
        number = first.election.term.number
        began_us = CLOCK.time_us()
        wanted = definition(every_us=SECOND // 5, anchor_us=began_us, misfire="run_all")
        await put(store, "s", wanted, now_us=began_us)
        await asyncio.sleep(1)
        server.pause()
        await asyncio.sleep(TTL + 2)
        assert not [one for one in standers if one.election.is_leader or one.election.leader]
        server.resume()
        leader = await leader_of(standers)
        assert leader.election.term is not None
        assert leader.election.term.number > number
        await asyncio.sleep(3)
        times = accounted(await read_ledger(store, "s"), wanted)
        assert times == list(range(began_us + SECOND // 5, times[-1] + 1, SECOND // 5))
        assert times[-1] >= CLOCK.time_us() - SECOND
