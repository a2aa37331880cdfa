"""Signals and tests of errors look into groups of errors, as TaskGroup raises them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from peerjob import Fail, Instance, Job, Retry, State, SystemClock
from peerjob.model.errors import Snooze
from peerjob.model.policy import checked, make_policy
from peerjob.testing import VirtualClock, running_node
from support import bodies
from support.factories import ending_of

LOST = ConnectionError("lost")


def nested(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("outer", [ValueError("other"), BaseExceptionGroup("inner", errors)])


def raising(error: BaseException) -> tuple[Callable[[], Any], Callable[[], Any]]:
    async def later() -> None:
        raise error

    def sync() -> None:
        raise error

    return later, sync


@pytest.mark.parametrize("mode", [0, 1], ids=["async", "thread"])
@pytest.mark.parametrize(
    ("errors", "last"),
    [
        ([Fail("never again")], "Terminated"),
        ([Retry(after=5)], "Scheduled: retry 1 in 5s"),
        ([Retry()], "Scheduled: retry 1 in 1m"),
        ([Snooze(7)], "Scheduled: snoozed for 7s"),
        ([Snooze(7), Retry(after=5), Fail("never again")], "Terminated"),
        ([Snooze(7), Retry(after=5), LOST], "Scheduled: retry 1 in 5s"),
        ([Snooze(7), Snooze(8), LOST], "Scheduled: snoozed for 7s"),
    ],
    ids=lambda one: repr(one) if isinstance(one, list) else one,
)
async def test_which_signal_of_a_group_counts(
    clock: VirtualClock, mode: int, errors: list[BaseException], last: str
) -> None:
    seen: list[BaseException] = []

    def on_terminate(instance: Instance[Any], error: BaseException) -> None:
        seen.append(error)

    error = nested(*errors)
    job = Job("body", raising(error)[mode], max_retries=3, backoff=60, on_terminate=on_terminate)
    async with running_node(job, clock=clock) as node:
        instance = await node.schedule("body")
        await clock.advance(0.5)
        assert ending_of((await instance.history())[-1]) == last
        assert seen == [] if "snoozed" in last else seen == [error]


async def test_the_error_of_a_group_with_a_signal_is_the_signal(clock: VirtualClock) -> None:
    async with running_node(Job("body", raising(nested(Fail("never again")))[0]), clock=clock) as node:
        instance = await node.schedule("body")
        await clock.run(instance.wait())
        assert instance.error is not None
        assert (instance.error.type, instance.error.message) == ("peerjob.Fail", "never again")
        assert "ValueError: other" in instance.error.traceback


async def test_a_task_group_as_it_is(clock: VirtualClock) -> None:
    runs: list[int] = []

    async def body() -> None:
        runs.append(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            group.create_task(raising(Fail("never again"))[0]())

    async with running_node(Job("body", body, max_retries=3), clock=clock) as node:
        instance = await node.schedule("body")
        await clock.run(instance.wait())
        assert (instance.state, runs) == (State.TERMINATED, [1])


def is_lost(error: BaseException) -> bool:
    return bool(error.args[0] == "lost")


@pytest.mark.parametrize(
    ("options", "errors", "runs"),
    [
        ({"retry_on": ConnectionError}, [LOST], 2),
        ({"retry_on": is_lost}, [LOST, OSError("lost")], 2),
        ({"retry_on": ConnectionError}, [LOST, KeyError("bug")], 1),
        ({"retry_on": ExceptionGroup}, [LOST, KeyError("bug")], 2),
        ({"no_retry_on": KeyError}, [LOST, KeyError("bug")], 1),
        ({"no_retry_on": lambda error: error.args[0] == "bug"}, [LOST, KeyError("bug")], 1),
        ({"no_retry_on": ExceptionGroup}, [LOST], 1),
        ({}, [LOST, KeyError("bug")], 2),
    ],
    ids=range(8),
)
async def test_a_group_is_retried_if_each_of_its_errors_would_be(
    clock: VirtualClock, options: dict[str, Any], errors: list[Exception], runs: int
) -> None:
    error = ExceptionGroup("outer", [ExceptionGroup("inner", errors)])
    async with running_node(Job("body", raising(error)[0], max_retries=1, **options), clock=clock) as node:
        instance = await node.schedule("body")
        await clock.run(instance.wait())
        assert (instance.state, instance.attempts) == (State.TERMINATED, runs)


async def test_a_group_out_of_a_process() -> None:
    jobs = [
        Job("fail", bodies.raises_group, run_in="process", max_retries=1),
        Job("retried", bodies.raises_group, run_in="process", max_retries=1, retry_on=ConnectionError),
        Job("not retried", bodies.raises_group, run_in="process", max_retries=1, retry_on=KeyError),
    ]
    async with running_node(jobs, clock=SystemClock(), workers=1) as node:
        for kind, way, attempts, type_ in (
            ("fail", "fail", 1, "peerjob.Fail"),
            ("retried", "exception", 2, "ExceptionGroup"),
            ("not retried", "exception", 1, "ExceptionGroup"),
        ):
            instance = await (await node.schedule(kind, way)).wait(timeout=60)
            assert instance.error is not None
            assert (kind, instance.attempts, instance.error.type) == (kind, attempts, type_)


class OneSide(ExceptionGroup[Exception]):
    """A group that a job names by its own class."""


@pytest.mark.parametrize(
    ("retry_on", "no_retry_on", "retried"),
    [
        ([Exception], [], True),
        ([Exception], [OneSide], False),
        ([Exception], [ExceptionGroup], False),
        ([Exception], [ConnectionError], False),
        ([ValueError], [], False),
        ([ValueError], [OneSide], False),
        ([OneSide], [], True),
        ([OneSide], [ConnectionError], False),
        ([ValueError, ConnectionError], [], True),
        ([ValueError, ConnectionError], [KeyError], True),
    ],
)
def test_a_group_is_named_by_its_class_or_by_its_errors(
    retry_on: list[type[BaseException]], no_retry_on: list[type[BaseException]], retried: bool
) -> None:
    policy = make_policy(checked({"retry_on": retry_on, "no_retry_on": no_retry_on}))
    assert policy.retryable(OneSide("both", [ValueError("other"), ExceptionGroup("inner", [LOST])])) == retried
