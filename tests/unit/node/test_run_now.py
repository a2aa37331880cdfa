"""`run_now`: a delayed, snoozed or retried instance runs at once; each other instance stays as it is."""

import asyncio
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest

from peerjob import (
    INJECTED,
    Context,
    Instance,
    Job,
    Node,
    NodeStateError,
    OptionError,
    State,
    UnknownInstanceError,
)
from peerjob.model.ids import IdSource
from peerjob.testing import TestCluster, VirtualClock, running_node
from support.factories import flaky_store, notes_of, running_nodes, shared_url

RUNS = Counter[str]()


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    """Two virtual clocks make the same ids."""
    RUNS.clear()


async def work(instance: Instance[Any] = INJECTED) -> int:
    RUNS[instance.id] += 1
    return RUNS[instance.id]


async def doze(context: Context, instance: Instance[Any] = INJECTED) -> int:
    RUNS[instance.id] += 1
    if RUNS[instance.id] == 1:
        raise context.snooze("1h")
    return RUNS[instance.id]


def stumble(instance: Instance[Any] = INJECTED) -> int:
    RUNS[instance.id] += 1
    if RUNS[instance.id] == 1:
        raise ValueError("not yet")
    return RUNS[instance.id]


async def hang() -> None:
    await asyncio.Event().wait()


WORK, DOZE = Job("work", work, after="1h", tags=["t"], key="k"), Job("doze", doze)
STUMBLE, HANG = Job("stumble", stumble, max_retries=3, backoff="1h", priority=7), Job("hang", hang)


@pytest.mark.parametrize(("job", "attempts", "runs"), [(WORK, 0, 1), (DOZE, 0, 2), (STUMBLE, 1, 2)])
async def test_one_that_waits_runs_at_once(
    clock: VirtualClock, job: Job[..., Any, Any], attempts: int, runs: int
) -> None:
    async with running_node(job, clock=clock) as node:
        instance = await node.schedule(job)
        await clock.advance(60)
        before = await instance.refresh()
        assert (before.state, before.attempts, (await node.stats()).delayed) == (State.SCHEDULED, attempts, 1)
        notes, options = await notes_of(instance), (before.priority, before.tags, before.key)

        assert await instance.run_now()
        assert (await instance.refresh()).record.due_us == clock.time_us()
        assert await clock.run(instance.result()) == runs
        assert clock.time_us() - instance.record.due_us < 1_000_000
        assert (instance.attempts, instance.priority, instance.tags, instance.key) == (attempts + 1, *options)
        assert await notes_of(instance) == [*notes, "Processing", "Completed"]


async def test_a_node_on_another_host_is_woken(clock: VirtualClock) -> None:
    """The one that makes the call has no workers, and the other one has slept for minutes."""
    url = shared_url()
    async with (
        running_node(WORK, clock=clock, store=url, name="worker"),
        running_node(clock=clock, store=url, workers=0, name="web") as web,
    ):
        instance = await web.schedule(WORK)
        await clock.advance("10m")
        before = clock.elapsed()
        assert await web.run_now(instance.uuid)
        assert await clock.run(instance.result()) == 1
        assert clock.elapsed() - before < 0.1


async def test_one_that_is_due_stays_as_it_is(clock: VirtualClock) -> None:
    async with running_node(clock=clock, workers=0) as node:
        first, second = await node.schedule(HANG), await node.schedule(HANG)
        await clock.advance(1)
        before = [(await one.refresh()).record for one in (first, second)]
        assert not await first.run_now()
        assert not await node.run_now(second.id)
        assert [(await one.refresh()).record for one in (first, second)] == before


