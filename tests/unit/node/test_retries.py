"""Retries, backoff, snoozing and timeouts."""

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import tenacity

from peerjob import (
    INJECTED,
    Backoff,
    Context,
    Fail,
    Instance,
    Job,
    JobFailed,
    JobTimedOut,
    Query,
    Retry,
    State,
    SystemClock,
)
from peerjob.model.durations import MAX_SECONDS
from peerjob.model.errors import Snooze
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import drain, running_node
from support.factories import lines_of, notes_of, running_nodes, states_of


class FailingBody:
    """Fails the first runs, and notes when each began."""

    def __init__(self, clock: VirtualClock, times: int = 1_000_000, error: Callable[[], BaseException] = ValueError):
        self.clock = clock
        self.times = times
        self.error = error
        self.began: list[float] = []

    async def __call__(self) -> int:
        self.began.append(self.clock.elapsed())
        if len(self.began) <= self.times:
            raise self.error()
        return len(self.began)

    @property
    def waits(self) -> list[float]:
        """Seconds between the runs, to a tenth."""
        return [round(later - earlier, 1) for earlier, later in zip(self.began, self.began[1:], strict=False)]


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (0, [0, 0, 0, 0]),
        (2, [2, 2, 2, 2]),
        ("1m", [60, 60, 60, 60]),
        (timedelta(seconds=3), [3, 3, 3, 3]),
        (Backoff.fixed(7), [7, 7, 7, 7]),
        (Backoff.exponential(initial=1, factor=3, max=20, jitter=0), [1, 3, 9, 20]),
        (tenacity.wait_fixed(4), [4, 4, 4, 4]),
        (tenacity.wait_exponential(multiplier=1, max=5), [1, 2, 4, 5]),
        (tenacity.wait_fixed(1) + tenacity.wait_incrementing(1, 1), [2, 3, 4, 5]),
        (lambda instance, error: instance.attempts * 10, [10, 20, 30, 40]),
        (lambda instance, error: f"{len(str(error))}s", [0, 0, 0, 0]),
    ],
    ids=[
        "none",
        "seconds",
        "text",
        "timedelta",
        "fixed",
        "exponential",
        "tenacity",
        "growing",
        "sum",
        "function",
        "function of text",
    ],
)
async def test_a_retry_waits_for_its_backoff(clock: VirtualClock, backoff: Any, waits: list[float]) -> None:
    failing = FailingBody(clock)
    async with running_node(Job("fail", failing, max_retries=4, backoff=backoff), clock=clock) as node:
        instance = await node.schedule("fail")
        await drain(node)

        assert [pytest.approx(wait, abs=0.1 + wait * 0.01) for wait in waits] == failing.waits
        assert (await instance.refresh()).attempts == 5


def test_jitter_stays_within_its_share() -> None:
    waits = [
        Backoff.exponential(initial=10, max=10, jitter=0.2).seconds(1, str(UUID(int=number))) for number in range(200)
    ]
    assert 8 <= min(waits) < 9 < 11 < max(waits) <= 12
    assert Backoff.exponential().seconds(5000, "an id") <= 360


@pytest.mark.parametrize(
    "backoff",
    [
        lambda instance, error: 1 / 0,
        lambda instance, error: -1,
        lambda instance, error: "soon",
        lambda instance, error: float("inf"),
        lambda instance, error: timedelta.max,
        lambda instance, error: None,
        lambda: 1,
    ],
    ids=["raises", "negative", "no duration", "infinite", "beyond all time", "nothing", "no arguments"],
)
async def test_a_backoff_that_fails_gives_way_to_the_default(clock: VirtualClock, backoff: Any) -> None:
    failing = FailingBody(clock, error=lambda: KeyError("first"))
    async with running_node(Job("fail", failing, max_retries=2, backoff=backoff), clock=clock) as node:
        instance = await node.schedule("fail")
        with pytest.raises(JobFailed, match="KeyError: 'first'") as caught:
            await clock.run(instance.result(), limit=60)
        assert "KeyError: 'first'" in caught.value.traceback
        assert failing.waits == [pytest.approx(1, abs=0.3), pytest.approx(2, abs=0.6)]
        lines = [line.message for line in await instance.logs()]
        assert len(lines) == 2
        assert all(line.startswith("the backoff of 'fail' failed (") for line in lines)


async def test_a_backoff_may_take_the_instance_alone(clock: VirtualClock) -> None:
    failing = FailingBody(clock)

    def backoff(instance: Instance[Any]) -> int:
        return 10 * instance.attempts

    job = Job("fail", failing, max_retries=2, backoff=backoff)
    async with running_node(job, clock=clock) as node:
        with pytest.raises(JobFailed):
            await clock.run((await node.schedule("fail")).result())
        assert failing.waits == [10, 20]


