"""The public class `Node`: its settings, its start and its stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from peerjob.cluster.loop_thread import LastingExecutor, refuse_green_threads
from peerjob.model.arguments import typed_except_secrets, whole_number
from peerjob.model.capabilities import Capabilities
from peerjob.model.clock import Clock, SystemClock
from peerjob.model.cron.zones import zone_named
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import NodeStateError, OptionError
from peerjob.model.limits import MAX_LEASE, MAX_NODE_NAME, MAX_SIZE, MAX_WORKERS, checked_text
from peerjob.model.record import StoreLimits
from peerjob.model.worker import Worker
from peerjob.store.base import Elections, Store
from peerjob.store.calls import RETRY_FOR
from peerjob.store.drivers import elections_of, open_store, takes_credentials
from peerjob.store.timed import timed

from .body.registry import Registry, checked_modules
from .closed_loop import release, task_of_this_loop
from .exit import AtExit, outlast, outlast_or_hurry, stop_signals, wait_on
from .manager.audit_trail import AuditTrail
from .manager.blocking import StartableManager
from .manager.call_encoder import CallEncoder
from .manager.cluster import NodeClusterManager
from .manager.flows import FLOW_JOB, NodeFlowManager
from .manager.instances import NodeInstanceManager
from .manager.jobs import JobSource, closed_loop_text, forked_text
from .manager.pending_start import PendingStart
from .manager.schedules import NodeScheduleManager
from .observe.activity import ActivityCounts
from .observe.node_stats import NodeStats, node_stats_of
from .observe.observer import Observer, log_listener_failure
from .observe.probes import Probe, ProbeAnswer, answer_probe
from .observe.tracing import ClaimLoopSpans, make_tracing
from .runtime import NodeRuntime
from .work.durable_steps import ChildCalls
from .work.outbox import Relay

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from redis.credentials import CredentialProvider


R = TypeVar("R")
T = TypeVar("T")

logger = logging.getLogger("peerjob.node")

Lifespan = Callable[["Node"], AbstractAsyncContextManager[Any]]
Coordinator = str | Callable[[], Elections]

MAX_PAYLOAD = 1 << 20
GRACE = 5.0
"""Default seconds that a stopping node gives running bodies to end."""
EXIT_MARGIN = 7.0
"""Seconds, added to the grace, that an exiting process waits for a node whose event loop runs in another thread."""


class Node(NodeInstanceManager, NodeFlowManager, NodeScheduleManager, NodeClusterManager, StartableManager):
    """One of equal peers that share a store: schedules jobs, runs them, and takes over from peers that die.

    Use a node as an async context manager, or call `start()` and `stop()`. `run()` starts, waits for SIGTERM and stops.

    - `store`: a URL (`memory://`, `redis://`, `valkey://`, `etcd://`, …) or a Store.
    - `workers`: how many instances run at a time, at most 10,000. With 0, the node only schedules.
    - `name`: for people (default: host name and process id). `namespace` separates applications on one store.
    - `coordinator`: elects the node that fires schedules (default: the store). A URL such as `etcd://…`, or a function
      that makes a client. The node connects again after an outage of the coordinator.
    - `store_retry`: how long a call is repeated while the store is away, before it raises StoreUnavailableError; with 0
      it is not repeated. A try waits for an answer for 5 s at most, on SQLite for 15 s. Outcomes of jobs are kept and
      repeated without a limit. It is for a store by URL.
    - `credentials`: a `CredentialProvider` of redis-py, for a store or a coordinator on Redis or Valkey whose URL has
      no user and no password. The node asks it every minute. Open connections sign in again when its answer changes.
    - `lease_ttl`: how long peers wait before they take over from a lost node, 1 s to 1 day.
    - `timezone`: for cron schedules without a timezone.
    - `allow_references`: modules and packages whose functions may be options of single runs, such as
      `with_options(on_complete=)`. The modules that define jobs are always allowed.
    - `max_payload`: most bytes of the arguments, and of the result.
    - `outbox`: an `OutboxRelay` of `peerjob.sql`, which makes instances of the rows of an outbox while the node runs.

    Raises OptionError for an invalid setting.
    """

    @typed_except_secrets("store", "coordinator", "outbox")
    def __init__(
        self,
        store: str | Store = "memory://",
        *,
        jobs: JobSource = (),
        workers: int = 10,
        coordinator: Coordinator | None = None,
        credentials: CredentialProvider | None = None,
        namespace: str = "default",
        name: str | None = None,
        lease_ttl: Duration = 5.0,
        store_retry: Duration = RETRY_FOR,
        timezone: str = "UTC",
        clock: Clock | None = None,
        lifespan: Lifespan | None = None,
        max_payload: int = MAX_PAYLOAD,
        store_limits: StoreLimits | None = None,
        allow_unknown: bool = False,
        allow_references: Sequence[str] = (),
        outbox: Relay | None = None,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.name = checked_text("name", name, MAX_NODE_NAME) if name else _default_name()
        self._is_named = bool(name)
        self.namespace = namespace
        self.lease_ttl = _checked_ttl(lease_ttl)
        retry_for = to_seconds(store_retry, "store_retry")
        self.timezone = zone_named(timezone).key
        self._remake: Callable[[], Node] = lambda: Node(
            store,
            jobs=self._registry.jobs(),
            workers=self._workers,
            coordinator=coordinator,
            credentials=credentials,
            namespace=namespace,
            name=name,
            lease_ttl=lease_ttl,
            store_retry=store_retry,
            timezone=timezone,
            clock=clock,
            lifespan=lifespan,
            max_payload=max_payload,
            store_limits=store_limits,
            allow_unknown=allow_unknown,
            allow_references=allow_references,
            outbox=outbox,
        )
        self.outbox = outbox
        self._given_store = isinstance(store, str)
        self._workers = whole_number("workers", workers, 0, MAX_WORKERS)
        self._max_payload = whole_number("max_payload", max_payload, 1, MAX_SIZE)
        self._lifespan = lifespan
        self._store_limits = store_limits or StoreLimits()
        self._allow_unknown = allow_unknown
        for_store = None if takes_credentials(coordinator) and not takes_credentials(store) else credentials
        if isinstance(store, str):
            opened: Store = open_store(
                store,
                namespace=namespace,
                clock=self.clock,
                limits=self._store_limits,
                retry_for=retry_for,
                credentials=for_store,
            )
        elif for_store is not None:
            raise OptionError("credentials", type(credentials).__name__, "none, except with a store by URL")
        else:
            opened = store
        self._call_observers: list[Observer] = []
        """The observers that take the times of calls of the store."""
        self._store = timed(opened, self.clock, self._store_called, self._call_observers)
        self._elections = elections_of(
            coordinator, self._store, namespace=namespace, clock=self.clock, credentials=credentials
        )
        self._registered_us = {}
        self._registry = Registry(checked_modules(allow_references))
        self._registry.add_own(FLOW_JOB)
        self._call_encoder = CallEncoder(
            clock=self.clock,
            registry=self._registry,
            max_payload=self._max_payload,
            timezone=self.timezone,
            local_objects=lambda: self._store.local_objects,
        )
        self.audit_trail = AuditTrail(self.clock, self)
        self._overrides: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._activity = ActivityCounts()
        self._observers: list[Observer] = [self._activity]
        self._tracing = None
        self._runtime = None
        self._pending_start: PendingStart | None = None
        self._stop_task: asyncio.Task[None] | None = None
        self._loop_end_task: asyncio.Task[None] | None = None
        self._at_exit: AtExit | None = None
        self._lifespan_exit: AbstractAsyncContextManager[Any] | None = None
        self.register(jobs)

    # -- start and stop -----------------------------------------------------------------------------------------------

    def _store_called(self, verb: str, seconds: float) -> None:
        for observer in self._call_observers:
            try:
                observer.store_called(verb, seconds)
            except Exception as error:  # noqa: BLE001  # it is logged, and the call keeps its answer
                log_listener_failure(f"a call of {verb}", error)

    async def start(self) -> None:
        """Connect, join the cluster and begin to claim; raises StoreUnavailableError within 5 s, or NodeStateError.

        If a program ends without `stop`, the node still leaves the cluster: when the event loop ends, or at exit.
        """
        if self._runtime is not None:
            if self._is_forked:
                raise NodeStateError(forked_text(self.name))
            if self._runtime.loop.is_closed():
                raise NodeStateError(closed_loop_text(self.name))
            state = "started already" if self._stop_task is None else "still stopping"
            raise NodeStateError(f"node {self.name!r} is {state}")
        refuse_green_threads()
        defined = self._call_encoder.defined(self._registry.jobs())
        if not self._is_named:
            self.name = _default_name()  # the name contains the process id, which differs in a fork
        runtime = self._runtime = self._new_runtime()
        self._process = os.getpid()
        pending = self._pending_start = PendingStart(self.name)
        runtime.job_schedules.add(defined)
        self._call_encoder.rule_of = runtime.catalogue.rule_of
        try:
            await pending.unless_stopped(runtime.open())
            self._call_encoder.max_payload = min(self._max_payload, self._store.capabilities.max_payload)
            if self._lifespan is not None:
                entering = self._lifespan(self)
                await entering.__aenter__()
                self._lifespan_exit = entering
            pending.check()
            await runtime.begin()
        except GeneratorExit:
            raise  # Python destroys this coroutine because its event loop was closed, so `stop` releases the node
        except BaseException:
            await self._abandon(runtime)
            raise
        finally:
            if not runtime.loop.is_closed():
                self._pending_start = None
                pending.ended.set()
        self._loop_end_task = asyncio.get_running_loop().create_task(self._leave_at_loop_end(), name="peerjob-keeper")
        if not self.clock.virtual:
            loop = asyncio.get_running_loop()
            self._at_exit = AtExit(lambda: self._exit(runtime, loop))
        logger.info("node %r runs %d worker(s) on %s", self.name, self._workers, self._store.url)

    def _new_runtime(self) -> NodeRuntime:
        return NodeRuntime(
            store=self._store,
            elections=self._elections,
            clock=self.clock,
            name=self.name,
            manager=self,
            registry=self._registry,
            workers=self._workers,
            lease_ttl=self.lease_ttl,
            max_payload=self._max_payload,
            max_kinds=self._store_limits.max_kinds,
            overrides=self._overrides,
            activity=self._activity,
            observers=self._observers,
            tracing=self._tracing,
            farewell=self._farewell if self._given_store else None,
            audit_trail=self.audit_trail,
            relay=self.outbox,
            child_calls=ChildCalls(self._new_instances, self._children_made, self._call_encoder.read_result),
        )

    async def _abandon(self, runtime: NodeRuntime) -> None:
        exiting, self._lifespan_exit = self._lifespan_exit, None
        try:
            await outlast(asyncio.get_running_loop().create_task(runtime.close(grace=0)))
        finally:
            if not runtime.loop.is_closed():
                self._runtime = None
                if exiting is not None:
                    await exiting.__aexit__(None, None, None)

    async def stop(self, grace: Duration = GRACE) -> None:
        """Stop claiming, let running bodies continue for `grace`, then cancel them, hand back the rest, and leave.

        Peers immediately run instances that were handed back, without a counted attempt. Idempotent. Running bodies may
        use the node until they end. If this call is cancelled, the grace ends, and the node still leaves. A `start`
        under way raises NodeStateError, and so does this call in another event loop than `start`, unless that loop is
        closed: then the call releases what the node holds, without a grace, unless such a call is under way in a third
        loop. In a child that was forked after `start`, it does nothing: the node of the parent goes on.
        """
        seconds, runtime = to_seconds(grace, "grace"), self._runtime
        if self._is_forked:
            return
        if runtime is not None and runtime.loop.is_closed():
            self._stop_task = task_of_this_loop(self._stop_task, lambda: self._release(runtime), self.name)
            await outlast(self._stop_task)
            return
        if runtime is not None:
            self._need_runtime()
        await self._stop(seconds)

    async def _stop(self, grace: float, *, exiting: bool = False) -> None:
        if self._is_forked:
            return
        if self._pending_start is not None:
            await self._pending_start.stop()
            return
        runtime = self._runtime
        if runtime is None:
            return
        leaves, self._lifespan_exit = self._lifespan_exit, None
        if self._stop_task is None:
            self._stop_task = asyncio.get_running_loop().create_task(self._leave(runtime, grace, exiting=exiting))
        stop_task = self._stop_task
        try:
            await outlast(stop_task, runtime.hurry)
        finally:
            # `start` entered the lifespan in the task of its caller, so `stop` leaves the lifespan in the task of its
            # caller, and not in a task of the node
            if leaves is not None and not runtime.loop.is_closed():
                await leaves.__aexit__(None, None, None)

    async def _leave(self, runtime: NodeRuntime, grace: float, *, exiting: bool) -> None:
        loop_end_task = self._loop_end_task
        try:
            await runtime.close(grace=grace, exiting=exiting)
        finally:
            if not runtime.loop.is_closed():  # else `stop` released the node, which can be in use again
                if loop_end_task is not None:
                    loop_end_task.cancel()
                self._forget(runtime)
        logger.info("node %r has left", self.name)

    async def _release(self, runtime: NodeRuntime) -> None:
        loop = asyncio.get_running_loop()
        try:
            await release(runtime, self._store, self.name)
        finally:
            if not loop.is_closed():
                self._forget(runtime)

    def _forget(self, runtime: NodeRuntime) -> None:
        at_exit, self._at_exit = self._at_exit, None
        # if a second Ctrl-C has cancelled all tasks, the thread of the lease still runs, and leaves at the exit
        if at_exit is not None and not runtime.lease.started:
            at_exit.cancel()
        self._workers = self.num_workers  # another node can have changed the number
        self._runtime = self._stop_task = self._loop_end_task = self._pending_start = self._lifespan_exit = None

    # -- a program that ends without a stop ---------------------------------------------------------------------------

    async def _leave_at_loop_end(self) -> None:
        """Leave the cluster when this task is cancelled: `asyncio.run` cancels all tasks at its end, and waits."""
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if self._loop_end_task is not None and self._stop_task is None:
                await self._stop(GRACE, exiting=True)
            raise

    def _exit(self, runtime: NodeRuntime, loop: asyncio.AbstractEventLoop) -> None:
        """Leave the cluster at the exit of the process, whether the node's event loop is closed, runs or is stopped."""
        if loop.is_closed() or self._runtime is not runtime:
            runtime.lease.leave_without_loop()
        elif loop.is_running():
            try:
                wait_on(loop, self._stop(GRACE, exiting=True), GRACE + EXIT_MARGIN, runtime.hurry)
            except TimeoutError:  # a body blocks the event loop, so only the thread of the lease can leave the cluster
                runtime.lease.leave_without_loop()
        else:
            if not isinstance(getattr(loop, "_default_executor", None), LastingExecutor):
                loop.set_default_executor(LastingExecutor())
            loop.run_until_complete(self._stop(GRACE, exiting=True))

    async def _farewell(self, incarnation: str) -> None:
        """Hand back the claims of an incarnation over a new connection, because the node's event loop is closed."""
        store = self._remake()._store
        await store.open()
        try:
            await store.leave(incarnation)
        finally:
            await store.close()

    async def run(self, grace: Duration = GRACE) -> None:
        """Start, run until SIGTERM or SIGINT, then stop. A second signal ends the grace.

        Raises NodeStateError outside the main thread, because only the main thread gets signals.
        """
        with stop_signals() as (asked, again):
            await self.start()
            runtime = self._need_runtime()
            try:
                await asked.wait()
            finally:
                if not runtime.loop.is_closed():
                    await outlast_or_hurry(self.stop(grace), runtime.hurry, again)

    # -- this node ---------------------------------------------------------------------------------------------------

    @property
    def incarnation(self) -> str:
        """The id of this start. Each start has a new id, and so has the node after its lease expired."""
        return self._need_runtime().incarnation

    @property
    def is_leader(self) -> bool:
        """Whether this node fires the schedules now; False while the node is not running."""
        return self._runtime is not None and self._runtime.election.is_leader

    @property
    def is_healthy(self) -> bool:
        """Whether the node runs and trusts its lease: the store has answered lately."""
        return self._runtime is not None and self._runtime.lease.trusted

    @property
    def num_workers(self) -> int:
        """The number of workers; `resize_workers` changes it."""
        return self._workers if self._runtime is None else self._runtime.pool.size

    def workers(self) -> list[Worker]:
        """The workers, each with the instance that it runs."""
        return [] if self._runtime is None else self._runtime.pool.workers()

    async def resize_workers(self, n: int, *, node: str | None = None) -> str:
        count = whole_number("resize_workers", n, 1, MAX_WORKERS)
        other = None if node is None else await self._other_node(node)
        if other is not None:
            await self._resize_other(other, count)
            return other.name
        self._workers = count
        if self._runtime is not None:
            await self._runtime.resize(count)
        return self.name

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the store."""
        return self._store.capabilities

    def override(self, factory: Callable[..., Any], fake: Callable[..., Any]) -> None:
        """Use another factory for `Depends(factory)`, for tests. Call it before the node starts or between runs."""
        self._overrides[factory] = fake

    def observe(self, observer: Observer) -> None:
        """Add an observer of this node. It stays over stops and starts."""
        self._observers.append(observer)
        if getattr(observer.store_called, "__func__", None) is not Observer.store_called:
            self._call_observers.append(observer)

    def trace(self, provider: TracerProvider | None = None) -> None:
        """Carry OpenTelemetry traces from callers to bodies, and make spans of schedules, claims, runs and commits.

        `provider` takes the spans (default: the global provider of the application). Call it for each node before its
        start. Raises NodeStateError after the start, and MissingExtraError without peerjob[otel].
        """
        if self._runtime is not None:
            raise NodeStateError(f"node {self.name!r} is started already; trace() comes before")
        tracing = make_tracing(self.clock, provider)
        if self._tracing is not None:
            self._observers = [observer for observer in self._observers if not isinstance(observer, ClaimLoopSpans)]
        self._tracing = tracing
        self._call_encoder.carrier = tracing.carrier
        self.observe(ClaimLoopSpans(tracing))

    def in_trace_of(self, metadata: Callable[[], Iterable[tuple[str, Any]]]) -> AbstractContextManager[None]:
        """Enter the trace that the metadata of a remote caller names, if this node traces."""
        return contextlib.nullcontext() if self._tracing is None else self._tracing.within(metadata())

    def vitals(self) -> NodeStats:
        """The current numbers of this node; raises NodeStateError while the node is not running."""
        return node_stats_of(self._need_runtime())

    def probe(self, probe: Probe) -> ProbeAnswer:
        """Whether this node is alive, ready, started or drained now. It sends no request to the store."""
        return answer_probe(self._runtime, probe)

    def remake(self) -> Node:
        """A new node with the same settings and jobs, not started, for a forked process."""
        if not self._given_store:
            raise OptionError("store", self._store, "a URL, for a node that is used in forked processes")
        made = self._remake()
        made._overrides.update(self._overrides)
        if self._tracing is not None:
            made.trace(self._tracing.provider)
        return made


def _default_name() -> str:
    """The host name and the process id. Process 1 is alone in its container, so the host name is enough."""
    host, pid = socket.gethostname(), os.getpid()
    return host if pid == 1 else f"{host}-{pid}"


def _checked_ttl(value: Duration) -> float:
    seconds = to_seconds(value, "lease_ttl")
    if not 1 <= seconds <= MAX_LEASE:
        raise OptionError("lease_ttl", value, "1 second or more, at most a day")
    return seconds
