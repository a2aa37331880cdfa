"""A task that is enqueued in a transaction is stored when the transaction commits."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction

from peerjob import ArgumentError, Node, PayloadTooLargeError
from peerjob.django.framework import AnyResult, TaskResultDoesNotExist, TaskResultStatus
from support.django_site import tasks

T = TypeVar("T")


async def sync(call: Callable[[], T]) -> T:
    """Call a function in a thread, and close its connections."""

    def run() -> T:
        try:
            return call()
        finally:
            connections.close_all()

    return await sync_to_async(run)()


async def test_a_task_is_stored_at_the_commit(node: Node) -> None:
    def request() -> AnyResult:
        with transaction.atomic():
            result = tasks.add.enqueue(1)
            assert (result.status, result.enqueued_at) == (TaskResultStatus.READY, None)
            with pytest.raises(TaskResultDoesNotExist, match=result.id):
                result.refresh()
        assert result.enqueued_at is not None
        result.refresh()
        return result

    result = await sync(request)
    assert (await node.lookup_instance(result.id)).id == result.id


async def test_a_rolled_back_task_is_never_stored(node: Node) -> None:
    def request() -> AnyResult:
        with transaction.atomic():
            result = tasks.add.enqueue(1)
            transaction.set_rollback(True)
        with pytest.raises(TaskResultDoesNotExist):
            result.refresh()
        return result

    assert (await sync(request)).enqueued_at is None
    assert await node.count() == 0


async def test_a_savepoint_that_is_rolled_back_takes_its_tasks_along(node: Node) -> None:
    def request() -> list[AnyResult]:
        with transaction.atomic():
            kept = tasks.add.enqueue(1)
            with transaction.atomic():
                dropped = tasks.add.enqueue(2)
                transaction.set_rollback(True)
        return [kept, dropped]

    kept, dropped = await sync(request)
    assert [one.id async for one in node.iter_instances()] == [kept.id]
    assert dropped.enqueued_at is None


async def test_a_change_of_the_result_before_the_commit_changes_no_argument(node: Node) -> None:
    def request() -> AnyResult:
        with transaction.atomic():
            result = tasks.returns.enqueue([1, {"name": "ann"}])
            result.args[0][1]["name"] = "bob"
            result.args[0].append(2)
        return result

    instance = await node.lookup_instance((await sync(request)).id)
    assert instance.args == ([1, {"name": "ann"}],)


@pytest.mark.parametrize(("outer", "inner"), [("default", "other"), ("other", "default")])
async def test_the_last_commit_of_two_databases_counts(node: Node, outer: str, inner: str) -> None:
    def request() -> AnyResult:
        with transaction.atomic(using=outer):
            with transaction.atomic(using=inner):
                result = tasks.add.enqueue(1)
            assert result.enqueued_at is None
        assert result.enqueued_at is not None
        return result

    await sync(request)
    assert await node.count() == 1


@pytest.mark.parametrize("rolled_back", ["default", "other"])
async def test_a_rollback_of_one_of_two_databases_counts(node: Node, rolled_back: str) -> None:
    def request() -> None:
        with transaction.atomic(using="default"), transaction.atomic(using="other"):
            tasks.add.enqueue(1)
            transaction.set_rollback(True, using=rolled_back)

    await sync(request)
    assert await node.count() == 0


@pytest.mark.parametrize(("argument", "error"), [((), ArgumentError), (("x" * 2_000_000,), PayloadTooLargeError)])
async def test_an_invalid_call_raises_before_the_commit(
    node: Node, argument: tuple[Any, ...], error: type[Exception]
) -> None:
    def request() -> None:
        with transaction.atomic(), pytest.raises(error):
            tasks.add.enqueue(*argument)

    await sync(request)
    assert await node.count() == 0


class TestWithoutTheOption:
    @pytest.fixture
    def options(self, namespace: str) -> dict[str, Any]:
        return {"store": "memory://", "namespace": namespace, "enqueue_on_commit": False}

    async def test_a_task_is_stored_at_once(self, node: Node) -> None:
        def request() -> AnyResult:
            with transaction.atomic():
                result = tasks.add.enqueue(1)
                result.refresh()
                transaction.set_rollback(True)
            return result

        assert (await sync(request)).enqueued_at is not None
        assert await node.count() == 1
