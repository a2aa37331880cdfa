"""Waits beside each other, and beside other work of a body: when they end its run, and when they do not."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import pytest

from peerjob import (
    INJECTED,
    BlockingContext,
    Context,
    Depends,
    Instance,
    Job,
    Node,
    NodeStateError,
    Query,
    Signal,
    SignalTimeout,
    State,
)
from peerjob.node.work.durable_run import LOOK_AGAIN, QUIET_PASSES, UNAWAITED_SECONDS
from peerjob.testing import VirtualClock, running_node
from support.factories import memory_store
from support.flaky import FlakyStore

APPROVAL = Signal("approval", bool)
RUNS = Counter[str]()


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


@pytest.fixture
async def node(clock: VirtualClock) -> AsyncIterator[Node]:
    async with running_node(store=memory_store(clock), clock=clock, workers=2) as running:
        yield running


async def begun(node: Node, body: Any) -> Instance[Any]:
    """An instance of a job with this body, that has run for a second."""
    job = Job("durable", body)
    node.register(job)
    instance = await node.schedule(job)
    await node.clock.advance(1)  # type: ignore[attr-defined]
    return await instance.refresh()


async def won(*ways: Awaitable[Any]) -> list[asyncio.Task[Any]]:
    """The tasks that are left of a race."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return list(pending)


async def in_groups(wait: Awaitable[Any], depth: int) -> Any:
    if not depth:
        return await wait
    async with asyncio.TaskGroup() as group:
        task = group.create_task(in_groups(wait, depth - 1))
    return task.result()


async def gathered(wait: Awaitable[Any], depth: int) -> Any:
    return await wait if not depth else (await asyncio.gather(gathered(wait, depth - 1)))[0]


@pytest.mark.parametrize("nested", [in_groups, gathered])
async def test_a_wait_that_is_over_ends_a_race_from_within_nested_tasks(
    node: Node, clock: VirtualClock, nested: Callable[[Any, int], Any]
) -> None:
    async def body(context: Context = INJECTED) -> int:
        await context.suspend("begin", "1m")
        left = await won(nested(context.wait_for(APPROVAL), 5), context.suspend("nap", "1h"))
        return len(left)

    instance = await begun(node, body)
    assert await node.signal(instance, APPROVAL, True)
    assert await instance.result("2m") == 1


@pytest.mark.parametrize("kept", [False, True])
async def test_the_loser_of_a_race_does_not_end_the_run(
    node: Node, clock: VirtualClock, caplog: pytest.LogCaptureFixture, kept: bool
) -> None:
    async def body(context: Context = INJECTED) -> list[str]:
        RUNS["body"] += 1
        left = await won(context.wait_for(APPROVAL), context.suspend("nap", "8h"), context.wait_for(Signal("no", str)))
        tasks = set(left)
        for task in left if kept else ():  # as the documentation of asyncio advises
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(60)
        await context.step("after", str)
        return [task.get_name() for task in asyncio.all_tasks() if "nap" in task.get_name()]

    instance = await begun(node, body)
    assert await node.signal(instance, APPROVAL, True)
    assert await instance.result("2m") == []
    assert RUNS["body"] == 2
    await clock.advance(2)
    gc.collect()
    assert "never retrieved" not in caplog.text
    assert not [task for task in asyncio.all_tasks() if "DurableVerbs" in repr(task)], "the loser ends with the body"


async def slow_to_close() -> AsyncIterator[None]:
    yield
    await asyncio.sleep(30)


async def test_a_loser_does_not_end_the_run_of_a_body_that_has_ended(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED, _: Any = Depends(slow_to_close)) -> str:
        await won(context.step("won", str), gathered(context.wait_for(APPROVAL), 1))
        return "over"

    instance = await begun(node, body)
    assert await instance.result("1m") == "over"


@pytest.mark.parametrize("looks", [True, False])
async def test_a_task_that_waits_ends_the_run_when_the_body_awaits_it(
    node: Node, clock: VirtualClock, looks: bool
) -> None:
    async def body(context: Context = INJECTED) -> str:
        RUNS["body"] += 1
        nap = asyncio.ensure_future(context.suspend("nap", "5m"))
        await asyncio.sleep(60)
        await context.step("beside", str)
        if looks:
            await nap
        else:
            await asyncio.wait([nap])
            nap.result()
        return "over"

    instance = await begun(node, body)
    await clock.advance(70)
    assert (await instance.refresh()).state is State.SCHEDULED
    assert instance.waits_for is not None
    assert await instance.result("6m") == "over"
    assert RUNS["body"] == 2


