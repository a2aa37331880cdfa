"""Nodes for the tests of an application's jobs, with a memory store and virtual time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Coroutine, Generator, Sequence
from typing import Any, TypedDict, TypeVar, cast, overload

from typing_extensions import Unpack

from peerjob.handles.instance import Instance
from peerjob.model.clock import Clock
from peerjob.model.durations import Duration
from peerjob.model.job import Job
from peerjob.model.query import Query
from peerjob.model.record import StoreLimits
from peerjob.model.state import State
from peerjob.node.manager.blocking import BlockingManager
from peerjob.node.manager.jobs import JobSource
from peerjob.node.node import Coordinator, Lifespan, Node
from peerjob.node.work.outbox import Relay
from peerjob.store.base import Store

from .clock import VirtualClock

R = TypeVar("R")


class ClusterOptions(TypedDict, total=False):
    """Options of `Node` that are the same for each node of a test cluster."""

    lease_ttl: Duration
    timezone: str
    lifespan: Lifespan | None
    max_payload: int
    allow_unknown: bool
    allow_references: Sequence[str]


class NodeOptions(ClusterOptions, total=False):
    """Options of `Node` except its store, jobs, workers and clock."""

    coordinator: Coordinator | None
    store_retry: Duration
    namespace: str
    name: str | None
    store_limits: StoreLimits | None
    outbox: Relay | None


@contextlib.asynccontextmanager
async def running_node(
    *jobs: JobSource,
    store: str | Store = "memory://",
    clock: Clock | None = None,
    workers: int = 10,
    **options: Unpack[NodeOptions],
) -> AsyncGenerator[Node]:
    """Run a node with these jobs inside the block, by default on its own memory store.

    Without a `clock`, the node runs on a new VirtualClock (`node.clock`). Time then passes only while the test waits:
    for a result (`await instance.result()`), for all instances to end (`drain`, `node.wait`), or for a duration
    (`advance`). A clock that you pass stays installed after the block.
    """
    with contextlib.ExitStack() as stack:
        time = clock or stack.enter_context(VirtualClock())
        node = Node(store, jobs=jobs, workers=workers, clock=time, **options)
        try:
            await _passing(time, node.start())
            yield node
        finally:
            await _passing(time, node.stop())


@contextlib.contextmanager
def blocking_node(
    *jobs: JobSource,
    store: str | Store = "memory://",
    clock: Clock | None = None,
    workers: int = 10,
    **options: Unpack[NodeOptions],
) -> Generator[BlockingManager]:
    """Run a node inside the block of a sync test, and give its blocking verbs; see `running_node`.

    Time passes only while a verb waits (`instance.result()`, `manager.wait()`) or in `advance`.
    """
    node = Node(store, jobs=jobs, workers=workers, clock=clock or VirtualClock(), **options)
    with node.blocking() as manager:
        yield manager


@overload
def advance(node: Node, duration: Duration) -> Coroutine[Any, Any, None]: ...
@overload
def advance(node: BlockingManager, duration: Duration) -> None: ...
def advance(node: Node | BlockingManager, duration: Duration) -> Coroutine[Any, Any, None] | None:
    """Let time pass for a node on virtual time: schedules fire, delays and timeouts end.

    Await the call for a `Node`; for a `BlockingManager` it blocks. Raises RuntimeError for a node on another clock.
    """
    if isinstance(node, Node):
        return clock_of(node).advance(duration)
    return node.call(clock_of(cast(Node, node.manager)).advance(duration))


async def drain(node: Node, limit: Duration = "1h") -> None:
    """Let time pass until no instance is queued, delayed or running in the node's namespace.

    Raises TimeoutError after `limit`, by the node's clock.
    """
    await node.wait(Query.all(), limit)
    if (time := _virtual(node)) is not None:
        # a cancelled body and its processors end after the instance is final: let time pass until both have ended
        await time.settle()


@overload
async def scheduled(node: Node, job: Job[..., R, Any]) -> list[Instance[R]]: ...
@overload
async def scheduled(node: Node, job: str) -> list[Instance[Any]]: ...
async def scheduled(node: Node, job: Job[..., Any, Any] | str) -> list[Instance[Any]]:
    """Return the instances of a job that wait to run, delayed ones included, by creation time."""
    kind = job if isinstance(job, str) else job.kind
    return [instance async for instance in node.iter_instances(Query(kind=kind, state=State.SCHEDULED))]


def clock_of(node: Node) -> VirtualClock:
    """Return the VirtualClock of a node; raises RuntimeError for a node on another clock."""
    time = _virtual(node)
    if time is None:
        raise RuntimeError("only the time of a VirtualClock can be moved; start the node with running_node()")
    return time


def _virtual(node: Node) -> VirtualClock | None:
    from .cluster.clocks import NodeClock

    clock = node.clock.driver if isinstance(node.clock, NodeClock) else node.clock
    return clock if isinstance(clock, VirtualClock) else None


async def _passing(clock: Clock, work: Coroutine[Any, Any, None]) -> None:
    """Await the start or stop of a node. A virtual clock must move on until the work ends."""
    if isinstance(clock, VirtualClock):
        await clock.run(work)
    else:
        await work
