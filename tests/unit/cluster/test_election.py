"""Elections: which node leads, which nodes know it, and when a node may act as leader."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import pytest

from peerjob.cluster.election import MAX_PAUSE
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.firing import Term
from peerjob.model.ids import IdSource
from peerjob.store.base import Elections
from peerjob.store.kv.format.base import Applied, Compare, Delete, Transaction
from peerjob.store.kv.nodes.elections import KVElections
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from support.factories import memory_store, shared_url
from support.flaky import FlakyElections, FlakyStore
from support.leaders import TTL, ElectionNode, Reigns
from support.records import logged
from support.searches import seeds

Stand = Callable[[str], Awaitable[ElectionNode]]


@pytest.fixture
async def stand(clock: VirtualClock) -> AsyncIterator[Stand]:
    """Starts nodes, by name, that stand for the same leadership."""
    url = shared_url()
    started: list[ElectionNode] = []

    async def start(name: str) -> ElectionNode:
        node = ElectionNode(clock, memory_store(clock, url), name)
        started.append(node)
        return await node.start(cron=False)

    yield start
    for one in started:
        one.flaky.heal()
        await clock.run(one.stop())


async def test_one_leads_and_all_know_it(clock: VirtualClock, stand: Stand) -> None:
    nodes = [await stand(name) for name in "abc"]
    await clock.advance(2)
    leaders = [one for one in nodes if one.election.is_leader]
    assert len(leaders) == 1
    assert {one.leader for one in nodes} == {leaders[0].name}
    assert len({one.election.leader for one in nodes}) == 1


async def test_a_leader_leads_for_as_long_as_it_lives(clock: VirtualClock, stand: Stand) -> None:
    nodes = [await stand(name) for name in "abc"]
    await clock.advance(2)
    terms = {one.election.term for one in nodes}
    await clock.advance(600)
    assert {one.election.term for one in nodes} == terms


async def test_leadership_moves_on_when_the_leader_dies(clock: VirtualClock, stand: Stand) -> None:
    first = await stand("first")
    await clock.advance(1)
    second = await stand("second")
    await clock.advance(1)
    assert second.leader == "first"
    await first.kill()
    await clock.advance(TTL - 1.5)
    assert not second.election.is_leader
    await clock.advance(2.5)
    assert second.election.is_leader
    assert second.leader == "second"


async def test_a_node_that_stops_hands_over_at_once(clock: VirtualClock, stand: Stand) -> None:
    first = await stand("first")
    await clock.advance(1)
    second = await stand("second")
    await clock.advance(1)
    await clock.run(first.stop())
    second.election.soon()  # the hint "leader"
    await clock.advance(0.1)
    assert second.election.is_leader
    assert first.election.leader is None
    assert not first.election.is_leader


async def test_a_sign_from_the_coordinator_wakes_those_that_wait(clock: VirtualClock, stand: Stand) -> None:
    first = await stand("first")
    await clock.advance(1)
    second = await stand("second")
    await clock.advance(1)
    await clock.run(first.stop())
    await clock.advance(0.1)
    assert second.election.is_leader


async def test_a_node_asks_often_who_leads_while_the_coordinator_reports_no_changes(
    clock: VirtualClock, stand: Stand
) -> None:
    first = await stand("first")
    await clock.advance(1)
    second = await stand("second")
    second.flaky.fail("changed")
    await clock.advance(1)
    await clock.run(first.stop())
    await clock.advance(second.election.interval + 0.1)
    assert second.election.is_leader


async def test_a_paused_leader_acts_no_more_and_learns_who_leads(clock: VirtualClock, stand: Stand) -> None:
    first = await stand("first")
    await clock.advance(1)
    second = await stand("second")
    await clock.advance(1)
    reigns = Reigns([first, second])
    assert reigns.acting() == [first]
    first.pause()
    for _ in range(100):
        await clock.advance(0.1)
        reigns.acting()
    assert reigns.acting() == [second]
    first.resume()
    await clock.advance(2)
    assert reigns.acting() == [second]
    assert first.leader == "second"
    reigns.check()


async def test_trust_ends_in_its_time_while_a_campaign_hangs(clock: VirtualClock, stand: Stand) -> None:
    node = await stand("node")
    await clock.advance(1)
    node.flaky.stall_answers("campaign")
    await clock.advance(TTL - 2.1)
    assert node.election.is_leader
    await clock.advance(1.1)
    assert not node.election.is_leader


@pytest.mark.parametrize("fault", ["fail", "stall", "stall_answers", "lose_answers"])
async def test_a_coordinator_that_is_away_costs_the_leadership_until_it_is_back(
    clock: VirtualClock, stand: Stand, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    node = await stand("node")
    await clock.advance(1)
    outage = getattr(node.flaky, fault)("campaign", "open", "leader", "changed", times=None)
    await clock.advance(TTL)
    assert not node.election.is_leader
    await clock.advance(1)
    assert node.election.leader is None
    await clock.advance(60)
    assert len(logged(caplog)) <= 3
    assert not [one for one in logged(caplog) if one.exc_info]
    node.flaky.heal()
    outage.release()
    await clock.advance(TTL + 2)
    assert node.election.is_leader


async def test_a_follower_whose_campaign_fails_knows_no_leader(clock: VirtualClock, stand: Stand) -> None:
    first = await stand("first")
    await clock.advance(1)
    second = await stand("second")
    await clock.advance(1)
    assert second.leader == "first"
    second.flaky.fail("campaign", "open", "leader", times=None)
    await clock.advance(2 * TTL + 1)
    assert first.election.is_leader
    assert second.election.leader is None


async def test_a_coordinator_that_needs_longer_for_each_campaign_gets_the_time(
    clock: VirtualClock, stand: Stand
) -> None:
    """With a fixed limit, no campaign is answered: no node leads for good, and no schedule fires."""
    node = await stand("node")
    node.flaky.slow(0.29 * TTL, "campaign")
    await clock.advance(2 * TTL)
    for _ in range(50):
        await clock.advance(1)
        assert node.election.is_leader


async def test_a_campaign_whose_answer_was_lost_is_known_after_the_next(clock: VirtualClock, stand: Stand) -> None:
    node = await stand("node")
    node.flaky.lose_answers("campaign", times=1)
    await clock.advance(0.1)
    assert not node.election.is_leader
    await clock.advance(1.1)
    assert node.election.is_leader


async def test_a_node_that_may_not_lead_resigns_and_knows_who_does(clock: VirtualClock, stand: Stand) -> None:
    first = await stand("first")
    await clock.advance(1)
    second = await stand("second")
    await clock.advance(1)
    first.may_lead = False
    assert not first.election.is_leader
    await clock.advance(2)
    assert second.election.is_leader
    assert first.leader == "second"
    await second.kill()
    await clock.advance(20)
    assert not first.election.is_leader
    first.may_lead = True
    await clock.advance(2)
    assert first.election.is_leader


async def test_no_peer_leads_beside_a_node_whose_resignation_is_served_late(clock: VirtualClock) -> None:
    """The node may lead again, and campaigns, before the coordinator serves the request that got no answer."""
    data, late = MemoryData(), list[Sequence[Transaction]]()

    class Late(MemoryKeyValue):
        async def txn(
            self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
        ) -> Applied:
            if not late and any(isinstance(op, Delete) for transaction in transactions for op in transaction.ops):
                late.append(transactions)
                raise StoreUnavailableError("memory://", "no answer")
            return await super().txn(transactions, also, guards)

    def node(name: str, kv: MemoryKeyValue) -> ElectionNode:
        elections = partial(KVElections, kv, url="memory://", namespace="n", clock=clock)
        return ElectionNode(clock, memory_store(clock), name, ttl=15, elections=elections)

    first, second = node("first", Late(data, clock)), node("second", MemoryKeyValue(data, clock))
    for one in (first, second):
        await one.start(cron=False)
        await clock.advance(3)
    assert first.election.is_leader
    first.may_lead = False
    while not late:
        await clock.advance(0.1)
    first.may_lead = True
    await clock.advance(2)
    await MemoryKeyValue(data, clock).txn(late[0])
    for _ in range(50):
        await clock.advance(0.1)
        assert [first.election.is_leader, second.election.is_leader].count(True) == 1
    for one in (first, second):
        await clock.run(one.stop())


async def test_a_new_incarnation_leaves_no_leadership_to_the_old_one(clock: VirtualClock, stand: Stand) -> None:
    node = await stand("node")
    await clock.advance(1)
    old = node.election.term
    assert old is not None
    node.info = type(node.info)(name="node", incarnation=IdSource(clock).one())
    node.election.soon()
    await clock.advance(0.1)
    term = node.election.term
    assert term is not None
    assert term.number > old.number
    leader = node.election.leader
    assert leader is not None
    assert leader.incarnation == node.info.incarnation


async def test_a_deposed_leader_stands_anew_in_a_later_term(clock: VirtualClock, stand: Stand) -> None:
    node = await stand("node")
    await clock.advance(1)
    term = node.election.term
    assert term is not None
    node.election.depose(term)
    assert not node.election.is_leader
    await clock.advance(0.1)
    later = node.election.term
    assert later is not None
    assert later.number > term.number
    node.election.depose(term)  # heard of late: it is not about this term
    assert node.election.term == later


async def test_a_coordinator_that_went_back_gets_another_origin(clock: VirtualClock, stand: Stand) -> None:
    """The term is the latest one here, so the later one that the store has seen is of another past."""
    node = await stand("node")
    await clock.advance(1)
    term = node.election.term
    assert term is not None
    node.election.depose(term)
    await clock.advance(0.1)
    anew = node.election.term
    assert anew is not None
    assert anew.coordinator != term.coordinator


async def test_a_leader_of_the_past_leaves_the_origin_alone(clock: VirtualClock, stand: Stand) -> None:
    first = await stand("first")
    await clock.advance(1)
    second = await stand("second")
    await clock.advance(1)
    term = first.election.term
    assert term is not None
    first.flaky.stall_answers("campaign")  # so that it does not learn of its successor
    elections = first.flaky.inner.elections()
    await elections.open()
    await elections.resign(first.info.incarnation)
    second.election.soon()
    await clock.advance(0.1)
    later = second.election.term
    assert later is not None
    first.flaky.heal()
    first.election.depose(term)
    await clock.advance(2)
    assert second.election.term == later
    assert later.coordinator == term.coordinator
    await elections.close()


async def test_refused_terms_are_logged_once_and_requested_less_often(
    clock: VirtualClock, stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    node = await stand("node")
    taken: list[Term] = []
    for _ in range(1200):
        await clock.advance(0.1)
        if node.election.term is not None:
            taken.append(node.election.term)
            node.election.depose(node.election.term)
    assert 6 <= len(taken) <= 12
    (warning,) = [one for one in logged(caplog) if one.levelno == logging.WARNING]
    assert taken[0].coordinator in warning.getMessage()
    await clock.advance(120)
    assert node.election.term is not None
    node.election.depose(node.election.term)
    await clock.advance(0.1)
    assert node.election.is_leader
    assert len([one for one in logged(caplog) if one.levelno == logging.WARNING]) == 2


async def test_the_pauses_after_refused_terms_have_a_limit(clock: VirtualClock, stand: Stand) -> None:
    node = await stand("node")
    led: list[float] = []
    for _ in range(2500):
        await clock.advance(0.1)
        if node.election.term is not None:
            led.append(clock.elapsed())
            node.election.depose(node.election.term)
    gaps = [later - earlier for earlier, later in pairwise(led)]
    assert MAX_PAUSE - 1 < max(gaps) < MAX_PAUSE + 1
    assert len([gap for gap in gaps if gap > MAX_PAUSE - 1]) > 3


async def test_stopping_takes_a_bounded_time_without_an_answer(clock: VirtualClock, stand: Stand) -> None:
    node = await stand("node")
    await clock.advance(1)
    node.flaky.stall("resign", "campaign")
    await clock.run(node.election.stop(), TTL)
    await clock.run(node.election.stop(), 0.1)


async def test_a_resignation_waits_for_the_campaign_under_way(clock: VirtualClock, stand: Stand) -> None:
    """Given up on, that could still be served after the resignation, and a node that is gone would lead."""
    node = await stand("node")
    other = await stand("other")
    await clock.advance(1)
    assert node.election.is_leader
    fault = node.flaky.stall("campaign")
    await clock.run(fault.met.wait())
    stopping = asyncio.ensure_future(node.election.stop())
    await clock.settle()
    assert not node.election.is_leader
    assert node.flaky.calls["resign"] == 0
    fault.release()
    await clock.run(stopping)
    await clock.advance(0.1)
    assert other.election.is_leader


async def test_a_campaign_without_an_answer_does_not_keep_a_node_from_resigning(
    clock: VirtualClock, stand: Stand
) -> None:
    node = await stand("node")
    other = await stand("other")
    await clock.advance(1)
    fault = node.flaky.stall("campaign")
    await clock.run(fault.met.wait())
    await clock.run(node.election.stop(), TTL / 2)
    await clock.advance(0.1)
    assert other.election.is_leader


@pytest.mark.parametrize("how", ["lose", "stall"])
async def test_a_node_that_stops_before_it_knows_that_it_leads_hands_over_at_once(
    clock: VirtualClock, stand: Stand, how: str
) -> None:
    """Its very first campaign was served, but the answer never came."""
    node = await stand("node")
    fault = (node.flaky.lose_answers if how == "lose" else node.flaky.stall_answers)("campaign")
    await clock.run(fault.met.wait())
    await clock.advance(0.1)
    assert not node.election.is_leader
    other = await stand("other")
    await clock.advance(1.5)
    assert not other.election.is_leader
    await clock.run(node.election.stop(), TTL / 2)
    await clock.advance(1.1)
    assert other.election.is_leader


async def test_trust_in_a_term_counts_from_before_the_request(clock: VirtualClock, stand: Stand) -> None:
    node, asked_at = await stand("node"), clock.elapsed()
    node.flaky.slow(0.9, "campaign", times=1)
    await clock.advance(0.91)
    assert node.election.is_leader
    node.flaky.stall("campaign")
    end = asked_at + TTL - min(1.0, TTL / 5)
    await clock.advance(end - 0.05 - clock.elapsed())
    assert node.election.is_leader
    await clock.advance(0.1)
    assert not node.election.is_leader


class Restless(FlakyElections):
    """A leadership that seems to change hands all the time."""

    def __init__(self, store: FlakyStore) -> None:
        super().__init__(store)
        self.changed = store.wrap("changed", self._changed)

    async def _changed(self, timeout: float) -> bool:
        return timeout > 0


async def test_a_leadership_that_comes_and_goes_is_no_reason_to_hurry(clock: VirtualClock) -> None:
    flaky = FlakyStore(memory_store(clock))
    node = await ElectionNode(clock, flaky.store, "node", elections=lambda: cast(Elections, Restless(flaky))).start()
    await clock.advance(10)
    assert 10 <= flaky.calls["campaign"] <= 10 / 0.02 + 1
    await clock.run(node.stop())


async def test_a_sign_that_fails_is_no_reason_to_hurry(clock: VirtualClock, stand: Stand) -> None:
    node = await stand("node")
    await clock.advance(1)
    node.flaky.fail("changed")
    node.flaky.calls.clear()
    await clock.advance(10)
    assert 10 <= node.flaky.calls["campaign"] <= 15
    assert node.election.is_leader


@pytest.mark.parametrize("seed", seeds(range(5)))
async def test_of_twenty_candidates_that_pause_and_die_never_two_act(seed: int) -> None:
    with VirtualClock(seed=seed) as clock:
        url = shared_url()
        nodes = [await ElectionNode(clock, memory_store(clock, url), f"n{at}").start(cron=False) for at in range(20)]
        reigns = Reigns(nodes)
        random = clock.random
        alone = 0.0
        for _ in range(1_500):
            await clock.advance(0.1)
            acting = reigns.acting()
            alone = 0.0 if acting else alone + 0.1
            # until the lease ends and a candidate campaigns, and once more where that answer is lost
            assert alone < TTL + 2
            for one in acting:
                match random.randrange(60):
                    case 0:
                        one.pause()
                    case 1:
                        one.flaky.fail("campaign", times=random.randrange(12))
                    case 2:
                        one.flaky.lose_answers("campaign")
                    case 3:
                        one.may_lead = False
                    case 4:
                        await clock.run(one.election.stop())
                        one.election.start()
                    case 5:
                        await one.kill()
                        at = nodes.index(one)
                        nodes[at] = await ElectionNode(clock, memory_store(clock, url), one.name).start(cron=False)
                    case _:
                        pass
            for one in random.sample(nodes, 3):
                if random.random() < 0.05:
                    one.resume()
                    one.may_lead = True
        assert len(reigns.order) > 10
        reigns.check()
        for one in nodes:
            one.flaky.heal()
            with contextlib.suppress(TimeoutError):
                await clock.run(one.stop())
