"""One start of a node until its stop: the roles, what they share, and how they come and go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from peerjob.cluster.cron import CronRole
from peerjob.cluster.election import Election
from peerjob.cluster.lease import Lease
from peerjob.cluster.recovery import Reaper
from peerjob.cluster.retention import RetentionRole
from peerjob.handles.instance import Instance
from peerjob.handles.job_log import CaptureHandler
from peerjob.handles.manager import Manager
from peerjob.model.clock import Clock
from peerjob.model.errors import LayoutError, StoreError
from peerjob.model.firing import Candidate, Fire, FireRecord
from peerjob.model.ids import IdSource
from peerjob.model.record import FINAL_STATE, NodeInfo, Outcome, Reaped, Renewed
from peerjob.store.base import Elections, Store

from .body.context_vars import ContextVars
from .body.executor import Executor
from .body.injection import Resources
from .manager.enqueuer import Enqueuer
from .manager.job_schedules import JobSchedules
from .manager.kind_catalogue import KindCatalogue
from .manager.log_lines import LogLineWriter
from .manager.record_reader import RecordReader
from .manager.waiting import Waiters
from .manager.watching import Watchers
from .observe.listeners import call_listener
from .observe.loop_stalls import LoopWatch
from .observe.node_info import node_info
from .observe.observer import Observer
from .observe.tracing import TracedRunner
from .registry import Registry
from .work.claim_loop import ClaimLoop
from .work.context_backend import NodeContextBackend
from .work.failure_log import FailureLog
from .work.held_claims import HeldClaims
from .work.hint_router import HintRouter
from .work.outcome_builder import OutcomeBuilder
from .work.outcome_queue import OutcomeQueue
from .work.pool import Pool
from .work.processor_calls import ProcessorCalls
from .work.processors import Processors
from .work.reconcile import Reconciler
from .work.run import Run
from .work.runner import InstanceRunner

if TYPE_CHECKING:
    from peerjob.node.observe.spans import Tracing

logger = logging.getLogger("peerjob.node")

MIN_WAIT, MAX_WAIT = 2.0, 5.0
"""Seconds that a stopping node gives cancelled bodies to end; those in processes are killed after one."""
MAX_AHEAD_US = 1_000_000
"""How far the clock of a leader may be off, where the nodes' clocks decide."""
LAST_COMMIT = 5.0
"""Seconds that a stopping node gives its last commits."""


