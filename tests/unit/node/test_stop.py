"""Resizing, draining, stopping and starting again."""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from peerjob import INJECTED, Context, Depends, Job, Node, NodeStateError, Query, State, StoreLimits, SystemClock
from peerjob.store.drivers import open_store
from peerjob.testing import VirtualClock, drain, running_node
from support import bodies
from support.factories import flaky_store, lines_of, notes_of, running_nodes, shared_url, states_of
from support.flaky import FlakyStore
from support.waiting import until


class Body:
    """Sleeps, and counts how many of its kind run at a time."""

    def __init__(self, seconds: float = 10) -> None:
        self.seconds = seconds
        self.running = 0
        self.ended: list[str | None] = []

    async def __call__(self) -> str:
        self.running += 1
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
            self.ended.append(Context.current().reason)
        return "done"


async def test_growing_starts_more_at_once(clock: VirtualClock) -> None:
    body = Body()
    job = Job("body", body)
    async with running_node(job, clock=clock, workers=2) as node:
        await node.schedule_many(job.call() for _ in range(20))
        await clock.advance(1)
        assert body.running == 2
        await node.resize_workers(7)
        await clock.advance(0.01)
        assert (body.running, node.num_workers, len(node.workers())) == (7, 7, 7)
        assert [view.info.workers for view in await node.nodes()] == [7]


async def test_shrinking_lets_running_bodies_finish(clock: VirtualClock) -> None:
    body = Body()
    job = Job("body", body)
    async with running_node(job, clock=clock, workers=6) as node:
        await node.schedule_many(job.call() for _ in range(10))
        await clock.advance(1)
        await node.resize_workers(1)
        assert (body.running, node.num_workers, len(node.workers())) == (6, 1, 6)
        await clock.advance(10)
        assert (body.running, body.ended, len(node.workers())) == (1, [None] * 6, 1)
        await node.resize_workers(3)
        await drain(node)
        assert await node.count(Query(state=State.COMPLETED)) == 10