async def test_a_tenacity_wait_without_bounds_is_bounded(clock: VirtualClock) -> None:
    backoff = tenacity.wait_exponential(multiplier=1e18)
    async with running_node(Job("fail", FailingBody(clock), max_retries=4, backoff=backoff), clock=clock) as node:
        instance = await node.schedule("fail")
        await clock.advance(5)
        assert (await instance.refresh()).state is State.SCHEDULED
        assert abs(instance.due_at.timestamp() - clock.time_us() / 1e6 - MAX_SECONDS) < 10
        assert await lines_of(instance) == []


@pytest.mark.parametrize(
    ("options", "error", "runs"),
    [
        ({}, ValueError, 3),
        ({}, KeyboardInterrupt, 1),
        ({"retry_on": ValueError}, ValueError, 3),
        ({"retry_on": ValueError}, UnicodeError, 3),
        ({"retry_on": ValueError}, KeyError, 1),
        ({"retry_on": (OSError, KeyError)}, KeyError, 3),
        ({"retry_on": lambda error: "again" in str(error)}, lambda: ValueError("again"), 3),
        ({"retry_on": lambda error: "again" in str(error)}, lambda: ValueError("never"), 1),
        ({"retry_on": lambda error: 1 / 0}, ValueError, 1),
        ({"no_retry_on": LookupError}, KeyError, 1),
        ({"no_retry_on": LookupError}, ValueError, 3),
        ({"retry_on": Exception, "no_retry_on": (lambda error: True)}, ValueError, 1),
        ({"retry_on": BaseException}, KeyboardInterrupt, 3),
        ({}, lambda: Fail("for good"), 1),
        ({"retry_on": OSError}, Retry, 3),
        ({"no_retry_on": Exception}, lambda: Retry(reason="please"), 3),
    ],
)
async def test_which_errors_are_retried(
    clock: VirtualClock, options: Any, error: Callable[[], BaseException], runs: int
) -> None:
    failing = FailingBody(clock, error=error)
    async with running_node(Job("fail", failing, max_retries=2, **options), clock=clock) as node:
        instance = await node.schedule("fail")
        await drain(node)

        assert len(failing.began) == runs
        assert (await instance.refresh()).state is State.TERMINATED


async def test_a_retry_that_succeeds_completes(clock: VirtualClock) -> None:
    failing = FailingBody(clock, times=2)
    async with running_node(Job("fail", failing, max_retries=5, backoff=1), clock=clock) as node:
        instance = await node.schedule("fail")

        assert await clock.run(instance.result()) == 3
        assert instance.attempts == 3
        assert await notes_of(instance) == [
            "Created",
            "Scheduled",
            "Processing",
            "Scheduled: retry 1 in 1s: ValueError",
            "Processing",
            "Scheduled: retry 2 in 1s: ValueError",
            "Processing",
            "Completed",
        ]


@pytest.mark.parametrize(("after", "wait"), [("30s", 30), (0, 0), ("0s", 0), (0.4, 0.4), (None, 5)])
async def test_a_job_may_say_when_it_is_to_be_retried(clock: VirtualClock, after: Any, wait: float) -> None:
    failing = FailingBody(clock, times=1, error=lambda: Retry(after=after))
    async with running_node(Job("fail", failing, max_retries=1, backoff=5), clock=clock) as node:
        assert await clock.run((await node.schedule("fail")).result()) == 2
        assert failing.waits == [pytest.approx(wait, abs=0.3)]


async def test_retries_run_on_any_node(clock: VirtualClock) -> None:
    seen: set[str] = set()

    async def fail(instance: Instance[Any] = INJECTED) -> None:
        seen.add(str(instance.node))
        await asyncio.sleep(0.5)
        raise ValueError

    job = Job("fail", fail, max_retries=20, backoff=1)
    async with running_nodes(clock, "a", "b", jobs=job, workers=1) as (a, _):
        await a.schedule_many(job.call() for _ in range(4))
        await drain(a)
        assert seen == {"a", "b"}


async def test_a_snooze_puts_off_and_does_not_count(clock: VirtualClock) -> None:
    runs: list[float] = []

    async def wait_for_it(ctx: Context = INJECTED) -> int:
        runs.append(clock.elapsed())
        try:
            if len(runs) < 4:
                ctx.snooze("1m")
        except Exception:  # noqa: BLE001  # as many a job has; it must not swallow the snooze
            return -1
        return ctx.attempt

    async with running_node(Job("wait", wait_for_it), clock=clock) as node:
        instance = await node.schedule("wait")

        assert await clock.run(instance.result()) == 1
        assert instance.attempts == 1
        assert runs[-1] - runs[0] == pytest.approx(180, abs=3)
        assert (await notes_of(instance)).count("Scheduled: snoozed for 1m") == 3


