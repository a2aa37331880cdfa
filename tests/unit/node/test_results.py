"""What bodies return and raise, and the state of the instance; the node survives all of it."""

import asyncio
import dataclasses
import functools
import os
import socket
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from peerjob import (
    INJECTED,
    Context,
    Depends,
    Instance,
    Job,
    JobFailed,
    Manager,
    Node,
    NodeStateError,
    State,
    Worker,
)
from peerjob.model.codec import encode_value
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import drain, running_node
from support.factories import notes_of, states_of


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class OddBaseError(BaseException):
    pass


async def run_one(clock: VirtualClock, executor: Callable[..., Any], *args: Any, **options: Any) -> Any:
    async with running_node(Job("one", executor, **options), clock=clock) as node:
        return await clock.run((await node.schedule("one", *args)).result())


# -- results -------------------------------------------------------------------------------------------------------


class Callables:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def method(self, x: int) -> int:
        return x * self.factor

    def __call__(self, x: int) -> int:
        return x * self.factor

    @staticmethod
    def static(x: int) -> int:
        return x * 3


async def coroutine(x: int) -> int:
    await asyncio.sleep(1)
    return x * 3


@pytest.mark.parametrize(
    "executor",
    [
        lambda x: x * 3,
        coroutine,
        Callables(3).method,
        Callables(3),
        Callables.static,
        functools.partial(lambda factor, x: x * factor, 3),
        functools.partial(coroutine),
    ],
    ids=["lambda", "async", "method", "instance", "static method", "partial", "async partial"],
)
async def test_any_callable_runs(clock: VirtualClock, executor: Callable[..., Any]) -> None:
    assert await run_one(clock, executor, 14) == 42


def repr_start(value: object) -> str:
    return f"{value!r:.20}"


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        True,
        -1.5,
        2**80,
        "text with \N{SNOWMAN} and \x00",
        b"\x00\xff",
        (1, "two", None),
        [1, [2, [3]]],
        {"a": {"b": ()}},
        {1, 2},
        Decimal("1.10"),
        timedelta(days=-1, microseconds=1),
        datetime(2026, 5, 1, 12, 0, tzinfo=UTC),
        UUID(int=7),
        "x" * 100_000,
    ],
    ids=repr_start,
)
async def test_what_a_body_returns_is_what_the_caller_gets(clock: VirtualClock, value: Any) -> None:
    result = await run_one(clock, lambda: value)
    assert result == value
    assert type(result) is type(value)


async def test_several_results_are_a_tuple(clock: VirtualClock) -> None:
    def divide(x: int, y: int) -> tuple[int, int]:
        return x // y, x % y

    assert await run_one(clock, divide, 17, 5) == (3, 2)


async def test_a_sync_body_runs_in_a_thread_and_an_async_one_on_the_loop(clock: VirtualClock) -> None:
    async def on_loop() -> int:
        return threading.get_ident()

    assert await run_one(clock, threading.get_ident) != threading.get_ident()
    assert await run_one(clock, on_loop) == threading.get_ident()


# -- errors --------------------------------------------------------------------------------------------------------


def recurse() -> None:
    recurse()


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


ERRORS: list[tuple[BaseException, str]] = [
    (ValueError("bad"), "ValueError"),
    (KeyError("key"), "KeyError"),
    (SystemExit(3), "SystemExit"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (GeneratorExit(), "GeneratorExit"),
    (StopIteration("stop"), "StopIteration"),
    (StopAsyncIteration("stop"), "StopAsyncIteration"),
    (MemoryError(), "MemoryError"),
    (TimeoutError("mine"), "TimeoutError"),
    (ExceptionGroup("several", [ValueError(1), TypeError(2)]), "ExceptionGroup"),
    (UnspeakableError(), "UnspeakableError"),
    (OddBaseError("odd"), "OddBaseError"),
    (ValueError("half a character: \ud800"), "ValueError"),
    (ValueError("x" * 1_000_000), "ValueError"),
]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("error", "name"), ERRORS, ids=[f"{number}-{name}" for number, (_, name) in enumerate(ERRORS)])
async def test_any_error_of_a_body_ends_the_instance_and_not_the_node(
    clock: VirtualClock, error: BaseException, name: str, asynchronous: bool
) -> None:
    async def fail() -> None:
        raise error

    jobs = [Job("fail", fail if asynchronous else raising(error)), Job("next", lambda: "next")]
    async with running_node(jobs, clock=clock, workers=1) as node:
        instance = await node.schedule("fail")
        assert await clock.run((await node.schedule("next")).result()) == "next"
        await instance.refresh()

        assert instance.state is State.TERMINATED
        assert instance.error is not None
        # Python itself makes a RuntimeError of a StopIteration on its way out of a coroutine
        expected = "RuntimeError" if asynchronous and name == "StopIteration" else name
        assert instance.error.type.rpartition(".")[2] == expected
        assert len(instance.error.message) < 20_000
        assert await states_of(instance) == ["Created", "Scheduled", "Processing", "Terminated"]
        assert [worker.instance for worker in node.workers()] == [None]


