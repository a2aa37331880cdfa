"""What a node claims, when, and how much ahead; and what it makes of instances that killed nodes before."""

import asyncio
import logging
from collections import Counter
from typing import Annotated, Any

import pytest
from msgspec import structs
from pydantic import BeforeValidator

from peerjob import Job, Node, Query, State
from peerjob.model.spec import Spec, decode_spec
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import drain, running_node
from support.factories import flaky_store, notes_of, running_nodes, shared_url
from support.flaky import FlakyStore


async def test_room_for_quick_kinds_does_not_make_slow_ones_wait(clock: VirtualClock) -> None:
    """Claims made while every worker is busy ask for quick kinds alone; that they find nothing says nothing."""

    async def quick() -> None:
        pass

    async def slow() -> None:
        await asyncio.sleep(0.2)

    async with running_node(Job("quick", quick), Job("slow", slow), clock=clock, workers=2) as node:
        await node.schedule("quick")
        await drain(node)
        began = clock.elapsed()

        for _ in range(20):
            await node.schedule("slow")
        await drain(node)

        assert clock.elapsed() - began < 3.0


class Poison:
    """Kills its node after a while: everything that the node would say from then on is lost."""

    def __init__(self, after: float) -> None:
        self.after = after
        self.flaky: FlakyStore | None = None
        self.killed = 0

    async def __call__(self) -> None:
        await asyncio.sleep(self.after)
        self.killed += 1
        assert self.flaky is not None
        self.flaky.fail()
        await asyncio.sleep(3600)


async def run_with_poison(
    clock: VirtualClock, url: str, jobs: list[Job[..., Any, Any]], poison: Poison, nodes: int, workers: int = 10
) -> None:
    """Let one node after another take the work up, each until it dies."""
    for number in range(nodes):
        poison.flaky = flaky_store(clock, url)
        node = Node(poison.flaky.store, jobs=jobs, clock=clock, name=f"node {number}", workers=workers)
        await node.start()
        await clock.advance(7)
        await clock.run(node.stop(grace=0))


async def test_a_poison_job_is_parked_and_its_neighbours_complete(clock: VirtualClock) -> None:
    url, poison = shared_url(), Poison(after=0.3)

    async def good(number: int) -> int:
        await asyncio.sleep(2.5)
        return number

    jobs: list[Job[..., Any, Any]] = [Job("poison", poison), Job("good", good)]
    async with running_node(clock=clock, store=url, workers=0, name="web") as web:
        deadly = await web.schedule(jobs[0])
        neighbours = [await web.schedule(jobs[1], number) for number in range(9)]
        await run_with_poison(clock, url, jobs, poison, nodes=6)
        await clock.advance(30)
        await deadly.refresh()

        assert deadly.state is State.TERMINATED
        assert poison.killed == 4
        assert (deadly.crashes, deadly.attempts) == (4, 0)
        assert any("poison" in note for note in await notes_of(deadly))
        async with running_node(jobs, clock=clock, store=url, name="last") as last:
            await drain(last)
        for number, neighbour in enumerate(neighbours):
            assert await clock.run(neighbour.result()) == number
            assert neighbour.crashes + neighbour.losses <= 2


async def test_max_crashes_is_an_option(clock: VirtualClock) -> None:
    url, poison = shared_url(), Poison(after=0.3)
    job = Job("poison", poison, max_crashes=0)
    async with running_node(clock=clock, store=url, workers=0, name="web") as web:
        deadly = await web.schedule(job)
        await run_with_poison(clock, url, [job], poison, nodes=2)
        await clock.advance(10)
        assert poison.killed == 1
        assert (await deadly.refresh()).state is State.TERMINATED


async def test_a_poison_job_that_kills_before_its_start_is_reported_is_parked_too(clock: VirtualClock) -> None:
    url, poison = shared_url(), Poison(after=0)
    job = Job("poison", poison)
    async with running_node(clock=clock, store=url, workers=0, name="web") as web:
        deadly = await web.schedule(job)
        await run_with_poison(clock, url, [job], poison, nodes=8)
        assert (await deadly.refresh()).state is State.TERMINATED
        assert (poison.killed, deadly.losses, deadly.crashes) == (6, 2, 4)