async def test_others_are_refused_with_their_state(clock: VirtualClock) -> None:
    async with running_node(DOZE, HANG, clock=clock) as node:
        final, running = await node.schedule(HANG), await node.schedule(HANG)
        await clock.advance(1)
        await final.cancel()
        parked = HANG.with_options(name="parked", every="1d", overlap="queue")
        await node.add_schedule(parked)
        await node.trigger_schedule("parked")
        waits = await node.trigger_schedule("parked")
        assert waits is not None
        for one, text in (
            (final, "is Cancelled; only one that waits can run now"),
            (running, "is Processing; only one that waits can run now"),
            (waits, "is Scheduled, and waits for an earlier instance of its schedule"),
        ):
            before = (await node.lookup_instance(one.id)).record
            with pytest.raises(NodeStateError, match=f"instance {one.id} {text}"):
                await one.run_now()
            assert (await node.lookup_instance(one.id)).record == before
        unknown = str(uuid4())
        with pytest.raises(UnknownInstanceError, match=unknown):
            await node.run_now(unknown)
        with pytest.raises(OptionError, match="uuid"):
            await node.run_now("x")


async def test_the_schedule_of_a_recurring_job_is_untouched(clock: VirtualClock) -> None:
    tick = Job("tick", doze, every="1d", name="tick")
    async with running_node(tick, clock=clock) as node:
        instance = await node.trigger_schedule("tick")
        assert instance is not None
        await clock.advance(60)
        before, fires = (await node.lookup_schedule("tick")).row, [one.record for one in await node.fires("tick")]
        assert await instance.run_now()
        assert (await node.lookup_schedule("tick")).row == before
        assert await clock.run(instance.result()) == 2
        assert [one.record for one in await node.fires("tick")] == fires


async def test_a_repeat_has_the_answer_of_the_first_on_each_node(clock: VirtualClock) -> None:
    async with running_nodes(clock, "a", "b", jobs=[DOZE.with_options(after="1h")]) as (one, two):
        instance = await one.schedule("doze")
        id = IdSource(clock).one()
        assert await one.run_now(instance.id, id=id)
        await clock.advance(10)
        assert (await instance.refresh()).state is State.SCHEDULED, "it snoozed"
        for node in (two, one, two):
            assert await node.run_now(instance.id, id=id.upper())
        await clock.advance(10)
        assert RUNS[instance.id] == 1
        assert await two.run_now(instance.id, id=IdSource(clock).one())
        assert await clock.run(instance.result()) == 2
        assert await two.run_now(instance.id, id=id)
        with pytest.raises(NodeStateError, match="is Completed"):
            await two.run_now(instance.id)


async def test_a_call_whose_answer_the_store_lost_acts_once(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(DOZE.with_options(after="1h"), clock=clock, store=flaky.store) as node:
        instance = await node.schedule("doze")
        flaky.repeat("run_now", times=1)
        assert await instance.run_now()
        await clock.advance(10)
        assert RUNS[instance.id] == 1
        assert (await instance.refresh()).state is State.SCHEDULED, "it snoozed"


@pytest.mark.parametrize("id", ["x", "bff6212e-ba3e-41ac-904e-2baf1abfdf45", "01900000-0000-7000-8000-000000000000"])
async def test_an_id_of_another_time_is_refused(clock: VirtualClock, id: str) -> None:
    async with running_node(clock=clock, workers=0) as node:
        instance = await node.schedule(WORK)
        with pytest.raises(OptionError, match="UUID"):
            await instance.run_now(id=id)
        assert (await node.stats()).delayed == 1


async def test_watchers_see_no_change_of_state(clock: VirtualClock) -> None:
    async with running_node(WORK, clock=clock) as node:
        instance = await node.schedule(WORK)

        async def watch() -> list[State | None]:
            return [event.state async for event in instance.watch()]

        watching = asyncio.create_task(watch())
        await clock.advance(1)
        await instance.run_now()
        assert await clock.run(watching) == [State.SCHEDULED, State.PROCESSING, State.COMPLETED]


async def test_a_cluster_in_a_test_runs_it_too() -> None:
    async with TestCluster(jobs=[WORK], nodes=2) as cluster:
        instance = await cluster.schedule("work")
        assert await instance.run_now()
        await cluster.advance(1)
        assert await instance.result() == 1


def test_the_blocking_twins() -> None:
    with Node("memory://", jobs=[WORK]).blocking() as manager:
        one, two = manager.schedule(WORK), manager.schedule(WORK.with_options(key="other"))
        assert one.run_now()
        assert manager.run_now(two.id)
        assert (one.result(30), two.result(30)) == (1, 1)