async def test_endless_recursion_ends_the_instance(clock: VirtualClock) -> None:
    with pytest.raises(JobFailed) as caught:
        await run_one(clock, recurse)
    assert caught.value.type == "RecursionError"


async def test_the_error_carries_the_traceback_of_the_body_alone(clock: VirtualClock) -> None:
    def inner() -> None:
        raise ValueError("deep")

    def outer() -> None:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("outer") from error

    with pytest.raises(JobFailed) as caught:
        await run_one(clock, outer)
    trace = caught.value.traceback
    assert "in inner" in trace
    assert "in outer" in trace
    assert "ValueError: deep" in trace
    assert "direct cause" in trace
    assert "peerjob" + os.sep + "node" not in trace
    assert "threads.py" not in trace


async def raise_it() -> None:
    raise asyncio.CancelledError


async def await_a_cancelled_task() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    asyncio.get_running_loop().call_later(1, task.cancel)
    await task


async def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


def raise_it_in_a_thread() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("body", [raise_it, await_a_cancelled_task, cancel_itself, raise_it_in_a_thread])
async def test_a_cancellation_that_does_not_come_from_the_node_is_a_failure(
    clock: VirtualClock, body: Callable[..., Any]
) -> None:
    seen: list[str] = []
    job = Job("body", body, max_retries=1, on_terminate=lambda instance, error: seen.append(type(error).__name__))
    async with running_node(job, clock=clock) as node:
        instance = await node.schedule("body")
        with pytest.raises(JobFailed, match="CancelledError"):
            await clock.run(instance.result())
        assert (await notes_of(instance))[2:] == [
            "Processing",
            "Scheduled: retry 1: asyncio.exceptions.CancelledError",
            "Processing",
            "Terminated: asyncio.exceptions.CancelledError",
        ]
        assert seen == ["CancelledError"] * 2


async def test_a_cancellation_that_does_not_come_from_the_node_may_be_kept_from_retries(clock: VirtualClock) -> None:
    job = Job("body", raise_it, max_retries=3, no_retry_on=asyncio.CancelledError)
    async with running_node(job, clock=clock) as node:
        instance = await node.schedule("body")
        await clock.run(instance.wait())
        assert (instance.state, instance.attempts) == (State.TERMINATED, 1)


async def test_a_result_that_cannot_be_stored_is_a_failure_that_is_not_retried(clock: VirtualClock) -> None:
    runs: list[int] = []

    def leak() -> object:
        runs.append(1)
        return {"deep": [object()]}

    async with running_node(Job("leak", leak, max_retries=5), clock=clock) as node:
        instance = await node.schedule("leak")
        with pytest.raises(JobFailed, match=r"\['deep'\]\[0\]"):
            await clock.run(instance.result())
        assert len(runs) == 1


async def test_a_result_over_the_limit_is_a_failure_that_names_the_sizes(clock: VirtualClock) -> None:
    async with running_node(Job("big", lambda: "x" * 20_000), clock=clock, max_payload=10_000) as node:
        instance = await node.schedule("big")
        with pytest.raises(JobFailed, match="10,000") as caught:
            await clock.run(instance.result())
        assert caught.value.type.endswith("PayloadTooLargeError")


@pytest.mark.parametrize("over", [0, 1])
async def test_a_result_of_exactly_the_limit_is_stored(clock: VirtualClock, over: int) -> None:
    result = "x" * 20_000
    limit = len(encode_value(result)) - over
    async with running_node(Job("big", lambda: result), clock=clock, max_payload=limit) as node:
        instance = await node.schedule("big")
        await drain(node)
        assert (await instance.refresh()).state is (State.TERMINATED if over else State.COMPLETED)


async def test_a_result_that_contains_itself_is_a_failure(clock: VirtualClock) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(JobFailed):
        await run_one(clock, lambda: loop)


