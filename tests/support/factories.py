"""Nodes, clusters of nodes and stores for tests in one process, on virtual time."""

import contextlib
import uuid
from collections.abc import AsyncGenerator
from typing import Any, Unpack

from peerjob import HistoryEntry, Instance, Node, State, Store, StoreLimits
from peerjob.node.manager.jobs import JobSource
from peerjob.store.drivers import open_store
from peerjob.store.reference.store import ReferenceData, ReferenceStore
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import NodeOptions, running_node
from support.flaky import FlakyStore


def shared_url() -> str:
    """A memory store that all nodes which are given this URL share."""
    return f"memory://{uuid.uuid4().hex}"


def memory_store(clock: VirtualClock, url: str | None = None, namespace: str = "default") -> Store:
    """A memory store, not opened yet."""
    return open_store(url or shared_url(), namespace=namespace, clock=clock, limits=StoreLimits())


def durable_store(clock: VirtualClock, data: ReferenceData | None = None) -> Store:
    """A reference store, for bodies with steps and waits; nodes that are given the same data share it."""
    return ReferenceStore(data or ReferenceData(), clock=clock, limits=StoreLimits(), namespace="durable")


def flaky_store(clock: VirtualClock, url: str | None = None) -> FlakyStore:
    """A memory store behind faults that the test asks for."""
    return FlakyStore(memory_store(clock, url))


@contextlib.asynccontextmanager
async def running_nodes(
    clock: VirtualClock,
    *names: str,
    jobs: JobSource = (),
    store: str | None = None,
    workers: int = 10,
    **options: Unpack[NodeOptions],
) -> AsyncGenerator[list[Node]]:
    """Nodes of these names that share a memory store and know the same jobs."""
    url = store or shared_url()
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                running_node(jobs, store=url, clock=clock, workers=workers, **options | NodeOptions(name=name))
            )
            for name in names
        ]


async def notes_of(instance: Instance[Any]) -> list[str]:
    """An instance's history, one text for each entry: its state, and why."""
    return [f"{entry.state!s}: {entry.note}" if entry.note else str(entry.state) for entry in await instance.history()]


def ending_of(entry: HistoryEntry) -> str:
    """An entry of the history as text, without the error that its note ends with."""
    note = "" if entry.state is State.TERMINATED else entry.note.partition(": ")[0]
    return f"{entry.state!s}: {note}" if note else str(entry.state)


async def states_of(instance: Instance[Any]) -> list[str]:
    """The states that an instance went through."""
    return [str(entry.state) for entry in await instance.history()]


async def lines_of(instance: Instance[Any]) -> list[str]:
    """The messages that were logged for an instance."""
    return [entry.message for entry in await instance.logs()]
