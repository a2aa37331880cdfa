"""Cancelling: what waits, what runs, here and elsewhere; and that it stays so."""

import asyncio
import threading
from typing import Any

import pytest

from peerjob import (
    INJECTED,
    BlockingManager,
    Context,
    Instance,
    Job,
    JobCancelled,
    OptionError,
    Query,
    Recovered,
    State,
    SystemClock,
    UnknownInstanceError,
)
from peerjob.node.observe.observer import Observer
from peerjob.testing import VirtualClock, drain, running_node
from support.factories import flaky_store, notes_of, running_nodes, shared_url, states_of
from support.waiting import until


class Sleeper:
    """A job's body that sleeps for a minute and notes how it ended."""

    def __init__(self) -> None:
        self.began = 0
        self.reasons: list[str | None] = []

    async def __call__(self) -> str:
        self.began += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.reasons.append(Context.current().reason)
            raise
        return "slept"


async def test_a_queued_instance_never_runs(clock: VirtualClock) -> None:
    sleeper = Sleeper()
    async with running_node(clock=clock) as node:
        job = Job("sleep", sleeper)
        instance, delayed = await node.schedule(job), await node.schedule(job.with_options(after=5))
        assert await instance.cancel()
        assert await delayed.cancel()
        node.register(job)
        await clock.advance(60)

        assert sleeper.began == 0
        assert await notes_of(instance) == ["Created", "Scheduled", "Cancelled: cancelled by user"]
        assert instance.cancelled_at is not None


async def test_a_running_body_is_cancelled_and_its_worker_is_free(clock: VirtualClock) -> None:
    sleeper = Sleeper()
    job = Job("sleep", sleeper)
    async with running_node(job, clock=clock, workers=1) as node:
        instance, following = await node.schedule(job), await node.schedule(job)
        await clock.advance(1)
        assert await node.cancel_instance(instance.uuid)
        await clock.advance(0.01)

        assert sleeper.reasons == ["user"]
        assert sleeper.began == 2
        assert await states_of(instance) == ["Created", "Scheduled", "Processing", "Cancelled"]
        assert await clock.run(following.result()) == "slept"


async def test_the_answer_to_a_report_ends_the_body_of_a_cancelled_instance(clock: VirtualClock) -> None:
    """The hint is lost, and no renewal of the lease tells of the cancel, so the answer is the only sign."""
    reasons: list[str | None] = []

    async def talk(ctx: Context = INJECTED) -> None:
        for step in range(100):
            ctx.progress(step / 100)
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                reasons.append(ctx.reason)
                raise

    url = shared_url()
    job, flaky = Job("talk", talk), flaky_store(clock, url)
    async with (
        running_node(job, clock=clock, store=flaky.store),
        running_node(clock=clock, store=url, workers=0) as web,
    ):
        instance = await web.schedule(job)
        await clock.advance(0.5)
        flaky.lose_hints()
        flaky.fail("renew")
        assert await web.cancel_instance(instance.id)
        await clock.advance(0.5)
        assert reasons == ["user"]
        flaky.heal()


async def test_a_waiting_retry_is_cancelled(clock: VirtualClock) -> None:
    runs: list[int] = []

    async def fail() -> None:
        runs.append(1)
        raise ValueError

    async with running_node(Job("fail", fail, max_retries=None, backoff=10), clock=clock) as node:
        instance = await node.schedule("fail")
        await clock.advance(15)
        assert await instance.cancel()
        await clock.advance(60)

        assert len(runs) == 2
        assert (await instance.refresh()).state is State.CANCELLED


async def test_an_instance_on_another_node_is_cancelled_within_a_second(clock: VirtualClock) -> None:
    sleeper, url = Sleeper(), shared_url()
    job, flaky = Job("sleep", sleeper), flaky_store(clock, url)
    async with (
        running_node(job, clock=clock, store=flaky.store, name="worker"),
        running_node(clock=clock, store=url, workers=0, name="web") as web,
    ):
        instance = await web.schedule(job)
        await clock.advance(1)
        assert await web.cancel_instance(instance.id)
        await clock.advance(0.01)
        assert sleeper.reasons == ["user"]

        # and without any hint
        flaky.lose_hints()
        instance = await web.schedule(job)
        await clock.advance(5)
        assert (await instance.refresh()).node == "worker"
        assert await web.cancel_instance(instance.id)
        await clock.advance(1.1)
        assert sleeper.reasons == ["user", "user"]