async def test_options_that_cannot_be_loaded_here_end_the_instance_and_not_the_node(
    clock: VirtualClock, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "fragile_options.py"
    module.write_text("def wait(instance, error):\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import fragile_options  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

    job = Job("add", lambda: 1, priority=9)
    other = Job("other", lambda: "fine")
    async with running_node(other, clock=clock, workers=1, allow_references=["fragile_options"]) as node:
        instance = await node.schedule(job.with_options(backoff=fragile_options.wait))
        monkeypatch.delitem(sys.modules, "fragile_options")
        module.write_text("raise RuntimeError('not today')\n")
        os.utime(module, (1, 1))
        node.register(job)
        with pytest.raises(JobFailed, match="not today"):
            await clock.run(instance.result())
        assert await clock.run((await node.schedule("other")).result()) == "fine"


# -- injection -------------------------------------------------------------------------------------------------------


async def test_a_body_is_given_what_it_asks_for_by_annotation(clock: VirtualClock) -> None:
    async def look(
        ctx: Context, x: int, node: Manager, worker: Worker = INJECTED, instance: Instance[Any] = INJECTED
    ) -> tuple[Any, ...]:
        assert Context.current() is ctx
        return (
            x,
            ctx.id,
            ctx.attempt,
            (await node.lookup_instance(ctx.id)).id,
            worker.instance,
            instance.id,
            worker.node,
        )

    async with running_node(Job("look", look), clock=clock, name="here") as node:
        instance = await node.schedule("look", "?", 5, "?")
        id = instance.id
        assert await clock.run(instance.result()) == (5, id, 1, id, id, id, "here")


async def test_a_job_schedules_another(clock: VirtualClock) -> None:
    child = Job("child", lambda x: x + 1)

    async def parent(node: Node, x: int) -> int:
        made: int = await (await node.schedule(child, x)).result()
        return made * 2

    async with running_node(child, Job("parent", parent), clock=clock) as node:
        assert await clock.run((await node.schedule("parent", 20)).result()) == 42


async def test_resources_come_from_their_factory_or_its_override(clock: VirtualClock) -> None:
    closed: list[str] = []

    class Pool:
        def __init__(self, name: str) -> None:
            self.name = name

        async def __aenter__(self) -> str:
            return self.name

        async def __aexit__(self, *_: object) -> None:
            closed.append(self.name)

    def real() -> Pool:
        return Pool("real")

    async def use(pool: Any = Depends(real), shared: Any = Depends(real, scope="node")) -> list[str]:
        return [pool, shared, *closed]

    job = Job("use", use)
    async with running_node(job, clock=clock) as node:
        assert await clock.run((await node.schedule(job)).result()) == ["real", "real"]
        assert await clock.run((await node.schedule(job)).result()) == ["real", "real", "real"]
    assert closed == ["real"] * 3

    closed.clear()
    node = Node(jobs=job, clock=clock)
    node.override(real, lambda: Pool("fake"))
    async with node:
        assert await clock.run((await node.schedule(job)).result()) == ["fake", "fake"]


async def test_a_resource_that_cannot_be_made_fails_the_run_alone(clock: VirtualClock) -> None:
    def get_pool() -> object:
        raise ConnectionError("no database")

    def use(pool: Any = Depends(get_pool)) -> None:
        raise AssertionError("never runs")

    with pytest.raises(JobFailed, match="no database"):
        await run_one(clock, use)


# -- the node around it --------------------------------------------------------------------------------------------


async def test_the_lifespan_surrounds_every_body(clock: VirtualClock) -> None:
    order: list[str] = []

    class Lifespan:
        def __init__(self, node: Node) -> None:
            self.node = node

        async def __aenter__(self) -> None:
            order.append("open")
            await self.node.schedule("work")

        async def __aexit__(self, *_: object) -> None:
            order.append("closed")

    async def work() -> None:
        await asyncio.sleep(1)
        order.append("work")

    async with running_node(Job("work", work), clock=clock, lifespan=Lifespan) as node:
        await drain(node)
    assert order == ["open", "work", "closed"]


async def test_a_lifespan_that_fails_leaves_nothing_running(clock: VirtualClock) -> None:
    class Lifespan:
        def __init__(self, node: Node) -> None:
            pass

        async def __aenter__(self) -> None:
            raise ConnectionError("no database")

        async def __aexit__(self, *_: object) -> None:
            raise AssertionError("was never entered")

    node = Node(clock=clock, lifespan=Lifespan)
    with pytest.raises(ConnectionError, match="no database"):
        await node.start()
    assert not node.running
    await clock.advance(10)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    with pytest.raises(NodeStateError):
        await node.count()


@dataclasses.dataclass
class Order:
    number: int
    due: timedelta


async def test_arguments_arrive_as_annotated(clock: VirtualClock) -> None:
    def take(order: Order, wait: timedelta, *rest: int, factor: Decimal) -> tuple[Any, ...]:
        return order.number, order.due, wait, rest, factor

    job = Job("take", take)
    async with running_node(job, clock=clock) as node:
        instance = await node.schedule("take", '{"number": 7, "due": "1m"}', "1h30m", "1", "2", factor="0.5")
        assert await clock.run(instance.result()) == (
            7,
            timedelta(minutes=1),
            timedelta(hours=1, minutes=30),
            (1, 2),
            Decimal("0.5"),
        )


def test_nodes_of_two_processes_on_one_host_have_two_names() -> None:
    assert Node().name == f"{socket.gethostname()}-{os.getpid()}"
    assert Node(name="mine").name == "mine"