@pytest.mark.parametrize("where", ["the record", "the arguments"])
async def test_an_instance_that_kills_while_it_is_read_is_parked_too(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    url, poison = shared_url(), Poison(after=3600)

    def deadly_text(text: str) -> str:
        if where == "the arguments" and poison.flaky is not None:
            poison.killed += 1
            poison.flaky.fail()
        return text

    def deadly_spec(data: bytes) -> Spec:
        if where == "the record" and poison.flaky is not None:
            poison.killed += 1
            poison.flaky.fail()
        return decode_spec(data)

    async def work(text: Annotated[str, BeforeValidator(deadly_text)]) -> None:
        await poison()

    monkeypatch.setattr("peerjob.node.work.runner.decode_spec", deadly_spec)
    job = Job("poison", work)
    async with running_node(clock=clock, store=url, workers=0, name="web") as web:
        deadly = await web.schedule(Job("poison"), "x", allow_unknown=True)
        await run_with_poison(clock, url, [job], poison, nodes=8)
        found = await deadly.refresh()
        assert (found.state, found.losses, found.crashes) == (State.TERMINATED, 2, 4)


async def test_suspects_run_one_at_a_time_while_they_are_young_and_others_go_on(clock: VirtualClock) -> None:
    url, running, most = shared_url(), Counter[str](), Counter[str]()

    async def work(kind: str, seconds: float) -> None:
        running[kind] += 1
        most[kind] = max(most[kind], running[kind])
        await asyncio.sleep(seconds)
        running[kind] -= 1

    job = Job("work", work, max_crashes=10)
    async with running_node(clock=clock, store=url, workers=0, name="web") as web:
        suspects = await web.schedule_many(job.call("suspect", 1.5) for _ in range(4))
        for number in range(2):  # go down with two nodes
            flaky = flaky_store(clock, url)
            async with running_node(job, clock=clock, store=flaky.store, name=f"doomed {number}"):
                await clock.advance(1)
                flaky.fail()
            running.clear()
            await clock.advance(7)
        assert {(one.crashes + one.losses) for one in [await each.refresh() for each in suspects]} == {2}
        most.clear()
        fresh = await web.schedule_many(job.call("fresh", 1.5) for _ in range(8))
        async with running_node(job, clock=clock, store=url, name="last", workers=10) as last:
            await drain(last)
        assert (most["suspect"], most["fresh"]) == (1, 8)
        assert {(await one.refresh()).state for one in (*suspects, *fresh)} == {State.COMPLETED}


async def test_a_slow_kind_is_not_claimed_ahead(clock: VirtualClock) -> None:
    async def slow() -> None:
        await asyncio.sleep(5)

    job = Job("slow", slow)
    async with running_nodes(clock, "a", "b", jobs=job, workers=2) as (a, _):
        await a.schedule_many(job.call() for _ in range(20))
        for _ in range(20):
            await clock.advance(1.1)
            assert await a.count(Query(state=State.PROCESSING)) <= 4
        await drain(a)


async def test_a_short_kind_is_claimed_ahead_by_a_little(clock: VirtualClock) -> None:
    async def short() -> None:
        await asyncio.sleep(0.002)

    job = Job("short", short)
    async with running_node(job, clock=clock, workers=2) as node:
        await node.schedule_many(job.call() for _ in range(500))
        most = 0
        for _ in range(100):
            await clock.advance(0.002)
            most = max(most, await node.count(Query(state=State.PROCESSING)))
        assert 4 < most <= 2 + 2 * 10 + 2
        await drain(node)


async def test_a_view_of_a_node_counts_what_runs_and_not_what_is_claimed_ahead(clock: VirtualClock) -> None:
    async def short() -> None:
        await asyncio.sleep(0.02)

    job = Job("short", short)
    async with running_node(job, clock=clock, workers=2) as node:
        await node.schedule_many(job.call() for _ in range(500))
        seen, ahead = set[int](), False
        for _ in range(45):
            await clock.advance(0.1)
            seen |= {view.running for view in await node.nodes()}
            ahead = ahead or await node.count(Query(state=State.PROCESSING)) > 4
        assert ahead
        assert max(seen) in {1, 2}
        await drain(node)


async def test_what_was_claimed_ahead_and_does_not_start_within_a_tenth_is_handed_back(clock: VirtualClock) -> None:
    wait = 0.01

    async def changing() -> None:
        await asyncio.sleep(wait)

    job = Job("changing", changing)
    async with running_nodes(clock, "a", "b", jobs=job, workers=2) as (a, b):
        b.unregister("changing")
        for _ in range(3):  # it seems to be short
            instances = await a.schedule_many(job.call() for _ in range(10))
            await drain(a)
        wait = 30.0
        instances = await a.schedule_many(job.call() for _ in range(8))
        await clock.advance(0.05)
        held = [one for one in instances if (await one.refresh()).state is State.PROCESSING]
        assert len(held) > 2
        await clock.advance(0.1)
        held = [one for one in instances if (await one.refresh()).state is State.PROCESSING]
        assert len(held) == 2
        back = [one for one in instances if one not in held and len(await notes_of(one)) > 2]
        assert back != []
        for one in back:
            assert (await notes_of(one))[-1] == "Scheduled: not started in time"
            assert (await one.refresh()).attempts == 0
        # so an idle peer has them at once
        b.register(job)
        await clock.advance(0.01)
        running = await a.lookup_instances(Query(state=State.PROCESSING))
        assert sorted(str(one.node) for one in running) == ["a", "a", "b", "b"]
        await drain(a)


async def test_priority_is_judged_at_the_claim_and_a_full_queue_of_others_hides_nothing(clock: VirtualClock) -> None:
    ran: list[str] = []

    async def note(name: str) -> None:
        ran.append(name)
        await asyncio.sleep(1)

    job, other = Job("note", note), Job("other")
    async with running_node(job, clock=clock, workers=1) as node:
        await node.schedule_many(other.call(f"other {number}") for number in range(600))
        for name in ("first", "second"):
            await node.schedule(job, name)
        await clock.advance(0.5)
        await node.schedule(job.with_options(priority=0), "urgent")
        await clock.advance(10)
        assert ran == ["first", "urgent", "second"]


async def test_a_far_future_instance_never_delays_a_due_one(clock: VirtualClock) -> None:
    async with running_node(Job("now", lambda: "now"), clock=clock) as node:
        await node.schedule_many(node.job("now").with_options(after="1d", priority=-5).call() for _ in range(50))
        assert await clock.run((await node.schedule("now")).result()) == "now"
        assert clock.elapsed() < 1


async def test_a_slow_kind_is_not_starved_by_a_stream_of_quick_ones(clock: VirtualClock) -> None:
    began: list[float] = []

    async def quick() -> None:
        await asyncio.sleep(0.001)

    async def slow() -> None:
        began.append(clock.elapsed())
        await asyncio.sleep(0.2)

    stream, rare = Job("quick", quick), Job("slow", slow, priority=0)
    async with running_node(stream, rare, clock=clock, workers=4) as node:
        await node.schedule_many(stream.call() for _ in range(2000))
        await clock.advance(0.1)
        asked = clock.elapsed()
        await node.schedule_many(rare.call() for _ in range(3))
        await drain(node)
        assert len(began) == 3
        assert max(began) - asked < 0.1


async def test_the_wait_for_the_next_due_instance_is_by_the_clock_of_the_store(clock: VirtualClock) -> None:
    """Which is an hour behind the node's: the node neither asks all the time nor comes late."""
    hour_us = 3_600_000_000
    store = flaky_store(clock)

    def behind(answer: Any) -> Any:
        acks, claimed = answer
        due_us = None if claimed.next_due_us is None else claimed.next_due_us - hour_us
        return acks, structs.replace(claimed, now_us=claimed.now_us - hour_us, next_due_us=due_us)

    async def work() -> None: ...

    job = Job("work", work)
    async with running_node(job, clock=clock, store=store.store) as node:
        store.change_answers(behind, "turn", times=None)
        instance = await node.schedule(job.with_options(after=5).call())
        before = store.calls["turn"]
        await clock.advance(4.9)
        assert store.calls["turn"] - before < 20
        await clock.advance(0.3)
        assert (await instance.refresh()).state is State.COMPLETED


async def test_claims_that_are_compared_late_are_not_handed_back(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer to a renewal waits, as in an event loop that lags, until the instance that it names has completed."""
    store = flaky_store(clock)
    jobs = [Job("hold", lambda: asyncio.sleep(60)), Job("quick", lambda: None)]
    async with running_node(jobs, clock=clock, store=store.store, workers=4, lease_ttl=20) as node:
        await node.schedule("hold")  # a node that runs a body claims by rounds alone
        await clock.advance(0.5)
        claim = store.stall_answers("turn", times=1)
        quick = await node.schedule("quick")
        await clock.advance(1.2)
        assert claim.met.is_set()
        assert (await quick.refresh()).state is State.PROCESSING
        renewal = store.stall_answers("renew", times=1)
        await clock.advance(1.2)
        assert renewal.met.is_set()
        claim.release()
        await clock.advance(0.5)
        assert (await quick.refresh()).state is State.COMPLETED
        renewal.release()
        await clock.advance(3)
        assert await notes_of(quick) == ["Created", "Scheduled", "Processing", "Completed"]
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_outcomes_of_quick_bodies_are_committed_together(clock: VirtualClock) -> None:
    async def quick() -> None: ...

    job, store = Job("quick", quick), flaky_store(clock)
    async with running_node(job, store=store.store, clock=clock, workers=10) as node:
        await node.schedule_many(job.call() for _ in range(2_000))
        before = store.calls["turn"]
        await drain(node)
        assert await node.count(Query(state=State.COMPLETED)) == 2_000
        assert store.calls["turn"] - before <= 20
