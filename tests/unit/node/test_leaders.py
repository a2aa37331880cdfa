"""A node as leader: which node fires, when another takes over, and the effect of a separate coordinator."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from peerjob import Context, FireOutcome, Job, Node, OptionError, State
from peerjob.model.clock import to_datetime
from peerjob.model.record import Renewed
from peerjob.store.drivers import open_elections
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import advance, running_node
from support import bodies
from support.factories import flaky_store, running_nodes, shared_url


def nothing() -> None:
    pass


TICK = Job("tick", nothing, every=1, overlap="allow")


async def fates(node: Node) -> list[tuple[str, int]]:
    """What became of each second, in order: outcome, and nominal times."""
    return [(str(entry.outcome), entry.count) for entry in reversed(await node.fires("tick", limit=1000))]


# -- the leader


async def test_one_node_leads_and_all_know_it(clock: VirtualClock) -> None:
    async with running_nodes(clock, "a", "b", "c") as nodes:
        await clock.advance(2)
        assert [node.is_leader for node in nodes] == [True, False, False]
        for node in nodes:
            leader = await node.leader()
            assert leader is not None
            assert (leader.name, leader.incarnation) == ("a", nodes[0].incarnation)
            assert leader.term.coordinator.startswith("memory:")
            assert leader.since == to_datetime(leader.since_us)


async def test_a_node_that_starts_alone_leads_as_soon_as_it_knows_the_clock_of_the_store(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    renewals = flaky.stall("renew")
    async with running_node(TICK, clock=clock, store=flaky.store) as node:
        await clock.advance(0.5)
        assert not node.is_leader
        renewals.release()
        await clock.advance(0.2)
        assert node.is_leader


async def test_a_leader_that_stops_hands_over_while_its_bodies_end_and_no_fire_is_late(clock: VirtualClock) -> None:
    ended: list[str] = []

    async def long(context: Context) -> None:
        await context.sleep(8)
        ended.append("long")

    url = shared_url()
    first = Node(url, jobs=[TICK, Job("long", long)], clock=clock, name="first")
    await clock.run(first.start())
    async with running_node(TICK, clock=clock, store=url, name="next") as peer:
        await clock.advance(3)
        assert first.is_leader
        await first.schedule("long")
        await clock.advance(2)
        await clock.run(first.stop(grace=10))
        assert ended == ["long"]
        assert peer.is_leader
        await clock.advance(2)
        fires = await peer.fires("tick", limit=1000)
        assert {entry.outcome for entry in fires} == {FireOutcome.FIRED}
        assert max(entry.late for entry in fires) < timedelta(seconds=1)
        assert len(fires) == 13
        assert {entry.node for entry in fires} == {"first", "next"}


async def test_rolling_restarts_lose_no_second(clock: VirtualClock) -> None:
    url = shared_url()
    nodes = [Node(url, jobs=[TICK], clock=clock, name=f"node-{number}") for number in range(3)]
    for node in nodes:
        await clock.run(node.start())
    for node in nodes:
        await clock.advance(3)
        await clock.run(node.stop())
        await clock.advance(1.5)
        await clock.run(node.start())
    await clock.advance(3)
    seconds = (clock.time_us() - (await nodes[0].lookup_schedule("tick")).row.created_us) // 1_000_000
    assert await fates(nodes[0]) == [("fired", 1)] * seconds
    for node in nodes:
        await clock.run(node.stop())


async def test_a_node_can_lead_soon_after_its_start(clock: VirtualClock) -> None:
    """Its peers tell it their clocks without waiting for their next renewals, and it compares them at once."""
    async with running_nodes(clock, "first", "next") as (first, successor):
        await clock.advance(0.3)
        await clock.run(first.stop())
        await clock.advance(0.05)
        assert successor.is_leader


async def test_a_leader_that_vanishes_is_followed_within_its_lease(clock: VirtualClock) -> None:
    url = shared_url()
    flaky = flaky_store(clock, url)
    async with (
        running_node(TICK, clock=clock, store=flaky.store, name="vanishing", lease_ttl=3) as vanishing,
        running_node(TICK, clock=clock, store=url, name="following", lease_ttl=3) as following,
    ):
        await clock.advance(5)
        assert vanishing.is_leader
        flaky.fail()
        await clock.advance(4)
        assert (vanishing.is_leader, following.is_leader) == (False, True)
        await clock.advance(5)
        nominal = [entry.nominal for entry in await following.fires("tick", limit=100)]
        accounted = sum(count for _, count in await fates(following))
        assert len(set(nominal)) == len(nominal)
        assert accounted >= 13
        flaky.heal()
        await clock.advance(5)
        assert not vanishing.is_leader


@pytest.mark.parametrize(
    ("clock_of", "ahead_us", "leads"),
    [("nodes", 1_000_001, False), ("nodes", -1_000_001, False), ("nodes", 900_000, True), ("server", 9_000_000, True)],
)
async def test_a_node_whose_clock_is_off_does_not_lead_where_nodes_decide_by_their_clocks(
    clock: VirtualClock, clock_of: str, ahead_us: int, leads: bool
) -> None:
    flaky = flaky_store(clock)

    class Ahead:
        """A store of this kind, on whose renewals the node hears how far its clock is off."""

        def __getattr__(self, name: str) -> Any:
            if name == "capabilities":
                return structs.replace(flaky.inner.capabilities, clock=clock_of)
            return getattr(flaky, name)

    def ahead(reply: Renewed) -> Renewed:
        return structs.replace(reply, ahead_us=ahead_us)

    flaky.change_answers(ahead, "renew", times=None)
    store: Any = Ahead()
    async with running_node(clock=clock, store=store) as node:
        await clock.advance(10)
        assert node.is_leader is leads
        [view] = await node.nodes()
        assert view.info.ahead_us == ahead_us


async def test_a_stopped_node_leads_nothing(clock: VirtualClock) -> None:
    node = Node("memory://", clock=clock)
    await clock.run(node.start())
    await clock.advance(1)
    assert node.is_leader
    await clock.run(node.stop())
    assert not node.is_leader


@pytest.mark.parametrize("ttl", [5, 60])
async def test_a_stop_is_not_held_up_by_a_coordinator_that_does_not_answer(clock: VirtualClock, ttl: int) -> None:
    flaky = flaky_store(clock)
    async with running_node(clock=clock, store=flaky.store, lease_ttl=ttl) as node:
        await clock.advance(2)
        assert node.is_leader
        flaky.stall("resign")
        before = clock.elapsed()
        await clock.run(node.stop())
        assert clock.elapsed() - before <= 6


# -- a coordinator of its own


async def test_the_coordinator_of_a_url_elects_and_the_store_keeps_the_ledger(clock: VirtualClock) -> None:
    coordinator, url = shared_url(), shared_url()
    async with running_nodes(clock, "a", "b", jobs=[TICK], store=url, coordinator=coordinator) as (a, b):
        await clock.advance(2)
        assert (a.is_leader, b.is_leader) == (True, False)
        elections = open_elections(coordinator, namespace="default", clock=clock)()
        await elections.open()
        assert await elections.leader() == await a.leader() == await b.leader()
        await elections.close()
    async with running_node(TICK, clock=clock, store=url, name="c") as c:
        await clock.advance(2)
        assert c.is_leader


async def test_a_function_that_makes_a_client_will_do(clock: VirtualClock) -> None:
    elsewhere = flaky_store(clock)
    made: list[object] = []

    def make() -> Any:
        made.append(elections := elsewhere.elections())
        return elections

    async with running_node(TICK, clock=clock, coordinator=make) as node:
        await clock.advance(2)
        assert node.is_leader
        assert len(made) == 1


@pytest.mark.parametrize("wrong", ["", "redis", "ftp://x", "etcd://a:b:c", 5], ids=repr)
def test_a_coordinator_that_cannot_be_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(OptionError, match=r"coordinator|etcd"):
        Node("memory://", coordinator=wrong)


async def test_while_the_coordinator_is_away_work_goes_on_and_fires_are_caught_up_after(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    away = flaky_store(clock)
    away.fail()
    job = Job("tick", nothing, every=1, overlap="allow", misfire="run_all")
    async with running_node(job, clock=clock, coordinator=lambda: _elections_of(away)) as node:
        await (await node.schedule("tick")).result()
        await clock.advance(10)
        assert not node.is_leader
        assert await node.leader() is None
        assert await fates(node) == []
        assert [one for one in caplog.records if one.levelno == logging.WARNING and one.name == "peerjob.cluster"]
        away.heal()
        await clock.advance(10)
        assert node.is_leader
        assert await fates(node) == [("fired", 1)] * 20
        away.fail()
        await clock.advance(10)
        assert await node.leader() is None
        await (await node.schedule("tick")).result()
        away.heal()
        await clock.advance(10)
        assert await fates(node) == [("fired", 1)] * 40


def _elections_of(store: Any) -> Any:
    return store.elections()


# -- what is seen


async def test_nodes_are_seen_with_their_load_and_the_age_of_their_heartbeats(clock: VirtualClock) -> None:
    async def sleep() -> None:
        await asyncio.sleep(60)

    url = shared_url()
    flaky = flaky_store(clock, url)
    job = Job("sleep", sleep)
    started = to_datetime(clock.time_us())
    async with (
        running_node(job, clock=clock, store=flaky.store, name="a", workers=4, lease_ttl=60) as a,
        running_node(clock=clock, store=url, name="b", workers=0, lease_ttl=60) as b,
    ):
        await a.schedule("sleep")
        await clock.advance(5)
        seen, other = await b.nodes()
        assert (seen.name, seen.info.kinds, seen.running, seen.load) == ("a", ("sleep",), 1, 0.25)
        assert (other.name, other.info.kinds, other.load) == ("b", (), 0.0)
        assert seen.started_at == started
        assert seen.heartbeat_age <= 1.5
        flaky.fail("renew")
        await clock.advance(20)
        assert 20 <= (await b.nodes())[0].heartbeat_age <= 21.5


async def test_a_job_in_a_process_knows_its_nominal_time(clock: VirtualClock) -> None:
    job = Job("told", bodies.nominal_time, run_in="process", every="1m")
    async with running_node(job, clock=clock) as node:
        await advance(node, "61s")
        (instance,) = await node.lookup_instances()
        assert instance.state is State.COMPLETED
        assert await instance.result() == ["told", "2026-01-01T00:01:00+00:00"]


async def test_a_node_that_is_made_anew_keeps_its_coordinator(clock: VirtualClock) -> None:
    first = Node("memory://", coordinator=shared_url(), clock=clock)
    second = first.remake()
    for node in (first, second):
        await clock.run(node.start())
    await clock.advance(2)
    assert (first.is_leader, second.is_leader) == (True, False)
    assert await first.leader() == await second.leader()
    for node in (first, second):
        await clock.run(node.stop())
