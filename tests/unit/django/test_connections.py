"""Connections: of databases, fresh for each task and closed after it; of the store, one node for all threads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from peerjob import Node
from peerjob.django import task_store
from peerjob.django.framework import AnyTask
from peerjob.django.options import BackendOptions
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


def test_threads_that_come_at_once_share_one_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    node = BackendOptions.node

    def made(self: BackendOptions) -> Node:
        both.wait(PATIENCE)
        return node(self)

    monkeypatch.setattr(BackendOptions, "node", made)
    options = BackendOptions(store=f"sqlite://{tmp_path}/peerjob.db")
    with ThreadPoolExecutor() as threads:
        first, second = threads.map(task_store.task_store_of, [options] * 2)
    assert first is second
    assert task_store.task_store_of(options) is first
