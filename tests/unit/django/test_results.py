"""Enqueued tasks, and the results that Django sees."""

import math
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test.utils import override_settings
from django.utils import timezone
from django.utils.safestring import SafeString

from peerjob import ArgumentError, Job, Node, PayloadTooLargeError
from peerjob.django import TaskBackend, with_options
from peerjob.django.framework import (
    AnyResult,
    AnyTask,
    InvalidTask,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
    task_finished,
    task_started,
)
from support.django_site import tasks
from support.waiting import PATIENCE

from .conftest import NodeMaker


async def ended(node: Node, result: AnyResult) -> AnyResult:
    await (await node.lookup_instance(result.id)).wait(PATIENCE)
    await result.arefresh()
    return result


@pytest.mark.parametrize("task", [tasks.add, tasks.add_later])
async def test_a_task_runs(node: Node, task: AnyTask) -> None:
    before = timezone.now()
    result = await task.aenqueue(2, y=3)
    assert result.status is TaskResultStatus.READY
    assert result.enqueued_at is not None

    await ended(node, result)

    assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, 5)
    assert (result.args, result.kwargs, result.errors) == ([2], {"y": 3}, [])
    assert (result.attempts, result.worker_ids) == (1, ["worker"])
    assert result.started_at is not None
    assert result.finished_at is not None
    assert before - timedelta(milliseconds=1) < result.enqueued_at <= result.started_at <= result.finished_at
    assert result.last_attempted_at == result.started_at
    assert await task.aget_result(result.id) == result


@pytest.mark.parametrize("task", [tasks.fails, tasks.fails_later])
async def test_a_failed_task_has_its_error(node: Node, task: AnyTask) -> None:
    result = await ended(node, await task.aenqueue("not there"))

    assert result.status is TaskResultStatus.FAILED
    [error] = result.errors
    assert error.exception_class is LookupError
    assert error.traceback.endswith("LookupError: not there\n")
    # the path of the checkout may have any name, so only the files of the frames tell whose code a frame is
    files = re.findall(r'^  File "(.*)", line \d+, in ', error.traceback, re.MULTILINE)
    assert files == [tasks.__file__]
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value


@pytest.mark.parametrize(
    ("task", "error"),
    [(tasks.exits, SystemExit), (tasks.returns_object, TypeError), (tasks.returns_nan, ValueError)],
    ids=["exit", "object", "nan"],
)
async def test_a_builtin_error_has_its_class(node: Node, task: AnyTask, error: type[BaseException]) -> None:
    result = await ended(node, await task.aenqueue())

    assert [one.exception_class for one in result.errors] == [error]


async def test_a_cancelled_task_has_failed(node: Node, run_node: NodeMaker) -> None:
    result = await tasks.add.using(run_after=timezone.now() + timedelta(hours=1)).aenqueue(1)
    await (await node.lookup_instance(result.id)).cancel()
    await result.arefresh()

    assert result.status is TaskResultStatus.FAILED
    assert [one.exception_class_path for one in result.errors] == ["peerjob.JobCancelled"]


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [((), {}, "x: missing"), ((1, 2, 3), {}, "at most 2"), ((1,), {"z": 2}, "no parameter 'z'")],
    ids=["missing", "many", "unknown"],
)
async def test_arguments_that_do_not_fit_are_refused_at_once(
    node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ArgumentError, match=problem):
        await tasks.add.aenqueue(*args, **kwargs)
    assert await node.count() == 0


async def test_values_that_cannot_be_stored_are_refused_at_once(node: Node) -> None:
    with pytest.raises(TypeError, match="Unsupported type"):
        await tasks.send.aenqueue(timezone.now())
    with pytest.raises(ValueError, match="Unsupported value"):
        await tasks.send.aenqueue(to={"name": b"\xff"})
    for lacked in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            await tasks.send.aenqueue([{"share": lacked}])
    with pytest.raises(PayloadTooLargeError):
        await tasks.send.aenqueue("x" * 2_000_000)
    assert await node.count() == 0


