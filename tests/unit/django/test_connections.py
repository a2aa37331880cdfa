"""Connections of databases are fresh for each task, and closed after it."""

import threading
from typing import Any

import pytest

from peerjob import Node
from peerjob.django.framework import AnyTask
from support.django_site import tasks
from support.waiting import PATIENCE


@pytest.mark.parametrize("task", [tasks.uses_database, tasks.uses_database_later])
async def test_a_task_leaves_no_open_connection(node: Node, seen: list[Any], task: AnyTask) -> None:
    for _ in range(2):
        result = await task.aenqueue()
        await (await node.lookup_instance(result.id)).wait(PATIENCE)

    assert len(seen) == 2
    for thread, connection in seen:
        assert thread != threading.get_ident()
        assert connection.connection is None
