"""Idle nodes: they ask little, and miss nothing."""

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from peerjob import Job, Node, State
from peerjob.cluster.lease import INTERVAL
from peerjob.cluster.retention import FOLLOWER_PERIOD, PERIOD
from peerjob.model.record import Claimed, Hint, Renewed
from peerjob.testing import VirtualClock
from support.factories import flaky_store, running_nodes, shared_url
from support.flaky import FlakyStore

TTL = 5.0


async def nothing() -> None: ...


def silent(answer: Renewed) -> Renewed:
    """The answer of a store that does not know what an idle node asks for."""
    return replace(answer, work_due=None, reap_in_us=None)


def told(flaky: FlakyStore) -> None: ...


def not_told(flaky: FlakyStore) -> None:
    flaky.change_answers(silent, "renew", times=None)


def empty(answer: tuple[list[Hint], Claimed | None]) -> tuple[list[Hint], Claimed | None]:
    """The answer of a store that claims also when no hint has come."""
    hints, claimed = answer
    return hints, claimed or Claimed()


def told_of_nothing(flaky: FlakyStore) -> None:
    flaky.change_answers(empty, "claim_on_hint", times=None)


def told_of_dead(answer: tuple[list[Hint], Claimed | None]) -> tuple[list[Hint], Claimed | None]:
    """Add the hint "dead" to other hints."""
    hints, claimed = answer
    return ([*hints, Hint("dead", "")] if hints else hints), claimed


async def calls_of_a_follower(
    clock: VirtualClock, prepare: Callable[[FlakyStore], None], seconds: float = 60
) -> dict[str, int]:
    """The calls of an idle follower, by default in a minute."""
    url, job = shared_url(), Job("k", nothing)
    flaky = flaky_store(clock, url)
    prepare(flaky)
    async with Node(url, name="leader", clock=clock, jobs=[job]), Node(flaky.store, clock=clock, jobs=[job]) as node:
        await clock.advance(60)
        leader = await node.leader()
        assert leader is not None
        assert leader.name == "leader"
        flaky.calls.clear()
        await clock.advance(seconds)
        return dict(flaky.calls)


async def test_an_idle_follower_only_renews_its_lease_and_asks_now_and_then_who_leads(clock: VirtualClock) -> None:
    calls = await calls_of_a_follower(clock, told)
    assert 50 <= calls.pop("renew") <= 60
    assert calls.pop("campaign") <= 16
    assert calls.keys() <= {"changed", "next_hints", "claim_on_hint", "expire"}


async def test_an_idle_node_claims_no_more_after_a_wait_that_brought_nothing(clock: VirtualClock) -> None:
    # so long that a wait has ended in each part of the time between two renewals
    assert "turn" not in await calls_of_a_follower(clock, told_of_nothing, seconds=120)


async def test_the_leader_searches_for_expired_instances_and_a_follower_seldom(clock: VirtualClock) -> None:
    url, job = shared_url(), Job("k", nothing)
    leading, following = flaky_store(clock, url), flaky_store(clock, url)
    leader = Node(leading.store, clock=clock, jobs=[job])
    await leader.start()
    async with Node(following.store, clock=clock, jobs=[job]):
        await clock.advance(40 * PERIOD)
        assert 30 <= leading.calls["expire"] <= 50
        assert 1 <= following.calls["expire"] <= 6
        await clock.run(leader.stop(grace=0))
        before = following.calls["expire"]
        await clock.advance(40 * PERIOD)
        assert 30 <= following.calls["expire"] - before <= 50


async def test_a_node_searches_for_expired_instances_even_if_no_node_leads(clock: VirtualClock) -> None:
    flaky, job = flaky_store(clock), Job("k", nothing, retention="1s")
    flaky.fail("campaign", "leader")
    async with Node(flaky.store, clock=clock, jobs=[job]) as node:
        instance = await node.schedule(job)
        await clock.advance(2 * FOLLOWER_PERIOD)
        assert await flaky.inner.get([instance.id]) == [None]


async def test_a_node_asks_each_second_if_its_store_cannot_tell(clock: VirtualClock) -> None:
    calls = await calls_of_a_follower(clock, not_told)
    assert 54 <= calls["turn"] <= 66
    assert calls["reap"] >= 90


async def test_a_failed_renewal_does_not_delay_work_whose_hint_was_lost(clock: VirtualClock) -> None:
    url, job = shared_url(), Job("k", nothing)
    flaky = flaky_store(clock, url)
    flaky.stall("next_hints", "claim_on_hint")
    async with Node(flaky.store, clock=clock, jobs=[job]), running_nodes(clock, "other", store=url) as peers:
        await clock.advance(20)
        for _ in range(5):
            failing = flaky.fail("renew", times=1)
            instance = await peers[0].schedule("k", allow_unknown=True)
            await clock.advance(INTERVAL + 0.1)
            assert failing.left == 0
            assert (await instance.refresh()).state is State.COMPLETED
            await clock.advance(7.3)


async def test_work_for_which_a_silent_node_was_woken_is_found_by_a_peer(clock: VirtualClock) -> None:
    url, job = shared_url(), Job("k", nothing)
    flaky = flaky_store(clock, url)
    flaky.fail("claim_on_hint")
    async with Node(flaky.store, name="silent", clock=clock, jobs=[job]) as woken:
        await clock.advance(1)
        async with Node(url, name="peer", clock=clock, jobs=[job]):
            await clock.advance(20)
            # the node that is idle for longest is woken
            stalled = flaky.stall("turn")
            instance = await woken.schedule(job)
            await clock.advance(1.3)
            assert stalled.met.is_set()
            assert (await instance.refresh()).state is State.COMPLETED
            assert (await instance.refresh()).node == "peer"
            stalled.release()


async def test_a_node_looks_for_dead_peers_within_half_a_second_of_a_hint(clock: VirtualClock) -> None:
    url, job = shared_url(), Job("k", nothing)
    flaky = flaky_store(clock, url)
    flaky.change_answers(told_of_dead, "claim_on_hint", times=None)
    async with Node(flaky.store, clock=clock, jobs=[job]), running_nodes(clock, "other", store=url) as peers:
        await clock.advance(20)
        for _ in range(40):
            looks = flaky.calls["reap"]
            await peers[0].schedule("k", allow_unknown=True)
            await clock.advance(0.5)
            assert flaky.calls["reap"] > looks
            await clock.advance(3)


async def test_the_claims_of_a_dead_peer_run_again_when_its_lease_ends(clock: VirtualClock) -> None:
    url, job = shared_url(), Job("long", asyncio.sleep)
    flaky = flaky_store(clock, url)
    gone = Node(flaky.store, name="gone", clock=clock, jobs=[job])
    await gone.start()
    instance = await gone.schedule(job, 1_000)
    await clock.advance(1)
    async with running_nodes(clock, "one", "two", store=url, jobs=job) as peers:
        await clock.advance(20)
        assert (await peers[0].lookup_instance(instance.id)).node == "gone"
        flaky.fail()
        await clock.advance(TTL + 0.6)
        assert (await peers[0].lookup_instance(instance.id)).node in ("one", "two")
        flaky.heal()
        for node in (gone, *peers):
            await clock.run(node.stop(grace=0))