async def test_a_task_gets_its_arguments_as_json_has_them(node: Node) -> None:
    result = await ended(node, await tasks.context_of.aenqueue(key=(1, (2, "3"))))

    assert result.return_value == [result.id, 1, {"key": [1, [2, "3"]]}, ["worker"]]


async def test_values_are_those_of_a_round_trip_through_json(node: Node) -> None:
    result = await ended(
        node, await tasks.returns.aenqueue({2: HTTPStatus.OK, None: b"\xc3\xa9", "plain": SafeString("<b>")})
    )

    [given] = result.args
    assert given == {"2": 200, "null": "é", "plain": "<b>"}
    assert {type(one) for one in given.values()} == {int, str}
    assert result.return_value == {"1": [given, "bytes"]}


async def test_a_retried_task_counts_its_attempts(node: Node) -> None:
    result = await ended(node, await tasks.third_time.aenqueue())

    assert (result.return_value, result.attempts, result.worker_ids) == (3, 3, ["worker"] * 3)
    assert (await node.lookup_instance(result.id)).tags == ("tried",)


async def test_options_of_one_call_override_those_of_the_task(node: Node) -> None:
    result = await ended(node, await with_options(max_retries=1)(tasks.third_time).aenqueue())

    assert (result.status, result.attempts) == (TaskResultStatus.FAILED, 2)


async def test_a_task_in_a_process_has_django(node: Node) -> None:
    import os

    result = await ended(node, await tasks.apart.aenqueue())

    pid, id, attempt, closed = result.return_value
    assert pid != os.getpid()
    assert (id, attempt, closed) == (result.id, 1, True)


@pytest.mark.parametrize("store", ["sqlite"])
async def test_the_highest_priority_of_django_runs_first(run_node: NodeMaker, seen: list[Any]) -> None:
    async with run_node(workers=0):
        for priority in (-100, 0, 100, 8):
            await tasks.send.using(priority=priority).aenqueue(priority)
        of_definition = await tasks.send.aenqueue(7)
        found = await tasks.send.aget_result(of_definition.id)
        assert found.task == tasks.send
    async with run_node(workers=1) as node:
        await node.wait(timeout=PATIENCE)
    assert seen == [100, 8, 7, 0, -100]


async def test_a_task_waits_for_its_time(node: Node) -> None:
    at = timezone.now() + timedelta(hours=1)
    result = await tasks.add.using(run_after=at).aenqueue(1)

    instance = await node.lookup_instance(result.id)
    assert abs(instance.due_at - at) < timedelta(milliseconds=1)
    await result.arefresh()
    assert result.status is TaskResultStatus.READY


async def test_without_use_tz_times_are_naive(node: Node) -> None:
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        at = datetime(2031, 1, 1, 9)  # noqa: DTZ001  # Django has naive times without USE_TZ
        result = await tasks.add.using(run_after=at).aenqueue(1)
        assert (await node.lookup_instance(result.id)).due_at.isoformat() == "2031-01-01T00:00:00+00:00"
        ran = await ended(node, await tasks.add.aenqueue(1))
        assert ran.enqueued_at is not None
        assert ran.enqueued_at.tzinfo is None