@pytest.mark.parametrize("where", ["here", "on a peer"])
async def test_an_instance_that_was_claimed_ahead_is_cancelled_before_it_runs(clock: VirtualClock, where: str) -> None:
    ran: list[int] = []

    async def work(number: int) -> None:
        ran.append(number)
        await asyncio.sleep(0.015)

    job, url = Job("work", work), shared_url()
    async with (
        running_node(job, clock=clock, workers=1, store=url, name="here") as node,
        running_node(clock=clock, workers=0, store=url, name="on a peer") as peer,
    ):
        await clock.run((await node.schedule(job, -1)).wait())
        instances = await node.schedule_many(job.with_options(key=f"key {number}").call(number) for number in range(4))
        await clock.advance(0.005)
        ahead = instances[1]
        assert (await ahead.refresh()).state is State.PROCESSING
        assert len([worker for worker in node.workers() if worker.instance]) == 1
        assert await (node if where == "here" else peer).cancel_instance(ahead.id)
        await drain(node)

        assert ran == [-1, 0, 2, 3]
        assert await states_of(ahead) == ["Created", "Scheduled", "Processing", "Cancelled"]
        # its claim was released, so the key is free
        again = await node.schedule(job.with_options(key="key 1"), 5)
        assert again.is_new
        await drain(node)


async def test_a_body_that_ignores_it_changes_nothing_any_more() -> None:
    began, asked_to_end, leave = threading.Event(), threading.Event(), threading.Event()

    def stay(ctx: Context = INJECTED) -> str:
        began.set()
        while not ctx.cancelled:
            leave.wait(0.001)
        asked_to_end.set()
        leave.wait(60)
        ctx.progress(0.9, "too late")
        return "done after all"

    # in real time: virtual time stands still while a thread works
    async with running_node(Job("stay", stay, key="one"), clock=SystemClock(), workers=2) as node:
        instance = await node.schedule("stay")
        assert await asyncio.to_thread(began.wait, 60)
        assert await instance.cancel()
        assert await asyncio.to_thread(asked_to_end.wait, 60)
        assert (await instance.refresh()).state is State.CANCELLED
        assert instance.id in [worker.instance for worker in node.workers()]
        with pytest.raises(JobCancelled):
            await instance.result()
        # its key is freed only when the body has ended
        assert (await node.schedule("stay")).id == instance.id
        leave.set()

        async def its_key_is_free() -> bool:
            return (await node.schedule("stay")).is_new

        await until(its_key_is_free)
        await node.cancel_instances(Query(kind="stay"))
        assert (await instance.refresh()).progress is None
        assert await states_of(instance) == ["Created", "Scheduled", "Processing", "Cancelled"]


async def test_no_processor_changes_a_cancel(clock: VirtualClock) -> None:
    seen: list[Any] = []

    def on_terminate(instance: Instance[Any], error: BaseException) -> Recovered:
        seen.append(type(error).__name__)
        return Recovered("saved")

    job = Job("sleep", Sleeper(), on_terminate=on_terminate, max_retries=3)
    async with running_node(job, clock=clock) as node:
        instance = await node.schedule(job)
        await clock.advance(1)
        await instance.cancel()
        await clock.advance(5)

        assert seen == ["JobCancelled"]
        with pytest.raises(JobCancelled):
            await instance.result()


async def test_cancel_needs_a_query_and_takes_all_that_matches_it(clock: VirtualClock) -> None:
    job, other = Job("one", Sleeper()), Job("other", Sleeper())
    async with running_node(job, other, clock=clock, workers=3) as node:
        with pytest.raises(OptionError, match="Query"):
            await node.cancel_instances(None)  # type: ignore[arg-type]
        mine = await node.schedule_many(job.call() for _ in range(700))
        theirs = await node.schedule_many(other.call() for _ in range(3))
        await clock.advance(1)

        assert await node.cancel_instances(Query(kind="one", state=State.FINAL)) == []
        running = await node.cancel_instances(Query(kind="one", state=State.PROCESSING))
        assert len(running) == 3
        rest = await node.cancel_instances(Query(kind="one"))
        assert {one.id for one in (*running, *rest)} == {one.id for one in mine}
        assert await node.count(Query(state=State.CANCELLED)) == 700
        await clock.advance(1)
        assert {(await one.refresh()).state for one in theirs} == {State.PROCESSING}
        assert len(await node.cancel_instances(Query.all())) == 3


async def test_cancelling_what_is_final_or_unknown(clock: VirtualClock) -> None:
    async with running_node(Job("now", lambda: 1), clock=clock) as node:
        instance = await node.schedule("now")
        await clock.run(instance.wait())
        assert not await instance.cancel()
        with pytest.raises(UnknownInstanceError):
            await node.cancel_instance("01900000-0000-7000-8000-000000000000")
        with pytest.raises(OptionError):
            await node.cancel_instance("not an id")


