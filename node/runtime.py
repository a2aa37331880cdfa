"""A running node, from its start to its stop. The constructor builds each part from parts that exist already.

Calls back into the runtime are methods: the lease reports to it (LeaseListener), and the claim loop reports a dead
incarnation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from peerjob.cluster.cron import CronRole
from peerjob.cluster.election import Election
from peerjob.cluster.lease import Lease
from peerjob.cluster.recovery import Reaper
from peerjob.cluster.retention import RetentionRole
from peerjob.cluster.role import BackgroundRole
from peerjob.cluster.settling import SettlingRole
from peerjob.handles.job_log import CaptureHandler
from peerjob.handles.manager import Manager
from peerjob.model.clock import Clock
from peerjob.model.errors import LayoutError, StoreError
from peerjob.model.firing import Candidate
from peerjob.model.ids import IdSource
from peerjob.model.record import NodeInfo, Renewed
from peerjob.store.base import Elections, Store
from peerjob.store.direct import direct_calls_of
from peerjob.store.rules import READS_LAYOUT
from peerjob.version import __version__

from .body.context_vars import ContextVars
from .body.executor import Executor
from .body.injection import Resources
from .body.registry import Registry
from .manager.activity import ActivityReader
from .manager.audit_trail import AuditTrail
from .manager.batches import Enqueuer, RecordReader
from .manager.job_schedules import JobSchedules
from .manager.kind_catalogue import KindCatalogue
from .manager.log_lines import LogLineWriter
from .manager.waiters import Waiters
from .manager.watchers import Watchers
from .observe.activity import ActivityCounts, ActivitySampler
from .observe.loop_stalls import LoopWatch
from .observe.observer import Observer
from .observe.tracing import TracedRunner
from .work.changes import ChangeListener, HintRouter
from .work.claim_loop import ClaimLoop
from .work.context_backend import NodeContextBackend
from .work.durable_run import NodeDurableRun
from .work.durable_steps import ChildCalls, DurableParts
from .work.failure_log import FailureLog
from .work.hint_wait import HintWait
from .work.in_flight import InFlight
from .work.intake import LAST_COMMIT, Intake
from .work.outbox import OutboxRole, Relay
from .work.outcomes import OutcomeBuilder
from .work.pool import Pool, Prefetch
from .work.processors import Processors
from .work.reconciler import Reconciler
from .work.run import HeldClaims
from .work.runner import InstanceRunner
from .work.unsent_reports import UnsentReports, Waker

if TYPE_CHECKING:
    from peerjob.node.observe.spans import Tracing

logger = logging.getLogger("peerjob.node")

MIN_WAIT, MAX_WAIT = 2.0, 5.0
"""Least and most seconds that a stopping node gives cancelled bodies to end; bodies in processes get one second."""
TELL_AFTER = 0.5
"""Seconds after which a starting node says that it waits for its store."""
MAX_AHEAD_US = 1_000_000
"""If the store has no clock of its own, a node whose clock is off by more microseconds does not lead."""


class NodeRuntime:
    """The parts of a running node, and the order in which they start and stop."""

    def __init__(
        self,
        *,
        store: Store,
        elections: Callable[[], Elections],
        clock: Clock,
        name: str,
        manager: Manager,
        registry: Registry,
        workers: int,
        lease_ttl: float,
        max_payload: int,
        max_kinds: int,
        overrides: dict[Callable[..., Any], Callable[..., Any]],
        activity: ActivityCounts,
        observers: Sequence[Observer] = (),
        tracing: Tracing | None = None,
        farewell: Callable[[str], Awaitable[None]] | None = None,
        audit_trail: AuditTrail,
        relay: Relay | None = None,
        child_calls: ChildCalls,
    ) -> None:
        self._store = store
        self.direct_calls = None if clock.virtual else direct_calls_of(store)
        self._clock = clock
        self._name = name
        self._audit_trail = audit_trail
        self._registry = registry
        self._ttl_us = round(lease_ttl * 1_000_000)
        self._started_us = clock.time_us()
        self.loop = asyncio.get_running_loop()
        self._joining: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._hurried = asyncio.Event()
        self._opened = self.joined = False
        self._is_shown = True
        """Whether the list of nodes has the latest NodeInfo of this node."""
        self._showing = asyncio.Lock()
        self._clock_known = False
        self.ids = IdSource(clock)
        self._context_vars = ContextVars()
        self.lease = Lease(clock=clock, ttl=lease_ttl, liveness=store.liveness, listener=self, farewell=farewell)
        now_us = self.lease.time.time_us

        # Each row builds a part from the parts that it knows. It knows no part below its row, except for the callbacks.

        # the work: each instance on its way from its claim to its commit
        held = self.held_claims = HeldClaims(self.ids.one())
        incarnation = held.current_incarnation
        waker = self.waker = Waker()
        unsent = self.unsent_reports = UnsentReports(held, waker)
        in_flight = self.in_flight = InFlight(unsent)
        self.log_lines = LogLineWriter(clock, store, name)
        self.waiters = Waiters(clock, store, incarnation)
        self.records = RecordReader(store, self._context_vars.copy)
        self.watchers = Watchers(clock, store, self.records, incarnation, manager)
        self._failure_log = FailureLog(name)
        self._outcome_builder = OutcomeBuilder(clock, max_payload, name, self._failure_log)
        self.processors = Processors(clock, name, self._context_vars)
        self._resources = Resources(overrides, self._context_vars)
        self.executor = Executor(clock, max(1, workers), self._resources)
        parts = DurableParts(store, unsent, self.executor, self.records, child_calls)
        self.context_backend = NodeContextBackend(
            clock, name, store, manager, registry,
            lambda run, context, state: NodeDurableRun(run, context, state, parts),
        )  # fmt: skip
        prefetch = Prefetch()
        runner = InstanceRunner(
            clock, manager, registry, self.executor, self.context_backend, unsent, self._outcome_builder,
            self.processors, prefetch, lambda: self.lease.trusted, self._loop_ends, store.local_objects,
        )  # fmt: skip
        traced = runner if tracing is None else TracedRunner(runner, tracing, name)
        catalogue = self.catalogue = KindCatalogue(
            clock, store, name, self._published_kinds, registry, max_kinds, waker.hint
        )
        pool = self.pool = Pool(
            workers, name, traced, self.lease, unsent, waker, prefetch, self._context_vars, registry.rated
        )
        self.changes = ChangeListener(
            clock, name, manager, registry, held, runner, pool, self.context_backend, unsent, waker, self.log_lines,
            self.processors, self.waiters, observers, self._spawn,
        )  # fmt: skip
        self.claim_loop = ClaimLoop(
            clock, store, catalogue.claimable, held, unsent, in_flight, waker, pool, self.changes, self.lease_dead,
            observers, catalogue.limits_missing,
        )  # fmt: skip
        hint_wait = HintWait(
            clock, store, catalogue.claimable, held, in_flight, unsent, pool, self._expects_changes,
            self.claim_loop.take_hinted,
        )  # fmt: skip
        self.intake = Intake(name, pool, self.claim_loop, in_flight, waker, self._show, self._resize)
        self._reconciler = Reconciler(held, in_flight, unsent, waker)

        # what the verbs of the manager use
        self.enqueuer = Enqueuer(store, name, self._context_vars.copy)
        self.activity = ActivityReader(store, self.lease.time)
        self.job_schedules = JobSchedules(clock, store, name, now_us)

        # the roles that coordinate this node with its peers
        self.election = Election(
            clock=clock, elections=elections, candidate=self._candidate, ttl=lease_ttl, eligible=self._may_lead
        )
        self._cron = CronRole(
            clock=clock, store=store, election=self.election, node=name, ids=self.ids, now_us=now_us,
            on_made=self.changes.made, on_fired=self.changes.fired,
        )  # fmt: skip
        self._reaper = Reaper(clock=clock, store=store, lease=self.lease, on_reaped=self.changes.reaped)
        self._settler = SettlingRole(clock=clock, store=store, lease=self.lease)
        router = HintRouter(
            clock, hint_wait, waker, self.lease, self.waiters, self.watchers, self.election, self._cron, self._reaper,
            self._settler,
        )  # fmt: skip
        self.roles: tuple[BackgroundRole, ...] = (
            router,
            self.waiters,
            self.watchers,
            self._reaper,
            self._settler,
            RetentionRole(clock=clock, store=store, is_leader=lambda: self.election.is_leader),
            self.catalogue,
            self.log_lines,
            self.job_schedules,
            self.election,
            self._cron,
            ActivitySampler(clock, store, activity, self.lease.time),
        )
        if relay is not None:
            self.roles += (
                OutboxRole(
                    clock, relay, registry, self.enqueuer, self.records, self.catalogue, self.changes,
                    lambda kind: self.pool.size > 0 and registry.binding(kind) is not None,
                ),
            )  # fmt: skip
        # a separate coordinator has its own layout, so a layout error of the coordinator must not stop the node
        self._foreign_roles = () if elections == store.elections else (self.election,)
        self.capture = CaptureHandler(self.context_backend)
        if not clock.virtual:  # under virtual time, the lease has no thread that could watch the event loop
            self.lease.loop_watch = LoopWatch(self.pool, self.in_flight, name)

    @property
    def incarnation(self) -> str:
        return self.held_claims.incarnation

    def _candidate(self) -> Candidate:
        return Candidate(incarnation=self.incarnation, name=self._name)

    def _expects_changes(self) -> bool:
        """Whether hints about other changes than new work are likely."""
        return self.waiters.waits or self.watchers.watches

    def _published_kinds(self) -> tuple[str, ...]:
        return self._registry.published() if self.pool.size else ()

    def _loop_ends(self) -> bool:
        """Whether the event loop is being closed: the close cancels the tasks of all roles, so one role is checked."""
        return self.log_lines.ending

    # -- start and stop -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect and join. After this call, the verbs of the manager work."""
        waits = asyncio.get_running_loop().call_later(
            TELL_AFTER,
            logger.warning,
            "node %r waits for the store at %s, for 5 s at most",
            self._name,
            self._store.url,
        )
        try:
            await self._store.open()
        finally:
            waits.cancel()
        self._opened = True
        promises = self._store.capabilities
        self._outcome_builder.max_payload = min(self._outcome_builder.max_payload, promises.max_payload)
        for warning in promises.warnings:
            # for a store inside this process, INFO is enough: the user knows that the data ends with the process
            logger.log(logging.WARNING if promises.shared else logging.INFO, "%s: %s", self._store.url, warning)
        await self._join()
        self.lease.start()
        await self.catalogue.publish_first()
        await self.job_schedules.flush()
        for role in self.roles:
            self._start(role)

    async def begin(self) -> None:
        """Start to claim."""
        # captured after the start of the lifespan, so that bodies see the context variables that the lifespan set
        self._context_vars.capture()
        self.capture.start()
        self._start(self.claim_loop)

    def _start(self, role: BackgroundRole) -> None:
        role.start(None if role in self._foreign_roles else self.layout_changed)

    async def close(self, grace: float, *, exiting: bool = False) -> None:
        """Stop in this order: claims and fires, bodies, commits, roles, the lease."""
        # resign first, so that a peer fires the schedules while this node waits for its bodies
        resigning = asyncio.get_running_loop().create_task(self._resign())
        self.intake.close()
        self.pool.accepting = False
        self.pool.empty_backlog("node stopped")
        if self.joined and self.pool.running:
            self._spawn(self._show())
        if not await self.pool.quiet_unless(self._hurried, grace if grace > 0 else 0.001):
            self.pool.cancel("drain")
            if not await self.pool.quiet_unless(self._hurried, min(grace, MAX_WAIT), MIN_WAIT):
                text = "node %r stops with %d body(ies) that ignore cancellation"
                logger.log(logging.INFO if exiting else logging.WARNING, text, self._name, self.pool.abandon())
        await self.claim_loop.revive()
        # flush twice: processors run after the commit of an outcome, and log lines of processors need a second commit
        flushed = self.joined and await self.claim_loop.flush(LAST_COMMIT)
        await self.processors.close()
        if self.joined:
            await self.log_lines.flush(LAST_COMMIT)
        if flushed:
            await self.claim_loop.flush(LAST_COMMIT)
        await self.claim_loop.stop()
        self._failure_log.close()
        self.capture.stop()
        await resigning
        for role in self.roles:
            await role.stop()
        await self._audit_trail.stop()
        self.pool.close()
        for task in filter(None, (self._joining, *self._background)):
            task.cancel()
        await self.lease.stop()
        if self.joined:
            with contextlib.suppress(StoreError, TimeoutError):  # if `leave` fails, the lease expires
                async with asyncio.timeout(LAST_COMMIT):
                    await self._store.leave(self.incarnation)
        await self.executor.close()
        await self._resources.close()
        if self._opened:
            await self._store.close()

    async def _resign(self) -> None:
        await self._cron.stop()
        await self.election.stop()

    def hurry(self) -> None:
        """Cancel running bodies now, before the grace is over."""
        self._hurried.set()
        self.pool.cancel("drain")

    async def drain(self, timeout: float | None, *, is_begun: bool = False) -> None:
        if not is_begun:
            self.intake.drain()
        await self.intake.drained(timeout)

    async def undrain(self) -> None:
        if self.intake.undrain():
            await self._show()

    async def resize(self, workers: int) -> None:
        self._resize(workers)
        await self._show()

    def _resize(self, workers: int) -> None:
        if not self.pool.size:
            self.catalogue.changed()  # a node without workers publishes no kinds
        self.executor.resize(workers)
        self.pool.resize(workers)

    def kinds_changed(self) -> None:
        """Publish the new kinds, and claim for them."""
        self._spawn(self._show())
        self.catalogue.changed()
        self.waker.hint()

    async def _join(self, previous: str | None = None) -> None:
        asked_at = self._clock.elapsed()
        await self._store.join(self._info(), ttl_us=self._ttl_us, previous=previous)
        self.joined = True
        self.lease.begin(self.incarnation, asked_at)

    async def _show(self) -> None:
        self._is_shown = False
        async with self._showing:  # one at a time, so that the store gets the latest node info last
            with contextlib.suppress(StoreError):  # after an error, the next renewal of the lease tries again
                await self._store.join(self._info(), ttl_us=self._ttl_us)
                self._is_shown = True

    def _info(self) -> NodeInfo:
        """The row by which its peers know this node."""
        workers = self.pool.size
        return NodeInfo(
            name=self._name,
            incarnation=self.incarnation,
            # a node without workers runs nothing, so its row has no kinds
            kinds=self._registry.kinds() if workers else (),
            signatures=self._registry.signatures() if workers else {},
            descriptors=self._registry.digests() if workers else b"",
            workers=workers,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            started_us=self._started_us,
            intake=self.intake.state,
            ahead_us=self.lease.time.told_ahead_us,
            reads_layout=READS_LAYOUT,
        )

    def _may_lead(self) -> bool:
        right = self._store.capabilities.clock == "server" or abs(self.lease.time.ahead_us) <= MAX_AHEAD_US
        return self._clock_known and right and self.lease.trusted

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, context=self._context_vars.copy())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- the lease (LeaseListener) ------------------------------------------------------------------------------------

    def lease_summary(self) -> tuple[int, int, int]:
        count, digest = self.held_claims.summary()
        return self.pool.running, count, digest

    def lease_renewed(self, incarnation: str, reply: Renewed) -> None:
        if incarnation != self.incarnation:
            return
        if reply.clock_known and not self._clock_known:
            self._clock_known = True
            self.election.soon()
        for id in reply.cancelled:
            self.changes.end_body(id)
        self._reconciler.compare(reply.held)
        has_changed = self.lease.time.take_news() | self.intake.follow(reply.instruction)
        if has_changed or not (self._is_shown or self._showing.locked()):
            self._spawn(self._show())
        self._reaper.renewed(reply.reap_in_us)
        if reply.settling:
            self._settler.renewed()
        self.claim_loop.renewed(reply.work_due)
        if self.pool.waiting:
            self.pool.dispatch()

    def renewal_failed(self) -> None:
        self.claim_loop.not_renewed()

    def trust_ended(self) -> None:
        logger.warning("node %r lost trust in its lease; it starts nothing and cancels running bodies", self._name)
        self.pool.cancel("lost", keep=lambda run: run.policy is not None and run.policy.on_store_loss == "continue")
        self.waker.wake()

    def trust_returned(self) -> None:
        logger.info("node %r: the lease is renewed again", self._name)
        self.pool.dispatch()
        self.waker.hint()
        self.election.soon()

    def layout_changed(self, error: LayoutError) -> None:
        """Stop the node: another version of peerjob writes the namespace, so the store refuses this node's requests."""
        if not self.joined:
            return
        logger.error("node %r: %s. The node stops and cancels running bodies; peers run them again", self._name, error)
        self.intake.close()
        self.joined = self.pool.accepting = False
        self._forget_claims()
        self._spawn(self._retire())

    def _forget_claims(self) -> None:
        """Cancel running bodies and forget all claims: peers own them, or will after the end of the lease."""
        self.pool.forget_backlog()
        for run in self.held_claims.clear():
            run.lost = True
            run.cancel("lost")
            if run.durable is not None:
                run.durable.drop()

    async def _retire(self) -> None:
        for role in (self.claim_loop, *self.roles):
            await role.stop()
        await self.lease.stop()

    def lease_dead(self, incarnation: str) -> None:
        """Forget the claims, which peers took over, and join under a new incarnation."""
        if incarnation != self.incarnation or self._joining is not None:
            return
        logger.warning("node %r was declared dead by a peer; it joins under a new incarnation", self._name)
        self._forget_claims()
        self.held_claims.incarnation = self.ids.one()
        self._joining = asyncio.get_running_loop().create_task(self._rejoin(incarnation))

    async def _rejoin(self, previous: str) -> None:
        try:
            while True:
                try:
                    await self._join(previous)
                    break
                except StoreError as error:
                    logger.warning("node %r cannot join again yet: %s; next try in 1 s", self._name, error)
                    await asyncio.sleep(1.0)
            self.kinds_changed()
            self.job_schedules.check_again()
            self.election.soon()
        finally:
            self._joining = None

    async def clear(self) -> None:
        """Delete all data of the namespace, and cancel running bodies."""
        await self._store.clear()
        self._forget_claims()