async def test_a_task_is_checked_once_and_a_time_each_time(
    node: Node, backend: TaskBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[AnyTask] = []

    def check(task: AnyTask) -> None:
        checked.append(task)
        if task.queue_name == "nowhere":
            raise InvalidTask("no such queue")

    monkeypatch.setattr(backend, "validate_task", check)
    later = tasks.add.using(run_after=timezone.now() + timedelta(hours=1))
    mail = tasks.add.using(queue_name="mail")
    invalid = replace(tasks.add)
    object.__setattr__(invalid, "queue_name", "nowhere")
    checked.clear()  # the tasks were checked when they were made
    for _ in range(2):
        for task in (tasks.add, later, mail):
            await sync_to_async(backend.enqueue)(task, [1], {})
        with pytest.raises(InvalidTask, match="no such queue"):
            await sync_to_async(backend.enqueue)(invalid, [1], {})
    assert [checked.count(task) for task in (tasks.add, later, mail, invalid)] == [1, 2, 1, 2]
    assert node.running


async def test_a_time_that_is_no_datetime_is_refused(backend: TaskBackend) -> None:
    with override_settings(USE_TZ=False), pytest.raises(InvalidTask, match="aware datetime, got timedelta"):
        tasks.add.using(run_after=timedelta(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("id", ["123", "01a2174d-4b9b-7092-868b-1f06d87ffae3"])
async def test_a_result_that_is_not_there(node: Node, id: str) -> None:
    with pytest.raises(TaskResultDoesNotExist, match=id):
        await tasks.add.aget_result(id)


@pytest.mark.parametrize("kind", ["other", "os.system", "support.django_site.tasks.gone", "nowhere.tasks.add"])
async def test_an_instance_of_no_task_is_no_result(node: Node, backend: TaskBackend, kind: str) -> None:
    instance = await node.schedule(Job(kind))

    with pytest.raises(TaskResultDoesNotExist, match=f"{kind}, which is no task"):
        await backend.aget_result(instance.id)


async def test_a_stored_name_imports_no_module_outside_of_the_apps(node: Node, backend: TaskBackend) -> None:
    import sys

    instance = await node.schedule(Job("antigravity.fly"))
    with pytest.raises(TaskResultDoesNotExist):
        await backend.aget_result(instance.id)
    assert "antigravity" not in sys.modules


async def test_a_task_under_another_name_than_its_function_runs(node: Node) -> None:
    result = await ended(node, await tasks.shown.aenqueue())

    assert result.return_value == "hidden"
    assert (await tasks.shown.aget_result(result.id)).task == tasks.shown


@pytest.mark.parametrize("task", [tasks.enqueues, tasks.enqueues_later])
async def test_tasks_use_the_node_that_runs_them(node: Node, task: AnyTask) -> None:
    first = await ended(node, await task.aenqueue(4))
    second = await ended(node, await tasks.add.aget_result(first.return_value))

    assert second.return_value == 5
    assert len(await node.nodes()) == 1


@pytest.mark.parametrize("store", ["sqlite"])
async def test_a_queue_is_a_kind_of_its_own(run_node: NodeMaker, seen: list[Any]) -> None:
    async with run_node(queues=("mail",)) as node:
        mail = await ended(node, await tasks.send.aenqueue("ann"))
        other = await tasks.send.using(queue_name="default").aenqueue("bob")
        assert (mail.task.queue_name, other.status) == ("mail", TaskResultStatus.READY)
        assert (await node.stats()).unserved == {"support.django_site.tasks.send": 1}
        assert (await tasks.send.aget_result(other.id)).task.queue_name == "default"
    assert seen == ["ann"]


async def test_a_recurring_task_has_one_schedule(node: Node) -> None:
    assert [one.name for one in await node.schedules()] == ["support.django_site.tasks.tidy"]


@contextmanager
def received() -> Generator[list[tuple[str, str]]]:
    heard: list[tuple[str, str]] = []
    names = {"enqueued": task_enqueued, "started": task_started, "finished": task_finished}
    receivers: list[Any] = []
    for name, signal in names.items():

        def hear(sender: object, task_result: AnyResult, name: str = name, **_: object) -> None:
            assert sender is TaskBackend
            heard.append((name, task_result.status.value))

        signal.connect(hear)
        receivers.append((signal, hear))
    try:
        yield heard
    finally:
        for signal, hear in receivers:
            signal.disconnect(hear)


@pytest.mark.parametrize(
    ("task", "end"),
    [
        (tasks.add, "SUCCESSFUL"),
        (tasks.add_later, "SUCCESSFUL"),
        (tasks.fails, "FAILED"),
        (tasks.fails_later, "FAILED"),
    ],
)
async def test_signals_tell_of_a_run(node: Node, task: AnyTask, end: str) -> None:
    with received() as heard:
        await ended(node, await task.aenqueue(1))

    assert sorted(heard) == sorted([("enqueued", "READY"), ("started", "RUNNING"), ("finished", end)])


async def test_a_receiver_that_fails_fails_no_task(node: Node) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("of the receiver")

    task_started.connect(broken)
    try:
        result = await ended(node, await tasks.add.aenqueue(1))
    finally:
        task_started.disconnect(broken)
    assert result.return_value == 2