async def test_a_loser_does_not_end_a_later_wait(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> str:
        RUNS["body"] += 1
        await won(context.suspend("short", "1m"), context.suspend("long", "5m"), context.wait_for(Signal("no", str)))
        return str(await context.wait_for(APPROVAL))

    instance = await begun(node, body)
    await clock.advance("2m")
    assert (await instance.refresh()).waits_for == "signal approval"
    await clock.advance("8m")
    assert RUNS["body"] == 2
    assert set(await node.steps(instance)) == {"short", "long"}
    assert await node.signal(instance, APPROVAL, True)
    assert await instance.result(5) == "True"


@pytest.mark.parametrize("given", ["approval", "refusal", "other"])
async def test_each_of_several_signals_ends_the_wait(node: Node, clock: VirtualClock, given: str) -> None:
    signals = [Signal(name, str) for name in ("approval", "refusal", "other")]

    async def body(context: Context = INJECTED) -> list[str]:
        tasks = [asyncio.ensure_future(context.wait_for(signal)) for signal in signals]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return [task.result() for task in done]

    instance = await begun(node, body)
    assert instance.waits_for == "signal approval or signal refusal or signal other"
    assert await node.signal(instance, "unknown", "no")
    assert await node.signal(instance, given, "yes")
    assert await instance.result(5) == ["yes"]


async def test_no_other_wait_ends_the_run_while_a_timeout_is_stored(clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> str:
        try:
            await won(context.wait_for(Signal("late", bool), timeout="1m"), context.wait_for(APPROVAL))
            return "won"
        except SignalTimeout:
            return "late"

    flaky = FlakyStore(memory_store(clock))
    async with running_node(store=flaky.store, clock=clock, workers=2) as node:
        instance = await begun(node, body)
        flaky.slow(0.5, "commit", "turn")
        assert await instance.result("2m") == "late"


@pytest.mark.parametrize("verbs", [False, True])
async def test_a_warning_names_a_task_that_holds_the_worker(
    node: Node, clock: VirtualClock, caplog: pytest.LogCaptureFixture, verbs: bool
) -> None:
    async def body(context: Context = INJECTED) -> bool:
        queue = asyncio.Queue[bool]()

        async def fill() -> None:
            await queue.put(await context.wait_for(APPROVAL))

        filling = asyncio.ensure_future(fill())
        for number in range(10 if verbs else 0):
            await asyncio.sleep(UNAWAITED_SECONDS - 5)
            await context.step(f"{number}", str)
        answer = await queue.get()
        await filling
        return answer

    def warnings() -> list[str]:
        return [line for line in caplog.messages if "nothing awaits" in line]

    instance = await begun(node, body)
    await clock.advance((UNAWAITED_SECONDS - 5) * (10 if verbs else 1))
    assert warnings() == []
    await clock.advance(5 + 2 * LOOK_AGAIN if not verbs else UNAWAITED_SECONDS)
    (warning,) = warnings()
    assert f"instance {instance.id} of 'durable': " in warning
    assert "waits for signal approval;" in warning
    assert warning.endswith("await the task")
    await clock.advance(10 * UNAWAITED_SECONDS)
    assert len(warnings()) == 1
    assert await instance.cancel()


async def test_a_later_wait_ends_the_run_immediately(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> None:
        await won(context.step("won", str), context.wait_for(Signal("no", str)))
        await asyncio.sleep(1.05)
        await context.suspend("nap", "1h")

    instance = await begun(node, body)
    await clock.advance(0.1)
    assert (await instance.refresh()).state is State.SCHEDULED


async def test_too_many_signals_at_once_are_refused(node: Node) -> None:
    async def body(context: Context = INJECTED) -> None:
        await asyncio.gather(*(context.wait_for(Signal(f"{number}" * 99, str)) for number in range(10, 16)))

    instance = await begun(node, body)
    assert instance.error is not None
    assert "await at once have 1,193 bytes, over the limit of 1,024 bytes" in instance.error.message
    assert instance.error.type.endswith("StepLimitError")


@pytest.mark.parametrize("copied", [False, True])
async def test_only_the_thread_of_a_sync_body_waits(node: Node, copied: bool) -> None:
    def body(context: BlockingContext = INJECTED) -> list[str]:
        child = context.start("child", Job("child", in_thread).call())
        with ThreadPoolExecutor() as pool:
            for wait in (
                lambda: context.wait_for(APPROVAL),
                lambda: context.suspend("nap", 5),
                lambda: context.call("other", Job("child", in_thread).call()),
                child.result,
            ):
                future = pool.submit(copy_context().run, wait) if copied else pool.submit(wait)
                with pytest.raises(NodeStateError, match="another thread than that of the body"):
                    future.result()
            steps = [pool.submit(context.step, name, str, name) for name in "abc"]
        context.suspend("pause", 5)
        return [step.result() for step in steps]

    node.register(Job("child", in_thread))
    instance = await begun(node, body)
    assert instance.waits_for is not None
    assert await instance.result(10) == ["a", "b", "c"]


def in_thread() -> None:
    RUNS["other"] += 1


async def on_loop() -> None:
    RUNS["other"] += 1
    await asyncio.sleep(3600)


@pytest.mark.parametrize("other", [lambda: asyncio.to_thread(in_thread), on_loop])
async def test_other_work_of_the_body_does_not_hold_the_run(
    node: Node, clock: VirtualClock, other: Callable[[], Awaitable[None]]
) -> None:
    async def body(context: Context = INJECTED) -> str:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            approved = group.create_task(context.wait_for(APPROVAL))
            work = asyncio.ensure_future(other())
            await approved
            work.cancel()
        return "over"

    instance = await begun(node, body)
    await clock.advance(60)
    assert (await instance.refresh()).waits_for == "signal approval"
    assert RUNS["other"] == 1
    assert await node.signal(instance, APPROVAL, True)
    assert await instance.result(5) == "over"


@pytest.mark.parametrize("other", ["signal", "timeout", "suspend"])
async def test_a_wait_beside_a_cancelled_child_does_not_show_that_its_body_has_ended(
    node: Node, clock: VirtualClock, other: str
) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(20)
            RUNS["child ended"] += 1

    slow = Job("stubborn", stubborn)

    async def body(context: Context = INJECTED) -> int:
        RUNS["body"] += 1
        child = await context.start("child", slow.call())
        await asyncio.sleep(3)
        timeout = 4 if other == "timeout" else None
        beside = context.suspend("beside", 4) if other == "suspend" else context.wait_for(APPROVAL, timeout=timeout)
        with suppress(SignalTimeout):
            await asyncio.gather(beside, child.ended())
        await asyncio.gather(child.ended(), context.wait_for(Signal("last", int)))
        return RUNS["child ended"]

    node.register(slow)
    instance = await begun(node, body)
    (child,) = await node.lookup_instances(Query(parent=instance))
    assert await child.cancel()  # while the body of the parent runs
    await clock.advance(3)
    if other == "signal":
        assert await node.signal(instance, APPROVAL, True)
    await clock.advance(6)
    assert await node.signal(instance, Signal("last", int), 1)
    assert await instance.result(20) == 1
    assert RUNS["body"] <= 4


async def test_a_body_that_goes_on_beside_a_wait_has_time_from_its_last_verb(node: Node) -> None:
    async def work(context: Context) -> None:
        for number in range(5):
            await context.step(f"step {number}", RUNS.update, ("steps",))
            for _ in range(QUIET_PASSES // 2):
                await asyncio.sleep(0)

    async def body(context: Context = INJECTED) -> None:
        await asyncio.gather(context.wait_for(APPROVAL), work(context))

    instance = await begun(node, body)
    assert instance.waits_for == "signal approval"
    assert RUNS["steps"] == 5


async def test_a_wait_for_children_that_nothing_awaits_leaves_no_mark(node: Node) -> None:
    """The mark would show them over, although their bodies still run."""
    left: list[asyncio.Future[Any]] = []

    async def hang() -> None:
        await asyncio.Event().wait()

    async def body(context: Context = INJECTED) -> None:
        child = await context.start("child", Job("hang", hang).call())
        await asyncio.sleep(1)
        await node.cancel_instance(child.id)
        left.append(asyncio.ensure_future(child.ended()))
        await context.wait_for(APPROVAL)

    node.register(Job("hang", hang))
    instance = await begun(node, body)
    await node.clock.advance(2)  # type: ignore[attr-defined]
    assert (await instance.refresh()).waits_for == "signal approval"
    assert (await node._store.steps(instance.id)).steps == ()  # pyright: ignore[reportPrivateUsage]