async def test_a_run_that_was_given_back_and_claimed_again_is_not_mixed_up(clock: VirtualClock) -> None:
    sleeper = Sleeper()
    job = Job("sleep", sleeper)
    async with running_nodes(clock, "a", "b", jobs=job, workers=1) as (a, b):
        instance = await a.schedule(job)
        await clock.advance(1)
        holder, other = (a, b) if (await instance.refresh()).node == "a" else (b, a)
        await clock.run(holder.stop(grace=0))
        await clock.advance(1)
        found = await other.lookup_instance(instance.id)
        assert (found.state, found.node) == (State.PROCESSING, other.name)
        await found.cancel()
        await clock.advance(1)
        assert sleeper.reasons == ["drain", "user"]
        assert (await found.refresh()).state is State.CANCELLED


async def test_a_sync_body_that_waits_for_another_job_hears_it() -> None:
    ended: list[str] = []

    async def child() -> None:
        await asyncio.Event().wait()

    def parent(manager: BlockingManager = INJECTED, context: Context = INJECTED) -> None:
        try:
            manager.schedule("child").result()
        except asyncio.CancelledError:
            ended.append(str(context.reason))
            manager.schedule("after").result()  # a body that was told to end can still be in its wait
            ended.append("cleaned up")
            raise

    jobs = [Job("parent", parent), Job("child", child), Job("after", lambda: None)]
    async with running_node(jobs, clock=SystemClock(), workers=3) as node:
        instance = await node.schedule("parent")

        async def child_runs() -> bool:
            return await node.count(Query(kind="child", state=State.PROCESSING)) == 1

        await until(child_runs)
        assert await instance.cancel()

        async def over() -> bool:
            return ended == ["user", "cleaned up"]

        await until(over)


async def test_a_sync_body_that_was_cancelled_before_it_waits_for_another_job_hears_it() -> None:
    begun, go_on = threading.Event(), threading.Event()
    ended: list[str] = []

    async def child() -> None:
        await asyncio.Event().wait()

    def parent(manager: BlockingManager = INJECTED) -> None:
        child = manager.schedule("child")
        begun.set()
        go_on.wait(60)
        try:
            child.result()
        except asyncio.CancelledError:
            ended.append("told")
            raise

    async with running_node([Job("parent", parent), Job("child", child)], clock=SystemClock(), workers=3) as node:
        instance = await node.schedule("parent")
        assert await asyncio.to_thread(begun.wait, 60)
        assert await instance.cancel()
        go_on.set()

        async def over() -> bool:
            return ended == ["told"]

        await until(over)


async def test_a_cancel_that_was_stored_first_makes_no_success(clock: VirtualClock) -> None:
    """The body has returned, but its outcome had not reached the store: no processor hears of one."""
    seen: list[Any] = []
    store = flaky_store(clock)

    async def work() -> str:
        await asyncio.sleep(1)
        return "done"

    job = Job("work", work, on_complete=lambda instance, result: seen.append(result))
    async with running_node(job, clock=clock, store=store.store) as node:
        instance = await node.schedule(job)
        await clock.advance(0.5)
        stalled = store.stall("turn")
        await clock.advance(1)
        assert stalled.met.is_set()
        await store.inner.cancel([instance.id], request="cancel")
        stalled.release()
        await clock.advance(2)
        assert (await instance.refresh()).state is State.CANCELLED
        assert seen == []


class Cancels(Observer):
    """The kinds of instances that a node cancelled."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def cancelled(self, kind: str) -> None:
        self.kinds.append(kind)


@pytest.mark.parametrize("state", [State.SCHEDULED, State.PROCESSING])
@pytest.mark.parametrize("how", ["one", "many"])
async def test_each_way_to_cancel_is_told(clock: VirtualClock, state: State, how: str) -> None:
    told: list[object] = []
    job = Job("sleep", Sleeper(), on_state_change=lambda _, state: told.append(state))
    cancels = Cancels()
    async with running_node(job, clock=clock) as node:
        node.observe(cancels)
        instance = await node.schedule(job.with_options(after="1h") if state is State.SCHEDULED else job)
        await clock.advance(1)
        assert (await instance.refresh()).state is state
        if how == "one":
            await node.cancel_instance(instance.id)
        else:
            await node.cancel_instances(Query.all())
        await clock.advance(1)
        assert told.count(State.CANCELLED) == 1
        assert cancels.kinds == ["sleep"]
