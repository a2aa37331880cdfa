"""One start of a node until its stop: the roles, what they share, and how they come and go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from peerjob.clock import Clock
from peerjob.cluster.lease import Lease
from peerjob.cluster.recovery import Reaper
from peerjob.cluster.retention import Retention
from peerjob.errors import StoreError
from peerjob.ids import IdSource
from peerjob.instance import Instance
from peerjob.job import Job
from peerjob.joblog import CaptureHandler
from peerjob.manager import Manager
from peerjob.query import Query
from peerjob.record import FINAL_STATE, Action, Hint, NodeInfo, Outcome, Reaped, Record, Renewed
from peerjob.spec import decode_spec
from peerjob.state import State
from peerjob.store.base import Store
from peerjob.version import __version__

from .executor import Executor
from .hints import HintReceiver
from .hooks import Hooks
from .injection import Resources
from .intake import Intake
from .ledger import Ledger
from .pool import Pool
from .processors import Processors
from .reconcile import Reconciler
from .recorder import Recorder
from .registry import Registry
from .run import Run
from .runner import InstanceRunner, ended_record
from .turns import Turns
from .verbs import StoreVerbs, checked_id
from .verdict import Verdicts
from .waiting import Waiters
from .watching import Watchers

logger = logging.getLogger("peerjob.node")

LEAST_WAIT = 2.0
"""Least seconds that a stopping node gives bodies to end; those in processes are killed after one."""
LAST_COMMIT = 5.0
"""Seconds that a stopping node gives its last commits."""


class Session:
    """Everything that runs while a node runs. Knows who must hear of what; the work itself is in the roles."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        name: str,
        manager: Manager,
        registry: Registry,
        workers: int,
        lease_ttl: float,
        max_payload: int,
        overrides: dict[Callable[..., Any], Callable[..., Any]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._name = name
        self._manager = manager
        self._registry = registry
        self._ttl_us = round(lease_ttl * 1_000_000)
        self._ids = IdSource(clock)
        self.incarnation = self._ids.one()
        self._started_us = clock.time_us()
        self._joining: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._kinds = registry.kinds()
        self._opened = False
        self._joined = False

        self._ledger = Ledger()
        verdicts = Verdicts(clock, max_payload)
        self._recorder = Recorder(self._wake)
        self._verdicts = verdicts
        self._resources = Resources(overrides)
        self.processors = Processors(clock, name)
        self._executor = Executor(clock=clock, threads=max(1, workers), resources=self._resources)
        self.lease = Lease(clock=clock, ttl=lease_ttl, liveness=store.liveness, listener=self)
        self.turns = Turns(
            clock=clock,
            store=store,
            ledger=self._ledger,
            recorder=self._recorder,
            verdicts=verdicts,
            kinds=lambda: self._kinds,
            incarnation=lambda: self.incarnation,
            listener=self,
        )
        self.runner = InstanceRunner(
            clock=clock,
            name=name,
            manager=manager,
            registry=registry,
            executor=self._executor,
            recorder=self._recorder,
            verdicts=verdicts,
            processors=self.processors,
            turns=self.turns,
            local_objects=store.local_objects,
        )
        self.pool = Pool(
            size=workers,
            node=name,
            runner=self.runner,
            may_start=lambda: self.lease.trusted and not self._recorder.full,
            wake=self.turns.wake,
            hint=self.turns.hint,
        )
        self.turns.pool = self.pool
        self.runner.hooks = Hooks(clock=clock, name=name, store=store, pool=self.pool, runner=self.runner)
        self._reconciler = Reconciler(ledger=self._ledger, turns=self.turns, hand_back=self._return_stranded)
        self.intake = Intake(store, name)
        self.verbs = StoreVerbs(store=store, manager=manager, clock=clock, name=name)
        self.waiters = Waiters(clock=clock, store=store, incarnation=lambda: self.incarnation)
        self.watchers = Watchers(clock=clock, store=store, incarnation=lambda: self.incarnation, manager=manager)
        self._roles = (
            HintReceiver(clock=clock, store=store, incarnation=lambda: self.incarnation, receive=self._hinted),
            self.waiters,
            self.watchers,
            Reaper(clock=clock, store=store, lease=self.lease, node=name, on_reaped=self._reaped),
            Retention(clock=clock, store=store),
        )
        self._capture = CaptureHandler()

    def _wake(self) -> None:
        self.turns.wake()

    # -- coming and going ---------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect and join; the manager's verbs work from here on."""
        await self._store.open()
        self._opened = True
        promises = self._store.capabilities
        for warning in promises.warnings:
            # that a private store dies with its process is what its user asked for
            logger.log(logging.WARNING if promises.shared else logging.INFO, "%s: %s", self._store.url, warning)
        await self._join()
        self.lease.start()
        for role in self._roles:
            role.start()

    async def begin(self) -> None:
        """Start to claim."""
        logging.getLogger().addHandler(self._capture)
        self.turns.start()

    async def close(self, grace: float) -> None:
        """Wind down in order: no new claims, bodies end, outcomes are committed, the lease is given up."""
        self.pool.accepting = False
        self.pool.empty_backlog("node stopped")
        if not await self.pool.quiet(grace if grace > 0 else 0.001):
            self.pool.cancel("drain")
            if not await self.pool.quiet(max(LEAST_WAIT, min(grace, 5.0))):
                logger.warning(
                    "node %r stops with %d body(ies) that ignore cancellation", self._name, self.pool.running
                )
        # processors are told of an end once it is committed, and what they log is committed after them
        flushed = self._joined and await self.turns.flush(LAST_COMMIT)
        await self.processors.close()
        if flushed:
            await self.turns.flush(LAST_COMMIT)
        await self.turns.stop()
        logging.getLogger().removeHandler(self._capture)
        for role in self._roles:
            await role.stop()
        self.pool.close()
        for task in (self._joining, *self._background):
            if task is not None:
                task.cancel()
        await self.lease.stop()
        if self._joined:
            with contextlib.suppress(StoreError, TimeoutError):  # the lease will run out by itself
                async with asyncio.timeout(LAST_COMMIT):
                    await self._store.leave(self.incarnation)
        await self._executor.close()
        await self._resources.close()
        if self._opened:
            await self._store.close()

    def hurry(self) -> None:
        """Cancel what runs without waiting for the grace to end."""
        self.pool.cancel("drain")

    async def drain(self, timeout: float | None) -> None:
        self.pool.accepting = False
        self.pool.empty_backlog("node drained")
        if not await self.pool.quiet(timeout):
            raise TimeoutError(f"node {self._name!r}: {self.pool.running} body(ies) still run after {timeout} s")
        await self.turns.flush(LAST_COMMIT)

    async def resize(self, workers: int) -> None:
        self._executor.resize(workers)
        self.pool.resize(workers)
        await self._show()

    def kinds_changed(self) -> None:
        """Show the new kinds to the peers, and claim for them."""
        self._kinds = self._registry.kinds()
        self._spawn(self._show())
        self.turns.hint()

    async def _join(self, previous: str | None = None) -> None:
        asked_at = self._clock.elapsed()
        await self._store.join(self._info(), ttl_us=self._ttl_us, previous=previous)
        self._joined = True
        self.lease.begin(self.incarnation, asked_at)

    async def _show(self) -> None:
        with contextlib.suppress(StoreError):  # shown with the next change, or the next join
            await self._store.join(self._info(), ttl_us=self._ttl_us)

    def _info(self) -> NodeInfo:
        return NodeInfo(
            name=self._name,
            incarnation=self.incarnation,
            kinds=self._kinds if self.pool.size else (),
            signatures=self._registry.signatures() if self.pool.size else {},
            workers=self.pool.size,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            started_us=self._started_us,
        )

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- the lease (LeaseListener) ------------------------------------------------------------------------------------

    def lease_summary(self) -> tuple[int, int, int]:
        count, digest = self._ledger.summary()
        return self.pool.running, count, digest

    def lease_renewed(self, incarnation: str, reply: Renewed) -> None:
        if incarnation != self.incarnation:
            return
        for id in reply.cancelled:
            self._cancelled_by_user(id)
        if reply.held is not None:
            self._reconciler.compare(reply.held)
        else:
            self._reconciler.agreed()
        if self.pool.waiting:
            self.pool.dispatch()

    def lease_dead(self, incarnation: str) -> None:
        self.incarnation_dead(incarnation)

    def trust_ended(self) -> None:
        logger.warning(
            "node %r: the lease was not renewed in time; nothing new starts, and what runs is cancelled",
            self._name,
        )
        self.pool.cancel("lost", keep=lambda run: run.policy is not None and run.policy.on_store_loss == "continue")
        self.turns.wake()

    def trust_returned(self) -> None:
        logger.info("node %r: the lease is renewed again", self._name)
        self.pool.dispatch()
        self.turns.hint()

    # -- turns (TurnListener) -----------------------------------------------------------------------------------------

    def incarnation_dead(self, incarnation: str) -> None:
        """Peers took over: everything held is theirs now. Join under a new incarnation."""
        if incarnation != self.incarnation or self._joining is not None:
            return
        logger.warning("node %r was taken for dead; it joins anew", self._name)
        self.pool.forget_backlog()
        for run in self._ledger.clear():
            run.lost = True
            run.cancel("lost")
        self.incarnation = self._ids.one()
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
            self.turns.hint()
        finally:
            self._joining = None

    def claimed(self, run: Run) -> None:
        job = self._registry.find(run.claim.kind)
        if job is None or not (job.policy.on_state_change or b"on_state_change" in run.claim.spec):
            return
        with contextlib.suppress(ValueError):  # what cannot be read ends in the runner, with its reason
            self.runner.prepare(run)
            callback = run.policy.on_state_change if run.policy is not None else None
            if callback is not None:
                self.processors.tell(run, self.runner.instance_of(run), (callback, State.PROCESSING))

    def accepted(self, run: Run, outcome: Outcome) -> None:
        """An end was committed: tell whoever waits here, and the processors."""
        state = FINAL_STATE.get(outcome.action)
        if state is not None:
            self.waiters.ended(run.claim.id)
        policy = run.policy
        if policy is None or outcome.action is Action.RELEASE:
            return
        calls: list[tuple[Callable[..., Any], object]] = []
        if policy.on_state_change is not None:
            calls.append((policy.on_state_change, state or State.SCHEDULED))
        if policy.on_complete is not None and state is State.COMPLETED:
            calls.append((policy.on_complete, _RESULT))
        if not calls:
            return
        record = ended_record(
            self.runner.instance_of(run).record,
            outcome,
            state or State.SCHEDULED,
            self._name,
            self._clock.time_us(),
        )
        instance: Instance[Any] = Instance(self._manager, record)
        told = [(callback, instance.outcome() if argument is _RESULT else argument) for callback, argument in calls]
        context = run.context
        if context is not None:
            self.runner.hooks.track(context, run)
        task = self.processors.tell(run, instance, *told)
        task.add_done_callback(lambda _: self._processors_done(run))

    def _processors_done(self, run: Run) -> None:
        if run.context is not None:
            self.runner.hooks.forget(run.context)
        if run.logs:
            self._recorder.add(run, self._verdicts.report(run))

    # -- what peers and callers did -----------------------------------------------------------------------------------

    def scheduled(self, job: Job[..., Any, Any] | None, record: Record) -> Instance[Any]:
        """The handle of an instance that was just stored here."""
        instance: Instance[Any] = Instance(self._manager, record)
        if job is not None and job.policy.on_state_change is not None:
            callback = job.policy.on_state_change
            self.processors.tell(None, instance, (callback, State.CREATED), (callback, State.SCHEDULED))
        return instance

    def cancelled(self, instance: Instance[Any]) -> None:
        """This node cancelled an instance: end its body if it runs here, and tell its processors."""
        self._cancelled_by_user(instance.id)
        self.waiters.ended(instance.id)
        self._tell_state(instance, State.CANCELLED)

    def _tell_state(self, instance: Instance[Any], state: State) -> None:
        with contextlib.suppress(ValueError):  # options that cannot be read here name no processor
            policy = self.runner.policy_of(instance.kind, decode_spec(instance.record.spec))
            if policy is not None and policy.on_state_change is not None:
                self.processors.tell(None, instance, (policy.on_state_change, state))

    def _cancelled_by_user(self, id: str) -> None:
        run = self._ledger.get(id)
        if run is None or run.ended:
            return
        if run.context is None and self.pool.drop(run):
            run.ended = True
            self._recorder.add(run, self._verdicts.released(run))
        else:
            run.cancel("user")

    def _return_stranded(self, run: Run) -> None:
        logger.warning(
            "instance %s was claimed for this node in a reply that never came; it is handed back",
            run.claim.id,
        )
        self._recorder.add(run, self._verdicts.handed_back(run, "claimed in a reply that was lost"))

    def _reaped(self, reaped: Sequence[Reaped]) -> None:
        self.turns.hint()
        for one in reaped:
            if one.state.is_final:
                self.waiters.ended(one.id)
            job = self._registry.find(one.kind)
            if job is not None and job.policy.on_state_change is not None:
                self._spawn(self._tell_reaped(one))

    async def _tell_reaped(self, one: Reaped) -> None:
        with contextlib.suppress(StoreError, LookupError):
            self._tell_state(await self.verbs.instance(one.id), one.state)

    def _hinted(self, hint: Hint) -> None:
        match hint.what:
            case "work":
                self.turns.hint()
            case "cancel":
                self.lease.renew_soon()
            case "final":
                self.waiters.ended(hint.id)
            case "change":
                self.watchers.changed(hint.id)
            case _:
                pass

    # -- waiting and clearing -----------------------------------------------------------------------------------------

    async def wait_final(self, uuid: str | UUID, timeout: float | None) -> Record:
        id = checked_id(uuid)
        try:
            async with asyncio.timeout(timeout):
                return await self.waiters.final(id)
        except TimeoutError:
            raise TimeoutError(f"instance {id} is not final after {timeout:g} s") from None

    async def wait_quiet(self, query: Query, timeout: float | None) -> None:
        """Wait for one active instance after another, the oldest first, until a lookup finds none."""
        active = query.states & State.ACTIVE or State.ACTIVE
        wanted = Query(
            kind=query.kind,
            uuid=query.id,
            tag=query.tag,
            before=query.before,
            after=query.after,
            state=active,
            limit=100,
        )
        try:
            async with asyncio.timeout(timeout):
                while page := await self.verbs.instances(wanted):
                    await asyncio.gather(*(self._settled(one.id) for one in page))
        except TimeoutError:
            left = await self.verbs.count(wanted)
            raise TimeoutError(f"{left} matching instance(s) are not final after {timeout:g} s") from None

    async def _settled(self, id: str) -> None:
        with contextlib.suppress(LookupError):  # removed meanwhile: so it was final
            await self.waiters.final(id)

    async def clear(self) -> None:
        """Forget every instance, also those that run: their bodies are cancelled."""
        await self._store.clear()
        for run in self._ledger.runs():
            run.lost = True
            run.cancel("lost")


_RESULT = object()
