"""Steps: what a body keeps, a later run of its instance gets without a call."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from peerjob import (
    INJECTED,
    BlockingContext,
    Context,
    EncodeError,
    Fail,
    Job,
    JobFailed,
    Node,
    NodeStateError,
    OptionError,
    State,
    StepLimitError,
    StepNameError,
)
from peerjob.model.durable import MAX_ALL_STEP_BYTES, MAX_STEP_BYTES, MAX_STEP_NAME, MAX_STEPS
from peerjob.testing import VirtualClock, running_node
from support.durable_jobs import in_process
from support.factories import flaky_store, lines_of, memory_store

CALLS = Counter[str]()


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def call(name: str, value: Any = None) -> Any:
    CALLS[name] += 1
    return value


async def call_later(name: str) -> str:
    CALLS[name] += 1
    await asyncio.sleep(1)
    return name.upper()


def fail_once(name: str) -> str:
    CALLS[name] += 1
    if CALLS[name] == 1:
        raise ValueError(name)
    return name


@dataclass
class Payment:
    number: int
    items: tuple[str, ...]


def charge(number: int) -> Payment:
    CALLS["charge"] += 1
    return Payment(number, ("a", "b"))


@pytest.fixture
async def node(clock: VirtualClock) -> AsyncIterator[Node]:
    async with running_node(store=memory_store(clock), clock=clock) as running:
        yield running


async def run(node: Node, body: Any, *args: Any, **options: Any) -> Any:
    """The result of a job with this body."""
    job = Job("durable", body, **options)
    node.register(job)
    return await (await node.schedule(job, *args)).result("1h")


async def test_a_retry_gets_what_the_first_run_kept(node: Node) -> None:
    async def body(context: Context = INJECTED) -> list[str]:
        first = await context.step("first", call_later, "first")
        second = await context.step("second", fail_once, "second")
        return [first, second]

    assert await run(node, body, max_retries=3) == ["FIRST", "second"]
    assert CALLS == {"first": 1, "second": 2}


async def test_a_sync_body_keeps_its_steps_too(node: Node) -> None:
    threads: set[int] = set()

    def own() -> str:
        threads.add(threading.get_ident())
        return "own"

    def body(context: BlockingContext = INJECTED) -> list[str]:
        threads.add(threading.get_ident())
        return [
            context.step("own", own),
            context.step("later", call_later, "later"),
            context.step("once", fail_once, "once"),
        ]

    assert await run(node, body, max_retries=3) == ["own", "LATER", "once"]
    assert CALLS == {"later": 1, "once": 2}
    assert len(threads) <= 2, "a step of a sync body runs in the thread of the body"


async def test_a_value_comes_back_as_the_type_of_the_function(node: Node) -> None:
    async def body(context: Context = INJECTED) -> list[Any]:
        payment = await context.step("charge", charge, number=7)
        assert isinstance(payment, Payment)
        nothing = await context.step("nothing", call, "nothing")
        await context.step("once", fail_once, "once")
        return [payment.items, nothing]

    assert await run(node, body, max_retries=1) == [("a", "b"), None]
    assert CALLS == {"charge": 1, "nothing": 1, "once": 2}


async def test_the_first_run_gets_the_kept_form_as_a_later_one(node: Node) -> None:
    def untyped() -> Any:
        return Payment(1, ())

    async def body(context: Context = INJECTED) -> bool:
        return isinstance(await context.step("untyped", untyped), dict)

    assert await run(node, body) is True


async def test_an_error_is_not_kept_and_fail_ends_the_job(node: Node) -> None:
    def refuse() -> None:
        CALLS["refuse"] += 1
        raise Fail("no money")

    async def body(context: Context = INJECTED) -> None:
        await context.step("refuse", refuse)

    with pytest.raises(JobFailed, match="no money"):
        await run(node, body, max_retries=5)
    assert CALLS == {"refuse": 1}


async def test_a_body_can_go_on_after_an_error_of_a_step(node: Node) -> None:
    async def body(context: Context = INJECTED) -> str:
        try:
            return await context.step("bad", fail_once, "bad")
        except ValueError:
            return await context.step("other", fail_once, "bad")

    assert await run(node, body) == "bad"


async def test_steps_run_at_the_same_time(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(context.step(f"s{n}", call_later, f"s{n}")) for n in range(20)]
        return [task.result() for task in tasks]

    before = clock.elapsed()
    assert await run(node, body) == [f"S{n}" for n in range(20)]
    assert clock.elapsed() - before < 3


async def test_a_name_twice_is_refused_before_the_call(node: Node) -> None:
    async def body(context: Context = INJECTED) -> None:
        await context.step("a", call, "first")
        with pytest.raises(StepNameError, match="'a' is used twice"):
            await context.step("a", call, "second")

    await run(node, body)
    assert CALLS == {"first": 1}


@pytest.mark.parametrize("name", ["", "!a", "a\0", "x" * 201, 7])
async def test_a_bad_name_is_refused_before_the_call(node: Node, name: Any) -> None:
    async def body(context: Context = INJECTED) -> None:
        with pytest.raises(OptionError, match="name"):
            await context.step(name, call, "called")

    await run(node, body)
    assert not CALLS


async def test_a_value_that_cannot_be_kept_fails_the_body(node: Node) -> None:
    async def body(context: Context = INJECTED) -> None:
        with pytest.raises(EncodeError):
            await context.step("object", call, "object", object())
        with pytest.raises(StepLimitError, match="over the limit of 1,048,576 bytes"):
            await context.step("large", call, "large", "x" * MAX_STEP_BYTES)

    await run(node, body)


async def test_all_values_have_a_limit(node: Node) -> None:
    async def body(context: Context = INJECTED) -> int:
        count = MAX_ALL_STEP_BYTES // (MAX_STEP_BYTES - 100)
        for number in range(count):
            await context.step(f"s{number}", call, "large", b"x" * (MAX_STEP_BYTES - 100))
        with pytest.raises(StepLimitError, match="over the limit of 16,777,216 bytes"):
            await context.step("last", call, "last", b"x" * (MAX_STEP_BYTES - 100))
        return count

    assert await run(node, body) == 16


async def test_too_many_steps_are_refused_before_the_call(node: Node) -> None:
    async def body(context: Context = INJECTED) -> None:
        for number in range(MAX_STEPS):
            await context.step(str(number), call, "kept")
        with pytest.raises(StepLimitError, match="1,000 steps"):
            await context.step("more", call, "more")

    await run(node, body)
    assert CALLS == {"kept": MAX_STEPS}


async def test_signals_leave_their_place_to_steps(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> None:
        await context.suspend("first", "1m")
        for number in range(MAX_STEPS - 1):
            await context.step(str(number), call, "kept")
        with pytest.raises(StepLimitError, match="1,000 steps"):
            await context.step("more", call, "more")

    job = Job("durable", body)
    node.register(job)
    instance = await node.schedule(job)
    await clock.advance(1)
    assert await node.signal(instance, "approval", True)
    await instance.result("1h")
    assert CALLS == {"kept": MAX_STEPS - 1}


async def test_a_value_that_no_longer_fits_is_made_again_under_another_name(node: Node) -> None:
    def as_text() -> str:
        return "seven"

    def as_number() -> int:
        CALLS["number"] += 1
        return 7

    async def body(context: Context = INJECTED) -> int:
        if context.attempt == 1:
            await context.step("n", as_text)
            raise ValueError("another release follows")
        number = await context.step("n", as_number)
        if context.attempt == 2:
            raise ValueError("once more")
        return number

    job = Job("durable", body, max_retries=5)
    node.register(job)
    instance = await node.schedule(job)
    assert await instance.result("1h") == 7
    assert CALLS == {"number": 1}
    warnings = [line for line in await lines_of(instance) if "does not fit" in line]
    assert len(warnings) == 1
    assert "'n'" in warnings[0]
    assert "'n@2'" in warnings[0]


async def test_long_names_of_values_that_do_not_fit_stay_apart(node: Node) -> None:
    names = ["n" * (MAX_STEP_NAME - 1) + end for end in "ab"]

    async def body(context: Context = INJECTED) -> list[Any]:
        if context.attempt == 1:
            for name in names:
                await context.step(name, call_later, name)
            raise ValueError("another release follows")
        return [await context.step(name, numbered, number) for number, name in enumerate(names)]

    def numbered(number: int) -> int:
        return number

    job = Job("durable", body, max_retries=5)
    node.register(job)
    instance = await node.schedule(job)
    assert await instance.result("1h") == [0, 1]
    assert list(await node.steps(instance)) == sorted([*names, *(f"{name}@2" for name in names)])


async def test_a_job_can_be_a_step(node: Node) -> None:
    inner = Job("inner", call_later)

    async def body(context: Context = INJECTED) -> str:
        return await context.step("inner", inner, "inner")

    assert await run(node, body) == "INNER"


async def test_a_step_inside_a_step_is_kept_on_its_own(node: Node) -> None:
    async def body(context: Context = INJECTED) -> str:
        async def outer() -> str:
            inner = await context.step("inner", call_later, "inner")
            return fail_once(inner)

        return await context.step("outer", outer)

    assert await run(node, body, max_retries=1) == "INNER"
    assert CALLS == {"inner": 1, "INNER": 2}


async def test_a_sync_step_cannot_wait_for_the_thread_that_waits_for_it(node: Node) -> None:
    def body(context: BlockingContext = INJECTED) -> str:
        async def outer() -> str:
            with pytest.raises(NodeStateError, match="step 'inner': a sync function needs a thread"):
                await context.context.step("inner", fail_once, "inner")
            return await context.context.step("later", call_later, "later")

        return context.step("outer", outer)

    def deferred(context: Context = INJECTED) -> Any:
        async def inner() -> str:
            return await context.step("own thread", str, "free")

        return inner()

    assert await run(node, body) == "LATER"
    assert await run(node, deferred) == "free"


async def test_a_cancelled_step_in_a_thread_is_kept_before_the_body_ends(node: Node, clock: VirtualClock) -> None:
    begun = threading.Event()

    def slow() -> str:
        CALLS["slow"] += 1
        begun.set()
        return "slow"

    async def other() -> None:
        await asyncio.to_thread(begun.wait)
        raise ValueError("a sibling fails")

    async def body(context: Context = INJECTED) -> str:
        if context.attempt == 1:
            async with asyncio.TaskGroup() as group:
                group.create_task(context.step("slow", slow))
                group.create_task(other())
        return await context.step("slow", slow)

    assert await run(node, body, max_retries=1) == "slow"
    assert CALLS == {"slow": 1}


async def test_a_step_that_waits_for_the_store_is_kept_although_the_body_ends(clock: VirtualClock) -> None:
    called = asyncio.Event()

    async def quick() -> str:
        CALLS["quick"] += 1
        called.set()
        return "quick"

    async def other() -> None:
        await called.wait()
        raise ValueError("a sibling fails")

    async def body(context: Context = INJECTED) -> str:
        if context.attempt == 1:
            async with asyncio.TaskGroup() as group:
                group.create_task(context.step("quick", quick))
                group.create_task(other())
        return await context.step("quick", quick)

    store = flaky_store(clock)
    async with running_node(store=store.store, clock=clock) as node:
        store.slow(1, "turn")  # the next request is on its way when the step ends
        assert await run(node, body, max_retries=1) == "quick"
    assert CALLS == {"quick": 1}


async def test_a_timeout_keeps_the_steps_that_had_ended(node: Node) -> None:
    async def body(context: Context = INJECTED) -> str:
        kept = await context.step("kept", call_later, "kept")
        if context.attempt == 1:
            await asyncio.sleep(100)
        return kept

    assert await run(node, body, timeout=5, max_retries=1) == "KEPT"
    assert CALLS == {"kept": 1}


async def test_verbs_need_a_run(node: Node) -> None:
    contexts: list[Context] = []

    async def body(context: Context = INJECTED) -> None:
        contexts.append(context)
        await context.step("a", call, "a")

    def blocking(context: BlockingContext = INJECTED) -> bool:
        context.assert_owner()
        with pytest.raises(NodeStateError, match="step"):
            context.step("a", call, "never")
        return context.detached

    await run(node, body)
    with pytest.raises(NodeStateError, match="after the end of the run"):
        await contexts[0].step("b", call, "never")
    with pytest.raises(NodeStateError, match="step"):
        await Context().step("a", call, "never")
    assert Job("direct", blocking)() is True
    assert CALLS == {"a": 1}


async def test_another_event_loop_has_no_steps(node: Node) -> None:
    def own_loop(context: Context = INJECTED) -> int:
        return asyncio.run(context.step("one", int, "1"))

    node.register(Job("own.loop", own_loop))
    instance = await node.schedule("own.loop")
    with pytest.raises(JobFailed, match="a body in a thread takes a BlockingContext"):
        await instance.result(5)


async def test_a_body_in_a_process_has_no_steps(node: Node) -> None:
    node.register(in_process)
    answer = await (await node.schedule(in_process)).result("1m")
    assert answer == "run_in: expected another for 'in process', whose body calls step(), got 'process'"


async def test_a_cancelled_body_keeps_no_more_steps(node: Node, clock: VirtualClock) -> None:
    ended: list[str] = []

    async def body(context: Context = INJECTED) -> None:
        try:
            await context.step("long", asyncio.sleep, 100)
        except asyncio.CancelledError as error:
            ended.append(str(error))
            raise

    job = Job("durable", body)
    node.register(job)
    instance = await node.schedule(job)
    await clock.advance(1)
    assert await instance.cancel()
    await clock.advance(5)
    assert ended == ["user"]
    assert all(worker.instance is None for worker in node.workers())


async def test_an_async_body_gets_no_blocking_context() -> None:
    async def body(context: BlockingContext = INJECTED) -> None: ...

    with pytest.raises(OptionError, match="must not block"):
        Node(jobs=[Job("wrong", body)])


async def test_a_body_without_verbs_makes_no_durable_run(node: Node) -> None:
    seen: list[Any] = []

    async def body(context: Context = INJECTED) -> None:
        runtime: Any = node._runtime  # pyright: ignore[reportPrivateUsage]
        seen.append(runtime.context_backend.runs[context].durable)

    await run(node, body)
    assert seen == [None]


async def test_a_crashed_node_leaves_the_steps_to_its_peer(clock: VirtualClock) -> None:
    release = asyncio.Event()

    async def body(context: Context = INJECTED) -> list[str]:
        done = [await context.step(str(number), call_later, str(number)) for number in range(3)]
        await release.wait()
        return done

    async with running_node(Job("durable", body), store=memory_store(clock), clock=clock) as node:
        instance = await node.schedule("durable")
        await clock.advance(10)
        assert (await instance.refresh()).state is State.PROCESSING
        runtime: Any = node._runtime  # pyright: ignore[reportPrivateUsage]
        runtime.lease_dead(runtime.incarnation)  # as if a peer had declared this node dead
        await clock.advance(60)
        release.set()
        assert await instance.result("1h") == ["0", "1", "2"]
    assert CALLS == {"0": 1, "1": 1, "2": 1}
