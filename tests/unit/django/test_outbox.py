"""With the option `outbox`, a task is a row in the transaction of the request."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test.utils import override_settings

from peerjob import ArgumentError, Job, OptionError, State, TableError
from peerjob.django import TaskBackend
from peerjob.django.framework import AnyResult, InvalidTaskBackend, TaskResultDoesNotExist, TaskResultStatus
from peerjob.django.jobs import project_jobs, project_tasks
from peerjob.django.outbox.database import DjangoDatabase
from peerjob.sql import Outbox, OutboxRelay
from support.django_site import tasks
from support.waiting import until

T = TypeVar("T")


async def sync(call: Callable[[], T]) -> T:
    """Call a function in a thread, and close its connections."""

    def run() -> T:
        try:
            return call()
        finally:
            connections.close_all()

    return await sync_to_async(run)()


@pytest.fixture
def options(namespace: str, tmp_path: Any) -> dict[str, Any]:
    return {"store": f"sqlite://{tmp_path}/peerjob.db", "namespace": namespace, "outbox": True}


@pytest.fixture
def migrated(backend: TaskBackend) -> Iterator[TaskBackend]:
    call_command("migrate", "peerjob_outbox", verbosity=0)
    yield backend
    call_command("migrate", "peerjob_outbox", "zero", verbosity=0)
    connections.close_all()


def rows() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM peerjob_outbox")
        (count,) = cursor.fetchone() or (0,)
        return int(count)


@pytest.mark.long("a relay on SQLite looks each second")
async def test_a_committed_task_is_sent_and_runs(migrated: TaskBackend) -> None:
    def request() -> AnyResult:
        with transaction.atomic():
            result = tasks.add.enqueue(1)
            assert (result.status, result.enqueued_at is None) == (TaskResultStatus.READY, False)
            assert rows() == 1
            with pytest.raises(TaskResultDoesNotExist, match=result.id):
                result.refresh()
        return result

    result = await sync(request)
    node = migrated.checked_options.node(
        project_jobs("default", project_tasks(), ("default", "mail")), workers=2, relays=True
    )
    async with node:

        async def ended() -> bool:
            found = await node.lookup_instances()
            return [instance.state for instance in found] == [State.COMPLETED]

        await until(ended)
        assert (await node.lookup_instance(result.id)).state is State.COMPLETED
    assert await sync(rows) == 0


async def test_a_rolled_back_task_has_no_row(migrated: TaskBackend) -> None:
    wrong: Any = tasks.add.enqueue

    def request() -> int:
        with transaction.atomic():
            tasks.add.enqueue(1)
            transaction.set_rollback(True)
        tasks.add.enqueue(2)  # without a transaction, the row is committed at once
        with pytest.raises(ArgumentError):
            wrong("one", "two", "three")
        return rows()

    assert await sync(request) == 1


async def test_an_outbox_takes_a_connection_of_django(migrated: TaskBackend) -> None:
    outbox, job = Outbox(), Job("mail.send")

    def request() -> None:
        for keeps, left in ((True, 2), (False, 2)):
            with transaction.atomic():
                outbox.schedule_many(connection, [job.call(1), job.call(2)])
                transaction.set_rollback(not keeps)
            assert rows() == left
        with pytest.raises(OptionError, match=r"use transaction\.atomic\(\)"):
            outbox.schedule(connection, job.call(3))
        outbox.schedule_in_autocommit(connections["default"], job.call(4))
        assert rows() == 3

    await sync(request)


async def test_an_outbox_without_tables_is_told(backend: TaskBackend) -> None:
    def request() -> None:
        with pytest.raises(TableError, match="CREATE TABLE IF NOT EXISTS peerjob_outbox"):
            tasks.add.enqueue(1)

    await sync(request)


async def test_the_state_of_the_table_is_counted(migrated: TaskBackend) -> None:
    await sync(lambda: tasks.add.enqueue(1))
    database = DjangoDatabase("default")
    state = await OutboxRelay(database).state()
    await database.close()
    assert (state.rows, state.refused, state.inbox) == (1, 0, 0)
    assert 0 <= state.oldest < 60


@pytest.mark.parametrize("alias", ["nowhere", ""])
def test_the_checks_tell_what_is_missing(backend: TaskBackend, alias: str) -> None:
    assert [problem.id for problem in backend.check()] == []
    installed = ["support.django_site", "peerjob.django"]
    options = {**backend.options, "outbox": alias}
    settings = {"default": {"BACKEND": "peerjob.django.TaskBackend", "OPTIONS": options}}
    with override_settings(TASKS=settings, INSTALLED_APPS=installed):
        problems = {problem.id: problem.msg for problem in TaskBackend("default", settings["default"]).check()}
        with pytest.raises(InvalidTaskBackend) as caught:
            tasks.add.enqueue(1)
    assert {"peerjob.W004", "peerjob.E003"} <= problems.keys()
    assert str(caught.value) == problems["peerjob.E003"]


def test_a_database_of_another_kind_is_an_error_that_names_the_setting(
    backend: TaskBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(connections["default"]), "vendor", "mysql")
    [found] = backend.check()
    assert found.id == "peerjob.E003"
    assert found.msg.startswith("TASKS['default']['OPTIONS']: outbox: expected a database of PostgreSQL or SQLite")
    with pytest.raises(InvalidTaskBackend) as caught:
        tasks.add.enqueue(1)
    assert str(caught.value) == found.msg
