"""Connections: of databases, fresh for each task and closed after it; of the store, one node for all threads."""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from peerjob import Node
from peerjob.django import TaskBackend, task_store
from peerjob.django.framework import AnyTask
from peerjob.django.options import BackendOptions
from support.django_site import tasks
from support.forks import in_child
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


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_waits_for_a_thread_that_makes_the_node(backend: TaskBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, forking, node = threading.Event(), threading.Event(), BackendOptions.node

    def made(self: BackendOptions) -> Node:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            forking.wait(PATIENCE)
        return node(self)

    def use() -> None:
        assert tasks.add.enqueue(1).id

    monkeypatch.setattr(BackendOptions, "node", made)
    # Python calls it before the hook of the store, which was registered earlier
    os.register_at_fork(before=forking.set)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(lambda: tasks.add.enqueue(1).id)
        assert begun.wait(PATIENCE)
        assert in_child(use) == 0
        assert first.result(PATIENCE)


def test_threads_that_come_at_once_share_one_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[BackendOptions]()
    both, node = threading.Barrier(2), BackendOptions.node

    def counted(self: BackendOptions) -> Node:
        made.append(self)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # for a second thread that is here, too
        return node(self)

    monkeypatch.setattr(BackendOptions, "node", counted)
    options = BackendOptions(store=f"sqlite://{tmp_path}/peerjob.db")
    with ThreadPoolExecutor() as threads:
        first, second = threads.map(task_store.task_store_of, [options] * 2)
    assert first is second
    assert len(made) == 1
