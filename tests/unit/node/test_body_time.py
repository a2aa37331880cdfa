"""A body that asks its context for the time gets the time of its node, which is virtual in a test."""

from datetime import UTC, datetime, timedelta

from peerjob import INJECTED, Context, Job
from peerjob.testing import Eager, VirtualClock, running_node
from support import bodies

START = datetime(2030, 5, 1, 12, tzinfo=UTC)


async def times(context: Context = INJECTED) -> list[datetime]:
    before = context.now()
    await context.sleep("1m")
    return [before, context.now()]


def time_in_a_thread(context: Context = INJECTED) -> datetime:
    return context.now()


async def test_a_coroutine_and_a_thread_see_virtual_time() -> None:
    clock = VirtualClock(start=START)
    coroutine, thread = Job("times", times), Job("thread", time_in_a_thread)
    async with running_node(coroutine, thread, clock=clock) as node:
        before, after = await (await node.schedule(coroutine)).result()
        assert timedelta(0) <= before - START < timedelta(seconds=1)
        assert after - before == timedelta(minutes=1)
        assert await (await node.schedule(thread)).result() - after < timedelta(seconds=1)


async def test_a_process_counts_on_from_the_time_of_its_node() -> None:
    job = Job("process", bodies.time_and_deadline, run_in="process", timeout="1h")
    async with running_node(job, clock=VirtualClock(start=START)) as node:
        now, deadline = await (await node.schedule(job)).result()
    assert START <= now < deadline <= now + timedelta(hours=1)


def test_an_eager_run_has_the_time_of_its_clock() -> None:
    before, after = Eager(clock=VirtualClock(start=START)).run(Job("times", times)).result
    assert (before.date(), after - before) == (START.date(), timedelta(minutes=1))


def test_a_function_that_is_called_directly_has_the_time_of_the_machine() -> None:
    before = datetime.now(UTC)
    assert before <= time_in_a_thread(Context.current()) <= datetime.now(UTC)


def time_at(context: Context = INJECTED) -> str:
    return context.now().isoformat()


async def test_the_time_is_in_utc() -> None:
    async with running_node(Job("at", time_at), clock=VirtualClock(start=START), timezone="Europe/Berlin") as node:
        assert (await (await node.schedule("at")).result()).endswith("+00:00")
