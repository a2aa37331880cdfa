"""A project of Django, and a node that runs its tasks."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import django
import pytest
from django.db import connections
from django.test.utils import override_settings

SETTINGS = ("DJANGO_SETTINGS_MODULE", "support.django_site.settings")

with pytest.MonkeyPatch.context() as patch:
    patch.setenv(*SETTINGS)
    django.setup()

from peerjob import Node  # noqa: E402
from peerjob.django import TaskBackend  # noqa: E402
from peerjob.django.framework import task_backends  # noqa: E402
from peerjob.django.jobs import project_jobs, project_tasks  # noqa: E402
from peerjob.django.task_store import task_store_of  # noqa: E402
from support.django_site import tasks  # noqa: E402

NodeMaker = Callable[..., AbstractAsyncContextManager[Node]]


@pytest.fixture(autouse=True)
def settings_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the settings to the processes of these tests only: programs of other tests have their own."""
    monkeypatch.setenv(*SETTINGS)


@pytest.fixture(autouse=True, scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the databases in files, since Django never closes one in memory."""
    for alias in connections:
        connections.databases[alias]["NAME"] = tmp_path_factory.mktemp("databases") / f"{alias}.db"


@pytest.fixture(autouse=True)
def seen() -> list[Any]:
    """What the tasks have seen."""
    tasks.seen.clear()
    return tasks.seen


@pytest.fixture
def store() -> str:
    """The kind of store: memory, in a single node, or sqlite, which several nodes can share."""
    return "memory"


@pytest.fixture
def options(store: str, namespace: str, tmp_path: Path) -> dict[str, Any]:
    """The OPTIONS of the backend, with a store of its own."""
    url = "memory://" if store == "memory" else f"sqlite://{tmp_path}/peerjob.db"
    return {"store": url, "namespace": namespace}


@pytest.fixture
def backend(options: dict[str, Any]) -> Iterator[TaskBackend]:
    """The backend of this test."""
    settings: dict[str, Any] = {
        "BACKEND": "peerjob.django.TaskBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": options,
    }
    with override_settings(TASKS={"default": settings}):
        found = task_backends["default"]
        assert isinstance(found, TaskBackend)
        yield found


@pytest.fixture
def run_node(backend: TaskBackend) -> NodeMaker:
    """Make a node that runs tasks, and that the calls of `enqueue` use."""

    @asynccontextmanager
    async def running(*, workers: int = 4, queues: tuple[str, ...] = ("default", "mail")) -> AsyncGenerator[Node]:
        jobs = project_jobs("default", project_tasks(), queues)
        node = backend.checked_options.node(jobs, workers=workers, name="worker")
        async with node:
            with task_store_of(backend.checked_options).using(node):
                yield node

    return running


@pytest.fixture
async def node(run_node: NodeMaker) -> AsyncIterator[Node]:
    """A node that runs tasks."""
    async with run_node() as node:
        yield node