async def test_a_node_that_only_schedules_may_become_a_worker(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(Job("body", Body(1)), clock=clock, store=flaky.store, workers=0) as node:
        instance = await node.schedule("body")
        await clock.advance(5)
        assert (await instance.refresh()).state is State.SCHEDULED
        assert node.workers() == []
        assert flaky.calls["publish_descriptors"] == 0
        await node.resize_workers(1)
        assert await clock.run(instance.result()) == "done"
        assert flaky.calls["publish_descriptors"] > 0


async def test_drain_claims_nothing_more_and_waits_for_what_runs(clock: VirtualClock) -> None:
    body = Body()
    job = Job("body", body)
    async with running_nodes(clock, "a", "b", jobs=job, workers=2) as (a, b):
        b.unregister("body")
        running = await a.schedule_many(job.call() for _ in range(2))
        waiting = await a.schedule(job)
        await clock.advance(1)
        with pytest.raises(TimeoutError, match=r"2 body\(ies\)"):
            await clock.run(a.drain(timeout=1))
        await clock.run(a.drain())

        assert {(await one.refresh()).state for one in running} == {State.COMPLETED}
        await clock.advance(30)
        assert (await waiting.refresh()).state is State.SCHEDULED
        assert len(await a.nodes()) == 2
        b.register(job)
        assert await clock.run(waiting.result()) == "done"


async def test_stop_lets_bodies_go_on_within_its_grace(clock: VirtualClock) -> None:
    body = Body(3)
    job = Job("body", body)
    async with running_nodes(clock, "a", "b", jobs=job) as (a, b):
        b.unregister("body")
        instance = await a.schedule(job)
        await clock.advance(1)
        await clock.run(a.stop(grace=5))
        assert body.ended == [None]
        assert (await b.lookup_instance(instance.id)).state is State.COMPLETED
        assert [view.info.name for view in await b.nodes()] == ["b"]


async def test_what_does_not_end_in_time_is_handed_back_and_runs_elsewhere_at_once(clock: VirtualClock) -> None:
    body = Body(20)
    job = Job("body", body, max_retries=0)
    async with running_nodes(clock, "a", "b", jobs=job, workers=3) as (a, b):
        b.unregister("body")
        instances = await a.schedule_many(job.call() for _ in range(3))
        await clock.advance(1)
        b.register(job)
        await clock.advance(1)
        await clock.run(a.stop(grace=2))
        stopped = clock.elapsed()
        assert body.ended == ["drain"] * 3
        assert stopped < 4.1
        await drain(b)
        for instance in instances:
            found = await b.lookup_instance(instance.id)
            assert (found.state, found.node, found.attempts, found.crashes, found.losses) == (
                State.COMPLETED,
                "b",
                1,
                0,
                0,
            )
            assert found.processed_at is not None
            assert found.completed_at is not None
            assert (found.completed_at - found.created_at).total_seconds() < 4.1 + 20 + 0.1
            assert "Scheduled: node stopped" in await notes_of(found)


async def test_a_body_may_clean_up_when_its_node_drains(clock: VirtualClock) -> None:
    saved: list[str | None] = []

    async def tidy(ctx: Context = INJECTED) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
            saved.append(ctx.reason)
            raise

    async with running_node(Job("tidy", tidy), clock=clock) as node:
        await node.schedule("tidy")
        await clock.advance(1)
        await clock.run(node.stop(grace=0))
        assert saved == ["drain"]


async def test_a_thread_that_ignores_it_does_not_keep_the_node(caplog: pytest.LogCaptureFixture) -> None:
    started, leave, url = threading.Event(), threading.Event(), shared_url()

    def stay() -> None:
        started.set()
        leave.wait(90)

    node = Node(url, jobs=Job("stay", stay))
    await node.start()
    instance = await node.schedule("stay")
    assert await asyncio.to_thread(started.wait, 60)
    await node.stop(grace=0)
    assert "ignore cancellation" in caplog.text
    async with running_node(store=url, clock=SystemClock(), workers=0) as looker:
        found = await looker.lookup_instance(instance.id)
        assert (found.state, found.attempts, found.crashes) == (State.SCHEDULED, 0, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    leave.set()


async def test_a_thread_that_ignores_the_stop_does_not_delay_a_hurried_stop() -> None:
    leave, started = threading.Event(), threading.Event()

    def stay() -> None:
        started.set()
        leave.wait(90)

    node = Node(jobs=Job("stay", stay))
    await node.start()
    await node.schedule("stay")
    assert await asyncio.to_thread(started.wait, 60)
    stopping = asyncio.create_task(node.stop(grace=60))
    await asyncio.sleep(0)
    stopping.cancel()
    try:
        await asyncio.wait({stopping}, timeout=60)
        assert stopping.cancelled()
        assert not node.running
    finally:
        leave.set()


async def test_a_thread_that_ignores_it_shows_as_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.node.work.run.STUCK_AFTER", 0.1)
    begun, leave = threading.Event(), threading.Event()

    def stay(ctx: Context = INJECTED) -> None:
        begun.set()
        leave.wait(90)

    async with running_node(Job("stay", stay), clock=SystemClock(), workers=2) as node:
        instance = await node.schedule("stay")
        assert await asyncio.to_thread(begun.wait, 60)
        assert await instance.cancel()

        async def one_is_stuck() -> bool:
            return any(worker.stuck for worker in node.workers())

        try:
            await until(one_is_stuck)
        finally:
            leave.set()


async def test_stop_hands_back_what_was_claimed_ahead(clock: VirtualClock) -> None:
    job = Job("short", Body(0.015))
    async with running_nodes(clock, "a", "b", jobs=job, workers=1) as (a, b):
        b.unregister("short")
        await clock.run((await a.schedule(job)).wait())
        instances = await a.schedule_many(job.call() for _ in range(4))
        await clock.advance(0.005)
        claimed = [one for one in instances if (await one.refresh()).state is State.PROCESSING]
        assert len(claimed) == 3
        await clock.run(a.stop(grace=1))
        states = [(await b.lookup_instance(one.id)).state for one in instances]
        assert states.count(State.COMPLETED) == 1
        assert states.count(State.SCHEDULED) == 3
        assert "Scheduled: node stopped" in await notes_of(await b.lookup_instance(claimed[1].id))


async def test_a_node_that_has_stopped_has_closed_what_it_opened(clock: VirtualClock) -> None:
    """Also the connections that it opened anew after a fault."""
    flaky = flaky_store(clock)
    async with running_node(Job("body", Body(1)), clock=clock, store=flaky.store) as node:
        flaky.fail("campaign", times=1)
        await clock.run((await node.schedule("body")).wait())
        await clock.advance(2)
    assert flaky.calls["open"] > 2
    assert flaky.calls["close"] == flaky.calls["open"]


async def test_stop_is_idempotent_and_a_node_may_start_again(clock: VirtualClock) -> None:
    node = Node(shared_url(), jobs=Job("body", Body(1)), clock=clock)
    await node.stop()
    await node.start()
    with pytest.raises(NodeStateError, match="started already"):
        await node.start()
    first = node.incarnation
    instance = await node.schedule("body")
    await clock.run(node.stop())
    await clock.run(node.stop())
    assert not node.running
    with pytest.raises(NodeStateError):
        await node.schedule("body")
    await node.start()
    assert node.incarnation != first
    assert (await node.lookup_instance(instance.id)).state is State.COMPLETED
    assert await clock.run((await node.schedule("body")).result()) == "done"
    await clock.run(node.stop())
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_stopping_while_the_store_is_away_takes_bounded_time(clock: VirtualClock) -> None:
    url = shared_url()
    flaky = flaky_store(clock, url)
    body = Body(20)
    async with running_node(Job("body", body), clock=clock, store=flaky.store) as node:
        await node.schedule("body")
        await clock.advance(1)
        flaky.fail()
        before = clock.elapsed()
        await clock.run(node.stop(grace=2))
        assert clock.elapsed() - before < 30
        assert body.ended != []
    async with running_node(Job("body", Body(1)), clock=clock, store=url, name="heir") as heir:
        await drain(heir)
        assert await heir.count(Query(state=State.COMPLETED)) == 1


async def test_cancelling_stop_ends_its_grace_and_the_node_leaves_all_the_same(clock: VirtualClock) -> None:
    url, body = shared_url(), Body(20)
    node = Node(url, jobs=Job("body", body), clock=clock)
    await node.start()
    instance = await node.schedule("body")
    await clock.advance(1)
    stopping = asyncio.ensure_future(node.stop(grace=60))
    await clock.advance(1)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await clock.run(stopping)
    assert clock.elapsed() < 3
    assert body.ended == ["drain"]
    assert not node.running
    await clock.settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with running_node(clock=clock, store=url, workers=0, name="looker") as looker:
        assert (await looker.lookup_instance(instance.id)).state is State.SCHEDULED
        assert [view.info.name for view in await looker.nodes()] == ["looker"]


async def test_a_stop_that_is_cancelled_again_and_again_leaves_all_the_same(clock: VirtualClock) -> None:
    """A timeout of anyio cancels its block at each step of the event loop, until the block ends."""

    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.5)

    url = shared_url()
    node = Node(url, jobs=Job("slow_to_end", slow_to_end), clock=clock)
    await node.start()
    instance = await node.schedule("slow_to_end")
    await clock.advance(1)
    stopping = asyncio.ensure_future(node.stop(grace=60))
    for _ in range(3):
        await clock.advance(0.1)
        stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await clock.run(stopping)
    await clock.settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with running_node(clock=clock, store=url, workers=0, name="looker") as looker:
        assert (await looker.lookup_instance(instance.id)).state is State.SCHEDULED
        assert [view.info.name for view in await looker.nodes()] == ["looker"]


async def test_a_run_that_is_cancelled_again_and_again_leaves_all_the_same(clock: VirtualClock) -> None:
    url, body = shared_url(), Body(60)
    node = Node(url, jobs=Job("body", body), clock=clock)
    running = asyncio.ensure_future(node.run(grace=60))
    await clock.advance(1)
    instance = await node.schedule("body")
    await clock.advance(1)
    while not running.done():
        running.cancel()
        await clock.advance(0.1)
    assert running.cancelled()
    assert (body.ended, node.running) == (["drain"], False)
    await clock.settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with running_node(clock=clock, store=url, workers=0, name="looker") as looker:
        assert (await looker.lookup_instance(instance.id)).state is State.SCHEDULED
        assert [view.info.name for view in await looker.nodes()] == ["looker"]


async def test_a_start_that_is_cancelled_again_and_again_leaves_nothing(clock: VirtualClock) -> None:
    url = shared_url()

    @contextlib.asynccontextmanager
    async def waits(node: Node) -> AsyncGenerator[None]:
        await asyncio.sleep(60)
        yield

    starting = asyncio.ensure_future(Node(url, clock=clock, lifespan=waits).start())
    await clock.advance(1)
    while not starting.done():
        starting.cancel()
        await asyncio.sleep(0)
    assert starting.cancelled()
    await clock.settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with running_node(clock=clock, store=url, workers=0, name="looker") as looker:
        assert [view.info.name for view in await looker.nodes()] == ["looker"]


async def test_a_node_whose_stop_fails_is_not_kept_until_the_exit_of_the_process() -> None:
    store = FlakyStore(open_store(shared_url(), namespace="default", clock=SystemClock(), limits=StoreLimits()))
    node = Node(store.store)
    await node.start()
    store.refuse(RuntimeError("no"), "leave")
    with pytest.raises(RuntimeError, match="no"):
        await node.stop()
    assert not node.running
    kept = weakref.ref(node)
    del node, store  # the fault of the store has the error, whose traceback has the node
    gc.collect()
    assert kept() is None


async def test_a_body_may_use_the_node_until_it_ends(clock: VirtualClock) -> None:
    url = shared_url()

    async def parent(node: Node) -> str:
        await asyncio.sleep(2)
        return (await node.schedule("child")).id

    jobs = [Job("parent", parent), Job("child", Body(1))]
    async with running_node(jobs, clock=clock, store=url) as node:
        instance = await node.schedule("parent")
        await clock.advance(1)
        await asyncio.gather(clock.run(node.stop(grace=5)), clock.run(node.stop(grace=5)))
    async with running_node(clock=clock, store=url, workers=0) as looker:
        found = await looker.lookup_instance(instance.id)
        assert found.state is State.COMPLETED
        assert (await looker.lookup_instance(await found.result())).state is State.SCHEDULED


async def test_history_of_a_run_that_was_handed_back_is_legal(clock: VirtualClock) -> None:
    url: Any = shared_url()
    for _ in range(3):
        async with running_node(Job("body", Body(20)), clock=clock, store=url) as node:
            if await node.count() == 0:
                await node.schedule("body")
            await clock.advance(1)
            (instance,) = await node.lookup_instances()
            assert (instance.state, instance.attempts) == (State.PROCESSING, 1)
            await clock.run(node.stop(grace=0))
    async with running_node(Job("body", Body(1)), clock=clock, store=url) as node:
        await drain(node)
        (instance,) = await node.lookup_instances()
        assert await states_of(instance) == ["Created", *["Scheduled", "Processing"] * 4, "Completed"]
        assert instance.attempts == 1


@pytest.mark.parametrize("verb", ["open", "join", "get_schedules"])
async def test_a_stop_gives_up_a_start_that_is_under_way(clock: VirtualClock, verb: str) -> None:
    flaky = flaky_store(clock)
    node = Node(flaky.store, jobs=[Job("often", lambda: 1, every="1h")], clock=clock)
    stall = flaky.stall(verb)
    starting = asyncio.create_task(node.start())
    await clock.settle()
    assert stall.met.is_set()
    await clock.run(node.stop(grace=0))
    assert starting.done()
    with pytest.raises(NodeStateError, match="was stopped while it started"):
        await starting
    assert not node.running
    stall.release()

    await clock.run(node.start())
    assert [view.info.name for view in await node.nodes()] == [node.name]
    await clock.run(node.stop())
    await clock.advance(10)
    assert await flaky.inner.nodes() == []


async def test_a_stop_during_the_lifespan_waits_until_the_start_is_given_up(clock: VirtualClock) -> None:
    entered, go_on, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifespan(_node: Node) -> AsyncGenerator[None]:
        entered.set()
        await go_on.wait()
        yield
        left.set()

    node = Node(clock=clock, lifespan=lifespan)
    starting = asyncio.create_task(node.start())
    await entered.wait()
    stopping = [asyncio.create_task(node.stop()) for _ in range(2)]
    await clock.settle()
    assert not any(one.done() for one in stopping)
    go_on.set()
    await clock.run(asyncio.gather(*stopping))
    with pytest.raises(NodeStateError):
        await starting
    assert left.is_set()
    assert not node.running


async def test_a_lifespan_may_stop_its_own_node(clock: VirtualClock) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(node: Node) -> AsyncGenerator[None]:
        await node.stop()
        yield

    node = Node(clock=clock, lifespan=lifespan)
    with pytest.raises(NodeStateError, match="was stopped while it started"):
        await clock.run(node.start())
    assert not node.running


async def test_a_stop_needs_no_default_executor() -> None:
    """Code of users may fill it, or may have closed it."""
    free = threading.Event()
    executor = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(executor)
    executor.submit(free.wait)
    try:
        node = Node(jobs=[Job("pid", bodies.pid, run_in="process"), Job("exits", bodies.exits, run_in="process")])
        await node.start()
        assert await (await node.schedule("pid")).result(30) > 0
        instance = await node.schedule("exits", "os._exit")
        await instance.wait(30)
        async with asyncio.timeout(10):
            await node.stop(grace=0)
    finally:
        free.set()
        executor.shutdown()


async def test_a_node_leaves_when_its_loop_ends_without_a_stop() -> None:
    """`asyncio.run` cancels every task then, and waits for it."""
    url = shared_url()

    async def forgetful() -> None:
        began = asyncio.Event()

        async def waits() -> None:
            began.set()
            await asyncio.Event().wait()

        node = Node(url, jobs=[Job("waits", waits)])
        await node.start()
        await node.schedule("waits")
        await began.wait()

    await asyncio.to_thread(asyncio.run, forgetful())
    async with Node(url, workers=0) as observer:
        assert [view.info.name for view in await observer.nodes()] == [observer.name]


@pytest.mark.parametrize("mode", ["loop", "thread"])
@pytest.mark.parametrize("raises", [False, True])
async def test_a_body_that_has_ended_is_not_run_again_because_its_resources_hang(
    monkeypatch: pytest.MonkeyPatch, mode: str, raises: bool
) -> None:
    closing, leave = threading.Event(), threading.Event()
    runs: list[int] = []

    async def of_loop() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            closing.set()
            await asyncio.Event().wait()

    def of_thread() -> Generator[None]:
        try:
            yield
        finally:
            closing.set()
            leave.wait(60)

    def ends() -> str:
        runs.append(1)
        if raises:
            raise ValueError("broken")
        return "done"

    async def later(x: None = Depends(of_loop)) -> str:
        return ends()

    def body(x: None = Depends(of_thread)) -> str:
        return ends()

    url = shared_url()
    job = Job("body", later if mode == "loop" else body)
    try:
        async with running_node(job, store=url, clock=SystemClock(), name="a") as node:
            instance = await node.schedule(job)
            assert await asyncio.to_thread(closing.wait, 60)
            await node.stop(grace=0)
    finally:
        leave.set()
    async with running_node(store=url, clock=SystemClock(), workers=0, name="looker") as looker:
        found = await looker.lookup_instance(instance.id)
        assert (found.state, found.attempts) == (State.TERMINATED if raises else State.COMPLETED, 1)
    assert runs == [1]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_timeout_while_resources_close_changes_nothing(clock: VirtualClock, fails: bool) -> None:
    closed: list[float] = []

    async def slow_to_close() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(10)
            closed.append(clock.elapsed())

    async def body(x: None = Depends(slow_to_close)) -> None:
        if fails:
            raise ValueError

    async with running_node(Job("body", body, timeout=5), clock=clock) as node:
        instance = await node.schedule("body")
        await clock.run(instance.wait())
        assert (await instance.refresh()).state is (State.TERMINATED if fails else State.COMPLETED)
        assert len(closed) == 1


async def test_resources_that_never_close_are_given_up(clock: VirtualClock) -> None:
    async def never_closes() -> AsyncGenerator[None]:
        yield
        await asyncio.Event().wait()

    async def body(x: None = Depends(never_closes)) -> str:
        return "done"

    async with running_node(Job("body", body), clock=clock, workers=1) as node:
        instance = await node.schedule("body")
        assert await clock.run(instance.result()) == "done"
        await clock.advance(1)
        assert any("not closed within 60 s" in line for line in await lines_of(instance))


async def test_a_factory_that_keeps_the_cancellation_for_itself_does_not_start_the_body(clock: VirtualClock) -> None:
    ran: list[int] = []

    async def keeps_it() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async def body(x: None = Depends(keeps_it)) -> None:
        ran.append(1)

    url = shared_url()
    async with running_node(Job("body", body), clock=clock, store=url) as node:
        instance = await node.schedule("body")
        await clock.advance(1)
        await clock.run(node.stop(grace=0))
    async with running_node(clock=clock, store=url, workers=0) as looker:
        found = await looker.lookup_instance(instance.id)
        assert (await notes_of(found))[-1] == "Scheduled: node stopped"
        assert (found.attempts, ran) == (0, [])


def test_run_is_refused_outside_the_main_thread() -> None:
    """Before, it raised RuntimeError: set_wakeup_fd only works in main thread."""
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(asyncio.run, Node().run())
        with pytest.raises(NodeStateError, match="needs the main thread"):
            running.result(timeout=30)
