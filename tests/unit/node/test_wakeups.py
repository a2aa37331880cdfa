"""What lets a node claim: each event alone, while renewals tell of no work and hints are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from peerjob import Job, Node
from peerjob.model.record import Claimed, Renewed
from peerjob.model.spec import Spec, encode, encode_arguments
from peerjob.node.work.claim_loop import MAX_WAIT
from peerjob.node.work.run import PROBATION
from peerjob.testing import VirtualClock, running_node
from peerjob.testing.factories import Factory
from support.factories import flaky_store
from support.flaky import FlakyStore

AT_ONCE = 0.05
HOUR = 3_600.0


class Work:
    """Notes when each body began. `seconds` is how long a body takes."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.began: list[float] = []

    async def __call__(self, seconds: float = HOUR) -> None:
        self.began.append(self.clock.elapsed())
        await asyncio.sleep(seconds)


def untold(answer: Renewed) -> Renewed:
    return replace(answer, work_due=None if answer.dead else False)


def tell_nothing(flaky: FlakyStore) -> None:
    flaky.change_answers(untold, "renew", times=None)
    flaky.lose_hints()


@pytest.fixture
def flaky(clock: VirtualClock) -> FlakyStore:
    """A store whose hints and other signs of work do not reach the node."""
    flaky = flaky_store(clock)
    tell_nothing(flaky)
    return flaky


@pytest.fixture
def work(clock: VirtualClock) -> Work:
    return Work(clock)


async def add(clock: VirtualClock, flaky: FlakyStore, *seconds: float, crashes: int = 0, delay: float = 0) -> None:
    """Add instances, which another node scheduled."""
    make = Factory(clock)
    for one in seconds:
        spec = encode(Spec(args=encode_arguments((one,), {})))
        delay_us = round(delay * 1_000_000) or None
        await flaky.inner.enqueue([make.instance(spec=spec, crashes=crashes, max_crashes=9, delay_us=delay_us)])


async def test_suspects_follow_each_other_by_their_probation(
    clock: VirtualClock, flaky: FlakyStore, work: Work
) -> None:
    await flaky.inner.open()
    await add(clock, flaky, *[HOUR] * 5, crashes=2)
    async with running_node(Job("work", work), clock=clock, store=flaky.store, workers=10):
        await clock.advance(4 * PROBATION + 1)
        gaps = [later - earlier for earlier, later in zip(work.began, work.began[1:], strict=False)]
        assert len(gaps) == 4
        assert all(PROBATION <= gap <= PROBATION + AT_ONCE for gap in gaps), gaps


async def test_a_suspect_that_ends_lets_the_next_one_begin(clock: VirtualClock, flaky: FlakyStore, work: Work) -> None:
    await flaky.inner.open()
    await add(clock, flaky, *[0.5] * 5, crashes=2)
    async with running_node(Job("work", work), clock=clock, store=flaky.store, workers=10):
        await clock.advance(3)
        gaps = [later - earlier for earlier, later in zip(work.began, work.began[1:], strict=False)]
        assert len(gaps) == 4
        assert all(0.5 <= gap <= 0.5 + AT_ONCE for gap in gaps), gaps


async def test_a_worker_that_becomes_free_claims(clock: VirtualClock, flaky: FlakyStore, work: Work) -> None:
    await flaky.inner.open()
    await add(clock, flaky, 7.3)
    async with running_node(Job("work", work), clock=clock, store=flaky.store, workers=1):
        await clock.advance(5)
        await add(clock, flaky, HOUR)
        await clock.advance(7.3)
        assert len(work.began) == 2
        assert work.began[1] - work.began[0] == pytest.approx(7.3, abs=AT_ONCE)


async def test_a_delayed_instance_begins_when_it_is_due(clock: VirtualClock, flaky: FlakyStore, work: Work) -> None:
    await flaky.inner.open()
    await add(clock, flaky, HOUR, delay=20)
    due_at = clock.elapsed() + 20
    async with running_node(Job("work", work), clock=clock, store=flaky.store, workers=2):
        await clock.advance(21)
        assert due_at <= work.began[0] <= due_at + AT_ONCE