class NodeRuntime:
    """Everything that runs while a node runs. Knows who must hear of what; the work itself is in the roles."""

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
        observers: Sequence[Observer] = (),
        tracing: Tracing | None = None,
        farewell: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._name = name
        self._manager = manager
        self._registry = registry
        self._observers = observers
        self._ttl_us = round(lease_ttl * 1_000_000)
        self.ids = IdSource(clock)
        self.incarnation = self.ids.one()
        self._started_us = clock.time_us()
        self._joining: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._hurried = asyncio.Event()
        self._kinds = registry.kinds()
        self._opened = False
        self.joined = False
        self._clock_known = False

        self.held_claims = HeldClaims()
        self._failures = FailureLog(name)
        outcome_builder = OutcomeBuilder(clock, max_payload, node=name, failures=self._failures)
        self._outcome_queue = OutcomeQueue(lambda: self.claim_loop.wake())  # noqa: PLW0108  # there is no claim loop yet
        self._outcome_builder = outcome_builder
        self._context_vars = ContextVars()
        self._resources = Resources(overrides, self._context_vars)
        self.processors = Processors(clock, name, self._context_vars)
        self._executor = Executor(clock=clock, threads=max(1, workers), resources=self._resources)
        self.lease = Lease(clock=clock, ttl=lease_ttl, liveness=store.liveness, listener=self, farewell=farewell)
        self.claim_loop = ClaimLoop(
            clock=clock,
            store=store,
            held_claims=self.held_claims,
            outcome_queue=self._outcome_queue,
            outcome_builder=outcome_builder,
            kinds=lambda: self._kinds,
            incarnation=lambda: self.incarnation,
            listener=self,
            observers=observers,
        )
        self.runner = InstanceRunner(
            clock=clock,
            name=name,
            manager=manager,
            registry=registry,
            executor=self._executor,
            outcome_queue=self._outcome_queue,
            outcome_builder=outcome_builder,
            processors=self.processors,
            claim_loop=self.claim_loop,
            local_objects=store.local_objects,
        )
        self.pool = Pool(
            size=workers,
            node=name,
            runner=self.runner if tracing is None else TracedRunner(self.runner, tracing, name),
            may_start=lambda: self.lease.trusted and not self._outcome_queue.full,
            wake=self.claim_loop.wake,
            hint=self.claim_loop.hint,
            context_vars=self._context_vars,
        )
        self.claim_loop.pool = self.pool
        self.runner.context_backend = NodeContextBackend(
            clock=clock, name=name, store=store, pool=self.pool, runner=self.runner
        )
        self.log_lines = LogLineWriter(clock=clock, store=store, node=name)
        self.processor_calls = ProcessorCalls(
            clock=clock,
            name=name,
            manager=manager,
            registry=registry,
            runner=self.runner,
            processors=self.processors,
            outcome_queue=self._outcome_queue,
            outcome_builder=outcome_builder,
            lines=self.log_lines,
        )
        self._reconciler = Reconciler(
            held_claims=self.held_claims, claim_loop=self.claim_loop, hand_back=self._return_stranded
        )
        self.enqueuer = Enqueuer(store, name)
        self.records = RecordReader(store)
        self.catalogue = KindCatalogue(
            clock=clock,
            store=store,
            node=name,
            kinds=lambda: self._kinds if self.pool.size else (),
            max_kinds=max_kinds,
        )
        self.job_schedules = JobSchedules(clock=clock, store=store, node=name, now_us=self.lease.time.time_us)
        self.election = Election(
            clock=clock,
            elections=elections,
            candidate=lambda: Candidate(incarnation=self.incarnation, name=name),
            ttl=lease_ttl,
            eligible=self._may_lead,
        )
        self._cron = CronRole(
            clock=clock,
            store=store,
            election=self.election,
            node=name,
            ids=self.ids,
            now_us=self.lease.time.time_us,
            on_made=lambda new: call_listener(f"instance {new.id}", self.processor_calls.made, new),
            on_fired=self._fired,
        )
        self.waiters = Waiters(clock=clock, store=store, incarnation=lambda: self.incarnation)
        self.watchers = Watchers(clock=clock, store=store, incarnation=lambda: self.incarnation, manager=manager)
        receivers: dict[str, Callable[[str], object]] = {
            "work": lambda _: self.claim_loop.hint(),
            "cancel": lambda _: self.lease.renew_soon(),
            "final": self.waiters.ended,
            "change": self.watchers.changed,
            "schedule": lambda _: self._cron.changed(),
            "leader": lambda _: self.election.soon(),
        }
        self.roles = (
            HintRouter(clock=clock, store=store, incarnation=lambda: self.incarnation, receivers=receivers),
            self.waiters,
            self.watchers,
            Reaper(clock=clock, store=store, lease=self.lease, on_reaped=self._reaped),
            RetentionRole(clock=clock, store=store),
            self.catalogue,
            self.log_lines,
            self.job_schedules,
            self.election,
            self._cron,
        )
        # a coordinator elsewhere has a layout of its own
        for role in (self.claim_loop, *self.roles):
            if role is not self.election or elections == store.elections:
                role.layout_changed = self.layout_changed
        self._capture = CaptureHandler(self.runner.context_backend)
        # under virtual time, the lease is renewed on the loop itself
        self._loop_watch = None if clock.virtual else LoopWatch(self.pool, name)

    # -- coming and going ---------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect and join; the manager's verbs work from here on."""
        await self._store.open()
        self._opened = True
        promises = self._store.capabilities
        self._outcome_builder.max_payload = min(self._outcome_builder.max_payload, promises.max_payload)
        for warning in promises.warnings:
            # that a private store dies with its process is what its user asked for
            logger.log(logging.WARNING if promises.shared else logging.INFO, "%s: %s", self._store.url, warning)
        await self._join()
        self.lease.start()
        await self.catalogue.settle()
        await self.job_schedules.settle()
        for role in self.roles:
            role.start()

    async def begin(self) -> None:
        """Start to claim."""
        self._context_vars.capture()  # with what the lifespan has set
        logging.getLogger().addHandler(self._capture)
        self.claim_loop.start()

    async def close(self, grace: float, *, exiting: bool = False) -> None:
        """Wind down in order: no new claims and fires, bodies end, outcomes are committed, the lease is given up."""
        # a peer fires what falls due while the bodies here end
        resigning = asyncio.get_running_loop().create_task(self._resign())
        self.pool.accepting = False
        self.pool.empty_backlog("node stopped")
        if not await self.pool.quiet_unless(self._hurried, grace if grace > 0 else 0.001):
            self.pool.cancel("drain")
            if not await self.pool.quiet_unless(self._hurried, min(grace, MAX_WAIT), MIN_WAIT):
                text = "node %r stops with %d body(ies) that ignore cancellation"
                logger.log(logging.INFO if exiting else logging.WARNING, text, self._name, self.pool.abandon())
        await self.claim_loop.revive()
        # processors are told of an end once it is committed, and what they log is committed after them
        flushed = self.joined and await self.claim_loop.flush(LAST_COMMIT)
        await self.processors.close()
        if self.joined:
            await self.log_lines.settle(LAST_COMMIT)
        if flushed:
            await self.claim_loop.flush(LAST_COMMIT)
        await self.claim_loop.stop()
        self._failures.close()
        logging.getLogger().removeHandler(self._capture)
        await resigning
        for role in self.roles:
            await role.stop()
        self.pool.close()
        for task in filter(None, (self._joining, *self._background)):
            task.cancel()
        await self.lease.stop()
        if self.joined:
            with contextlib.suppress(StoreError, TimeoutError):  # the lease will run out by itself
                async with asyncio.timeout(LAST_COMMIT):
                    await self._store.leave(self.incarnation)
        await self._executor.close()
        await self._resources.close()
        if self._opened:
            await self._store.close()

    async def _resign(self) -> None:
        await self._cron.stop()
        await self.election.stop()

    def hurry(self) -> None:
        """Cancel what runs without waiting for the grace to end."""
        self._hurried.set()
        self.pool.cancel("drain")

    async def drain(self, timeout: float | None) -> None:
        self.pool.accepting = False
        self.pool.empty_backlog("node drained")
        if not await self.pool.quiet(timeout):
            raise TimeoutError(f"node {self._name!r}: {self.pool.running} body(ies) still run after {timeout} s")
        await self.claim_loop.flush(LAST_COMMIT)

    async def resize(self, workers: int) -> None:
        self._executor.resize(workers)
        self.pool.resize(workers)
        await self._show()

    def kinds_changed(self) -> None:
        """Show the new kinds to the peers, and claim for them."""
        self._kinds = self._registry.kinds()
        self._spawn(self._show())
        self.catalogue.changed()
        self.claim_loop.hint()

    async def _join(self, previous: str | None = None) -> None:
        asked_at = self._clock.elapsed()
        await self._store.join(self._info(), ttl_us=self._ttl_us, previous=previous)
        self.joined = True
        self.lease.begin(self.incarnation, asked_at)

    async def _show(self) -> None:
        with contextlib.suppress(StoreError):  # shown with the next change, or the next join
            await self._store.join(self._info(), ttl_us=self._ttl_us)

    def _info(self) -> NodeInfo:
        return node_info(
            name=self._name,
            incarnation=self.incarnation,
            kinds=self._kinds,
            registry=self._registry,
            workers=self.pool.size,
            started_us=self._started_us,
        )

    def _may_lead(self) -> bool:
        right = self._store.capabilities.clock == "server" or abs(self.lease.time.ahead_us) <= MAX_AHEAD_US
        return self._clock_known and right and self.lease.trusted

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- the lease (LeaseListener) ------------------------------------------------------------------------------------

    def lease_summary(self) -> tuple[int, int, int]:
        if self._loop_watch is not None:
            self._loop_watch.look()
        count, digest = self.held_claims.summary()
        return self.pool.running, count, digest

    def lease_renewed(self, incarnation: str, reply: Renewed) -> None:
        if incarnation != self.incarnation:
            return
        if reply.clock_known and not self._clock_known:
            self._clock_known = True
            self.election.soon()
        for id in reply.cancelled:
            self._cancelled_by_user(id)
        self._reconciler.compare(reply.held)
        if self.pool.waiting:
            self.pool.dispatch()

    def lease_dead(self, incarnation: str) -> None:
        self.incarnation_dead(incarnation)

    def trust_ended(self) -> None:
        logger.warning("node %r: the lease was not renewed in time; nothing starts, what runs is cancelled", self._name)
        self.pool.cancel("lost", keep=lambda run: run.policy is not None and run.policy.on_store_loss == "continue")
        self.claim_loop.wake()

    def trust_returned(self) -> None:
        logger.info("node %r: the lease is renewed again", self._name)
        self.pool.dispatch()
        self.claim_loop.hint()
        self.election.soon()

    def layout_changed(self, error: LayoutError) -> None:
        """Another release writes the namespace: nothing that this node does is accepted any more."""
        if not self.joined:
            return
        logger.error("node %r: %s. It does nothing more; what runs is cancelled, and peers run it", self._name, error)
        self.joined = self.pool.accepting = False
        self._forget_claims()
        self._spawn(self._retire())

    def _forget_claims(self) -> None:
        """Cancel what runs: it belongs to the peers, at once or when the lease has expired."""
        self.pool.forget_backlog()
        for run in self.held_claims.clear():
            run.lost = True
            run.cancel("lost")

    async def _retire(self) -> None:
        for role in (self.claim_loop, *self.roles, self.lease):
            await role.stop()

    # -- the claim loop (ClaimListener) --------------------------------------------------------------------------------

    def incarnation_dead(self, incarnation: str) -> None:
        """Peers took over: everything held is theirs now. Join under a new incarnation."""
        if incarnation != self.incarnation or self._joining is not None:
            return
        logger.warning("node %r was taken for dead; it joins anew", self._name)
        self._forget_claims()
        self.incarnation = self.ids.one()
        self._joining = asyncio.get_running_loop().create_task(self._rejoin(incarnation))

    async def _rejoin(self, previous: str) -> None:
        try:
            while True:
                try:
                    await self._join(previous)
                    break
                except StoreError as error:
                    logger.warning("node %r cannot join anew yet: %s", self._name, error)
                    await asyncio.sleep(1.0)
            self.kinds_changed()
            self.job_schedules.look_again()
            self.election.soon()
        finally:
            self._joining = None

    def claimed(self, run: Run) -> None:
        self.processor_calls.claimed(run)

    def accepted(self, run: Run, outcome: Outcome) -> None:
        """An end was committed: tell whoever waits here, and the processors."""
        if outcome.action in FINAL_STATE:
            self.waiters.ended(run.claim.id)
        self.processor_calls.accepted(run, outcome)

    # -- what peers and callers did -----------------------------------------------------------------------------------

    def cancelled(self, instance: Instance[Any]) -> None:
        """This node cancelled an instance: end its body if it runs here, and tell its processors."""
        for observer in self._observers:
            call_listener("cancel", observer.cancelled, instance.kind)
        self._cancelled_by_user(instance.id)
        self.waiters.ended(instance.id)
        call_listener(f"instance {instance.id}", self.processor_calls.changed, instance, instance.state)

    def _cancelled_by_user(self, id: str) -> None:
        run = self.held_claims.get(id)
        if run is None or run.ended:
            return
        if run.context is None and self.pool.drop(run):
            run.ended = True
            self._outcome_queue.add(run, self._outcome_builder.released(run))
        else:
            run.cancel("user")

    def _return_stranded(self, run: Run) -> None:
        logger.warning("instance %s was claimed in a reply that never came; it is handed back", run.claim.id)
        self._outcome_queue.add(run, self._outcome_builder.handed_back(run, "claimed in a reply that was lost"))

    def _reaped(self, reaped: Sequence[Reaped]) -> None:
        for observer in self._observers:
            call_listener("reaper", observer.reaped, reaped)
        self.claim_loop.hint()
        for one in reaped:
            if one.state.is_final:
                self.waiters.ended(one.id)
            job = self._registry.find(one.kind)
            if job is not None and job.policy.on_state_change is not None:
                self._tell(one.id, self.processor_calls.changed, one.state)

    def _fired(self, fire: Fire, record: FireRecord) -> None:
        for observer in self._observers:
            call_listener(f"schedule {fire.schedule!r}", observer.fired, fire, record)
        if record.cancelled:
            self.replaced(record.cancelled)

    def replaced(self, id: str) -> None:
        """This node's fire or trigger of a schedule cancelled an instance to make room for the new one."""
        self._tell(id, self.cancelled)

    def _tell(self, id: str, told: Callable[..., None], *more: object) -> None:
        async def read() -> None:
            with contextlib.suppress(StoreError, LookupError):
                call_listener(f"instance {id}", told, await self._manager.lookup_instance(id), *more)

        self._spawn(read())

    async def clear(self) -> None:
        """Forget every instance, also those that run: their bodies are cancelled."""
        await self._store.clear()
        self._forget_claims()