@pytest.mark.parametrize(
    ("error", "backoff"),
    [(lambda: Snooze(0.4), 9), (lambda: Retry(after=0.4), 9), (ValueError, 0.4)],
    ids=["snooze", "retry", "backoff"],
)
async def test_a_wait_can_be_a_part_of_a_second(
    clock: VirtualClock, error: Callable[[], BaseException], backoff: float
) -> None:
    failing = FailingBody(clock, 3, error)
    async with running_node(Job("fail", failing, max_retries=3, backoff=backoff), clock=clock) as node:
        assert await clock.run((await node.schedule("fail")).result()) == 4
        assert failing.waits == [0.4, 0.4, 0.4]


async def test_a_sync_job_snoozes_too(clock: VirtualClock) -> None:
    runs: list[int] = []

    def wait_for_it(ctx: Context = INJECTED) -> str:
        runs.append(1)
        if len(runs) < 3:
            ctx.snooze(5)
        return "done"

    async with running_node(Job("wait", wait_for_it), clock=clock) as node:
        assert await clock.run((await node.schedule("wait")).result()) == "done"


# -- timeouts --------------------------------------------------------------------------------------------------------


async def test_an_async_body_ends_at_its_timeout(clock: VirtualClock) -> None:
    ended: list[float] = []

    async def sleep() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(clock.elapsed())

    async with running_node(Job("sleep", sleep, timeout="5s"), clock=clock) as node:
        instance = await node.schedule("sleep")
        with pytest.raises(JobTimedOut, match="5s"):
            await clock.run(instance.result())

        assert ended == [pytest.approx(5)]
        assert instance.timed_out_at is not None
        assert await states_of(instance) == ["Created", "Scheduled", "Processing", "TimedOut"]


async def test_a_timed_out_sync_body_keeps_its_worker_until_it_ends() -> None:
    timed_out, leave = threading.Event(), threading.Event()

    def stay(ctx: Context = INJECTED) -> str:
        while not ctx.cancelled:
            leave.wait(0.001)
        timed_out.set()
        leave.wait(60)
        return "too late"

    # in real time: virtual time stands still while a thread works
    async with running_node(Job("stay", stay, timeout=0.2), clock=SystemClock()) as node:
        instance = await node.schedule("stay")
        assert await asyncio.to_thread(timed_out.wait, 60)
        assert (await instance.refresh()).state is State.PROCESSING
        assert instance.id in [worker.instance for worker in node.workers()]
        leave.set()
        with pytest.raises(JobTimedOut):
            await instance.result(timeout=60)


async def test_a_timed_out_attempt_is_retried_and_the_last_one_ends_in_timed_out(clock: VirtualClock) -> None:
    async def sleep() -> None:
        await asyncio.sleep(60)

    async with running_node(Job("sleep", sleep, timeout=5, max_retries=2, backoff=10), clock=clock) as node:
        instance = await node.schedule("sleep")
        with pytest.raises(JobTimedOut):
            await clock.run(instance.result())

        assert instance.attempts == 3
        assert clock.elapsed() == pytest.approx(35, abs=1)
        assert [note for note in await notes_of(instance) if note.startswith("Scheduled: ")] == [
            "Scheduled: timed out; retry 1 in 10s",
            "Scheduled: timed out; retry 2 in 10s",
        ]


async def test_a_body_knows_its_deadline_and_the_reason(clock: VirtualClock) -> None:
    seen: list[Any] = []

    async def sleep(ctx: Context, instance: Instance[Any]) -> None:
        assert ctx.deadline is not None
        assert instance.processed_at is not None
        seen.append((ctx.deadline - instance.processed_at).total_seconds())
        try:
            await ctx.sleep(60)
        finally:
            seen.append(ctx.reason)

    async with running_node(Job("sleep", sleep, timeout=5), clock=clock) as node:
        await node.schedule("sleep")
        await drain(node)
        assert seen == [5, "timeout"]


async def test_a_body_that_swallows_its_timeout_has_timed_out_all_the_same(clock: VirtualClock) -> None:
    async def swallow() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "fine"
        return "never"

    async with running_node(Job("swallow", swallow, timeout=1), clock=clock) as node:
        with pytest.raises(JobTimedOut):
            await clock.run((await node.schedule("swallow")).result())


async def test_a_body_within_its_timeout_is_left_alone(clock: VirtualClock) -> None:
    async def sleep(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "in time"

    async with running_node(Job("sleep", sleep, timeout=5), clock=clock) as node:
        instance = await node.schedule("sleep", 4.9)
        assert await clock.run(instance.result()) == "in time"
        await clock.advance(10)
        assert await node.count(Query(state=State.TIMED_OUT)) == 0


async def test_an_error_of_the_body_s_own_timeout_is_an_error(clock: VirtualClock) -> None:
    async def inner() -> None:
        async with asyncio.timeout(1):
            await asyncio.sleep(60)

    async with running_node(Job("inner", inner, timeout=30), clock=clock) as node:
        with pytest.raises(JobFailed) as caught:
            await clock.run((await node.schedule("inner")).result())
        assert caught.value.type == "TimeoutError"