async def registers(node: Node, _flaky: FlakyStore, work: Work) -> None:
    node.register(Job("work", work))


async def resizes(node: Node, _flaky: FlakyStore, _work: Work) -> None:
    await node.resize_workers(3)


async def drains_and_returns(node: Node, _flaky: FlakyStore, _work: Work) -> None:
    await node.undrain()


@pytest.mark.parametrize("event", [registers, resizes, drains_and_returns])
async def test_an_event_of_the_node_itself_lets_it_claim(
    clock: VirtualClock,
    flaky: FlakyStore,
    work: Work,
    event: Callable[[Node, FlakyStore, Work], Awaitable[None]],
) -> None:
    jobs = [Job("other", work)] if event is registers else [Job("work", work)]
    workers = 0 if event is resizes else 2
    for number in range(5):
        work.began.clear()
        async with running_node(jobs, clock=clock, store=flaky.store, workers=workers) as node:
            if event is drains_and_returns:
                await node.drain(1)
            await add(clock, flaky, 0.1)
            await clock.advance(10 + 0.37 * number)
            assert work.began == []
            at = clock.elapsed()
            await event(node, flaky, work)
            await clock.advance(AT_ONCE)
            assert len(work.began) == 1
            assert work.began[0] - at <= AT_ONCE
            await clock.advance(1)
        flaky = flaky_store(clock)
        tell_nothing(flaky)


async def test_a_node_claims_when_its_lease_is_renewed_again(
    clock: VirtualClock, flaky: FlakyStore, work: Work
) -> None:
    async with running_node(Job("work", work), clock=clock, store=flaky.store, workers=2) as node:
        await clock.advance(3)
        flaky.heal()
        failing = flaky.fail("renew")
        tell_nothing(flaky)
        await clock.advance(node.lease_ttl)
        await add(clock, flaky, HOUR)
        await clock.advance(3)
        assert work.began == []
        failing.release()
        renewed = flaky.calls["renew"]
        while flaky.calls["renew"] == renewed:
            await clock.advance(0.01)
        at = clock.elapsed()
        await clock.advance(AT_ONCE)
        assert [began - at <= AT_ONCE for began in work.began] == [True]


async def test_a_node_claims_when_a_renewal_fails(clock: VirtualClock, flaky: FlakyStore, work: Work) -> None:
    """No answer tells it that no work is due."""
    async with running_node(Job("work", work), clock=clock, store=flaky.store, workers=2) as node:
        await clock.advance(10)
        flaky.heal()
        failing = flaky.fail("renew", times=1)
        tell_nothing(flaky)
        await add(clock, flaky, HOUR, crashes=2)  # a suspect, which no claim with a hint brings
        await clock.run(asyncio.wait_for(failing.met.wait(), node.lease_ttl))
        assert work.began == []
        await clock.advance(AT_ONCE)
        assert len(work.began) == 1


async def test_a_due_time_is_trusted_for_a_minute(clock: VirtualClock, flaky: FlakyStore, work: Work) -> None:
    """Clocks drift: an answer of the store must not put off the next claim for an hour."""

    def an_hour_later(answer: tuple[object, Claimed]) -> tuple[object, Claimed]:
        acks, claimed = answer
        due_us = None if claimed.next_due_us is None else claimed.next_due_us + round(HOUR * 1_000_000)
        return acks, replace(claimed, next_due_us=due_us)

    await flaky.inner.open()
    await add(clock, flaky, HOUR, delay=20)
    flaky.change_answers(an_hour_later, "turn", times=None)
    async with running_node(Job("work", work), clock=clock, store=flaky.store, workers=2):
        await clock.advance(2 * MAX_WAIT)
        assert len(work.began) == 1
