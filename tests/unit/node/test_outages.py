"""What a node makes of a store that is away, slow, full or wrong."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from peerjob import (
    INJECTED,
    Context,
    Instance,
    Job,
    Node,
    OptionError,
    Query,
    State,
    StoreFullError,
    StoreUnavailableError,
)
from peerjob.testing import VirtualClock, drain, running_node
from support.factories import flaky_store, lines_of, running_nodes, shared_url, states_of
from support.records import logged

VERBS = [
    "turn",
    "enqueue",
    "next_hints",
    "renew",
    "reap",
    "watch_final",
    "watch_changes",
    "get",
    "get_ended",
    "lookup",
    "health",
]


async def sleep(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


SLEEP = Job("sleep", sleep)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("seconds", [2, 12])
async def test_whichever_verb_fails_for_a_while_the_node_goes_on_by_itself(
    clock: VirtualClock, verb: str, seconds: float
) -> None:
    """The classic complaint is a worker that is alive after an outage and consumes nothing."""
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store, workers=3) as node:
        watching = asyncio.ensure_future(anext(node.watch()))
        backlog = await node.schedule_many(SLEEP.call(0.5) for _ in range(10))
        await clock.advance(0.2)
        flaky.fail(verb)
        await clock.advance(seconds)
        flaky.heal()
        await drain(node)
        instance = await node.schedule(SLEEP, 1)
        assert await clock.run(instance.result()) == 1
        for one in backlog:
            assert (await one.refresh()).state is State.COMPLETED
            assert one.attempts == 1
        watching.cancel()


@pytest.mark.parametrize("verb", VERBS)
async def test_whichever_verb_stalls_the_node_goes_on_when_it_answers(clock: VirtualClock, verb: str) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store, workers=3) as node:
        backlog = [await node.schedule(SLEEP, 0.5) for _ in range(10)]
        await clock.advance(0.2)
        stall = flaky.stall(verb)
        await clock.advance(3)
        stall.release()
        await drain(node)
        assert {(await one.refresh()).attempts for one in backlog} == {1}


async def test_a_renewal_that_waited_in_vain_is_repeated_at_once(clock: VirtualClock) -> None:
    """After an outage, peers give it no more than one ttl to come back."""
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store, lease_ttl=5) as node:
        await clock.advance(2)
        stall, before = flaky.stall("renew"), flaky.calls["renew"]
        await clock.advance(5.5)
        assert flaky.calls["renew"] - before >= 4
        await clock.advance(30)
        stall.left = 0  # the store is back, and the renewal that hangs stays without an answer
        await clock.advance(4)
        assert node.is_healthy
        stall.release()


async def test_an_outage_is_logged_once_for_each_role(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        await node.schedule(SLEEP, 1)
        await clock.advance(0.5)
        caplog.clear()
        flaky.fail()
        await clock.advance(60)
        assert 1 <= len([one for one in logged(caplog) if "cannot reach" in one.message]) <= 6
        assert not [one for one in logged(caplog) if one.exc_info]


async def test_what_ended_during_an_outage_is_committed_after_it_and_runs_once(clock: VirtualClock) -> None:
    flaky, runs = flaky_store(clock), Counter[int]()

    async def work(number: int, instance: Instance[Any] = INJECTED) -> int:
        runs[number] += 1
        await asyncio.sleep(1)
        instance.log.info("number %d", number)
        return number

    job = Job("work", work)
    async with running_node(job, clock=clock, store=flaky.store, workers=50) as node:
        instances = [await node.schedule(job, number) for number in range(50)]
        await clock.advance(0.5)
        flaky.fail("turn")
        await clock.advance(20)
        assert {(await one.refresh()).state for one in instances} == {State.PROCESSING}
        flaky.heal()
        await drain(node)
        for number, instance in enumerate(instances):
            assert await instance.result() == number
            assert await lines_of(instance) == [f"number {number}"]
        assert set(runs.values()) == {1}


async def test_a_commit_whose_answer_was_lost_is_not_applied_twice(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        instance = await node.schedule(SLEEP, 1)
        await clock.advance(0.5)
        flaky.lose_answers("turn", times=4)
        assert await clock.run(instance.result()) == 1
        assert await states_of(instance) == ["Created", "Scheduled", "Processing", "Completed"]


async def test_while_nothing_can_be_committed_nothing_new_is_started(clock: VirtualClock) -> None:
    """A store that takes no commits must not fill the memory with outcomes."""
    flaky, started = flaky_store(clock), Counter[str]()

    async def quick() -> str:
        started["quick"] += 1
        return "x" * 200_000

    job = Job("quick", quick)
    async with running_node(job, clock=clock, store=flaky.store, workers=100) as node:
        await node.schedule_many(job.call() for _ in range(300))
        flaky.stall("turn")
        await clock.advance(0.05)
        flaky.heal()
        await clock.advance(0.001)
        begun = started["quick"]
        flaky.fail("turn")
        await clock.advance(4)
        assert started["quick"] - begun <= 150
        flaky.heal()
        await drain(node)
        assert await node.count(Query(state=State.COMPLETED)) == 300


async def test_scheduling_during_an_outage_raises_and_stores_nothing(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        flaky.fail()
        for attempt in (
            node.schedule(SLEEP, 1),
            node.schedule_many([SLEEP.call(1)]),
            node.count(),
            node.lookup_instances(),
            node.cancel_instances(Query.all()),
        ):
            with pytest.raises(StoreUnavailableError):
                await attempt
        results = await asyncio.gather(*(node.schedule(SLEEP, 1) for _ in range(20)), return_exceptions=True)
        assert {type(one) for one in results} == {StoreUnavailableError}
        flaky.heal()
        assert await node.count() == 0
        assert await clock.run((await node.schedule(SLEEP, 1)).result()) == 1


async def test_an_enqueue_whose_answer_was_lost_may_be_sent_again(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        flaky.lose_answers("enqueue")
        with pytest.raises(StoreUnavailableError):
            await node.schedule(SLEEP.with_options(key="once"), 1)
        again = await node.schedule(SLEEP.with_options(key="once"), 1)
        assert not again.is_new  # it was stored; the key finds it
        assert await clock.run(again.result()) == 1
        assert await node.count() == 1


async def test_a_cancelled_schedule_does_not_keep_others_waiting(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        stall = flaky.stall("enqueue", times=1)
        first = asyncio.ensure_future(node.schedule(SLEEP, 1))
        await stall.met.wait()
        others = [asyncio.ensure_future(node.schedule(SLEEP, 1)) for _ in range(3)]
        await clock.settle()
        others[1].cancel()
        first.cancel()
        await clock.settle()
        assert [(await clock.run(one)).kind for one in (others[0], others[2])] == ["sleep", "sleep"]


async def test_a_full_store_refuses_new_work_and_finishes_what_is_under_way(clock: VirtualClock) -> None:
    url = f"{shared_url()}?max_keys=400"
    async with running_node(SLEEP, clock=clock, store=url, workers=2) as node:
        kept: list[Instance[float]] = []

        async def fill(at_a_time: int) -> None:
            for _ in range(400):
                kept.extend(await node.schedule_many(SLEEP.call(0.1) for _ in range(at_a_time)))

        for at_a_time in (1, 5):
            with pytest.raises(StoreFullError):
                await fill(at_a_time)
        assert len(kept) > 10
        await drain(node)
        assert {(await one.refresh()).state for one in kept} == {State.COMPLETED}
        await node.clear_instances()
        assert await clock.run((await node.schedule(SLEEP, 1)).result()) == 1


async def test_a_store_that_cannot_be_reached_at_start_leaves_nothing_behind(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    flaky.fail()
    node = Node(flaky.store, clock=clock)
    with pytest.raises(StoreUnavailableError):
        await clock.run(node.start())
    assert not node.running
    await clock.advance(10)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    flaky.heal()
    await node.start()
    assert await node.count() == 0
    await clock.run(node.stop())


@pytest.mark.parametrize(("seconds", "told"), [(0.3, 0), (1.5, 1)])
async def test_a_node_that_waits_for_its_store_at_start_says_so(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture, seconds: float, told: int
) -> None:
    flaky = flaky_store(clock)
    flaky.slow(seconds, "open")
    node = Node(flaky.store, clock=clock, name="a")
    await clock.run(node.start())
    await clock.run(node.stop())
    expected = f"node 'a' waits for the store at {flaky.store.url}, for 5 s at most"
    assert [one.getMessage() for one in logged(caplog)] == [expected] * told


async def test_a_join_that_fails_leaves_nothing_behind(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    flaky.fail("join")
    node = Node(flaky.store, clock=clock)
    with pytest.raises(StoreUnavailableError):
        await clock.run(node.start())
    await clock.advance(10)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_owner_checks_during_an_outage_raise_and_do_not_lie(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)

    async def work(ctx: Context = INJECTED) -> str:
        flaky.fail("get")
        try:
            await ctx.assert_owner()
        except StoreUnavailableError:
            return "not known"
        finally:
            flaky.heal()
        return "known"

    async with running_node(Job("work", work), clock=clock, store=flaky.store) as node:
        assert await clock.run((await node.schedule("work")).result()) == "not known"


async def test_local_callables_are_kept_on_a_store_of_this_process(clock: VirtualClock) -> None:
    def fail() -> None:
        raise ValueError

    seen: list[str] = []
    job = Job("fail", fail)
    async with running_nodes(clock, "web", "worker", jobs=job) as (web, _):
        variant = job.with_options(
            max_retries=1,
            backoff=lambda instance, error: 2,
            retry_on=lambda error: isinstance(error, ValueError),
            on_terminate=lambda instance, error: seen.append(type(error).__name__),
        )
        instance = await web.schedule(variant)
        await drain(web)
        assert (await instance.refresh()).attempts == 2
        assert seen == ["ValueError", "ValueError"]


async def test_local_callables_are_refused_for_a_store_that_others_share() -> None:
    job = Job("sleep", sleep)
    node = Node("redis://127.0.0.1:1", jobs=job)
    options: list[dict[str, Any]] = [
        {"on_complete": lambda instance, result: None},
        {"retry_on": lambda error: True},
        {"backoff": lambda instance, error: 1},
        {"on_terminate": Job("x", sleep)},
    ]
    for one in options:
        with pytest.raises(OptionError, match="importable"):
            node._call_encoder.new(job.with_options(**one).call(1))  # pyright: ignore[reportPrivateUsage]
