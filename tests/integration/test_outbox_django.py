"""With an outbox, a view of Django in ATOMIC_REQUESTS keeps or loses its tasks with its own rows."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import django
import psycopg
import pytest
from asgiref.sync import sync_to_async

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("DJANGO_SETTINGS_MODULE", "support.django_site.settings")
    django.setup()

from django.core.handlers.base import BaseHandler
from django.core.management import call_command
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.test.utils import override_settings

from peerjob import Node, RowRefusedError, State, UnknownInstanceError
from peerjob.django import TaskBackend
from peerjob.django.framework import task_backends
from peerjob.django.jobs import project_jobs, project_tasks
from support.django_site import tasks
from support.postgres import Database
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


@pytest.fixture(params=["postgres", "sqlite"])
def backend(
    request: pytest.FixtureRequest, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TaskBackend]:
    """A backend whose outbox is in a database with ATOMIC_REQUESTS."""
    database: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "own.db"}
    if request.param == "postgres":
        server: Database = request.getfixturevalue("postgres")
        database = {"ENGINE": "django.db.backends.postgresql", "NAME": server.name, "USER": "postgres"}
        database["HOST"] = str(server.host)
    database["ATOMIC_REQUESTS"] = True
    full = connections.configure_settings({"default": database})["default"]
    alias = f"own {namespace}"  # each thread keeps the connection of an alias
    monkeypatch.setitem(connections.settings, alias, full)
    options = {"store": f"sqlite://{tmp_path}/peerjob.db", "namespace": namespace, "outbox": alias}
    settings = {"default": {"BACKEND": "peerjob.django.TaskBackend", "OPTIONS": options}}
    with override_settings(TASKS=settings):
        call_command("migrate", "peerjob_outbox", database=alias, verbosity=0)
        found = task_backends["default"]
        assert isinstance(found, TaskBackend)
        yield found
        connections.close_all()
        del connections[alias]


def answer(view: Callable[[HttpRequest], HttpResponse]) -> HttpResponse:
    """Answer a request as the handler of Django does."""
    handler: Any = BaseHandler()
    made: HttpResponse = handler.make_view_atomic(view)(RequestFactory().get("/"))
    return made


def rows(alias: str) -> int:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM peerjob_outbox")
        (count,) = cursor.fetchone() or (0,)
        return int(count)


def execute(alias: str, sql: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
async def test_bad_rows_are_read_in_a_thread_of_their_own(backend: TaskBackend, postgres: Database) -> None:
    """While another session locks their table, rows are sent; then the node tells their errors."""
    alias = backend.checked_options.outbox_alias
    assert alias is not None
    bad = await sync(lambda: tasks.add.enqueue(1))
    await sync(
        lambda: execute(
            alias,
            "INSERT INTO peerjob_outbox_bad SELECT id, call, created, taken, 'the store said no' FROM peerjob_outbox; "
            "DELETE FROM peerjob_outbox",
        )
    )
    node: Node = backend.checked_options.node(
        project_jobs("default", project_tasks(), ("default",)), workers=2, relays=True
    )
    async with node:
        with psycopg.connect(postgres.conninfo) as locking:
            locking.execute("LOCK TABLE peerjob_outbox_bad")
            with pytest.raises(UnknownInstanceError):
                await node.lookup_instance(bad.id)
            good = await sync(lambda: tasks.add.enqueue(2))
            await until(lambda: sync(lambda: rows(alias) == 0))
            assert (await node.wait_final(good.id, 30)).state is State.COMPLETED

        async def is_told() -> bool:
            try:
                await node.lookup_instance(bad.id)
            except UnknownInstanceError as error:
                return isinstance(error, RowRefusedError) and "the store said no" in str(error)
            return False

        await until(is_told)
    await until(lambda: not [thread for thread in threading.enumerate() if "peerjob-outbox" in thread.name])


@pytest.mark.long("a relay on SQLite looks each second")
async def test_a_view_keeps_the_tasks_of_what_it_commits(backend: TaskBackend) -> None:
    alias = backend.checked_options.outbox_alias
    assert alias is not None

    def order(request: HttpRequest) -> HttpResponse:
        first = tasks.add.enqueue(1)
        with contextlib.suppress(LookupError), transaction.atomic(using=alias):
            tasks.add.enqueue(2)
            raise LookupError
        with transaction.atomic(using=alias):
            last = tasks.add.enqueue(3)
        assert rows(alias) == 2
        return HttpResponse(f"{first.id} {last.id}")

    def fails(request: HttpRequest) -> HttpResponse:
        tasks.add.enqueue(4)
        with transaction.atomic(using=alias):
            tasks.add.enqueue(5)
        raise LookupError

    kept = (await sync(lambda: answer(order))).content.decode().split()
    with pytest.raises(LookupError):
        await sync(lambda: answer(fails))
    assert await sync(lambda: rows(alias)) == 2
    node: Node = backend.checked_options.node(
        project_jobs("default", project_tasks(), ("default",)), workers=2, relays=True
    )
    async with node:
        await until(lambda: sync(lambda: rows(alias) == 0))
        assert [(await node.wait_final(id, 30)).state for id in kept] == [State.COMPLETED] * 2
        assert len(await node.lookup_instances()) == 2
