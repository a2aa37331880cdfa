"""Changes of instances: those that this node makes, and those of which the store's hints tell.

Each part of the node that waits for a change is told. The node that makes a change calls the processors, after the
store has committed the change.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from peerjob.cluster.cron import CronRole
from peerjob.cluster.election import Election
from peerjob.cluster.lease import Lease
from peerjob.cluster.recovery import Reaper
from peerjob.cluster.role import BackgroundRole
from peerjob.cluster.settling import SettlingRole
from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.clock import Clock
from peerjob.model.errors import StoreError
from peerjob.model.firing import Fire, FireRecord
from peerjob.model.job import Job
from peerjob.model.record import FINAL_STATE, Action, Hint, NewInstance, Outcome, Reaped, Record
from peerjob.model.spec import decode_spec
from peerjob.model.state import State
from peerjob.node.body.registry import Registry
from peerjob.node.manager.call_encoder import fresh_record
from peerjob.node.manager.log_lines import LogLineWriter
from peerjob.node.manager.waiters import Waiters
from peerjob.node.manager.watchers import Watchers
from peerjob.node.observe.observer import Observer, call_listener

from .context_backend import NodeContextBackend
from .hint_wait import HintWait
from .outcomes import outcome_of, report
from .pool import Pool
from .processors import Processors
from .run import HeldClaims, Run, ended_record
from .runner import InstanceRunner
from .unsent_reports import UnsentReports, Waker

# each run needs these members, and Python finds a name of a module in a small part of the time
_COMPLETED = State.COMPLETED
_WITHOUT_RUN = frozenset({Action.RELEASE, Action.HAND_BACK})


class ChangeListener:
    """Passes changes on to waiters, processors and observers. `spawn` runs a read of the store in the background."""

    def __init__(
        self,
        clock: Clock,
        name: str,
        manager: Manager,
        registry: Registry,
        held_claims: HeldClaims,
        runner: InstanceRunner,
        pool: Pool,
        context_backend: NodeContextBackend,
        unsent_reports: UnsentReports,
        waker: Waker,
        log_lines: LogLineWriter,
        processors: Processors,
        waiters: Waiters,
        observers: Sequence[Observer],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._clock = clock
        self._name = name
        self._manager = manager
        self._registry = registry
        self._held_claims = held_claims
        self._runner = runner
        self._pool = pool
        self._context_backend = context_backend
        self._unsent_reports = unsent_reports
        self._waker = waker
        self._log_lines = log_lines
        self._processors = processors
        self._waiters = waiters
        self._observers = observers
        self._spawn = spawn

    # -- runs of this node -------------------------------------------------------------------------------------------

    def claimed(self, run: Run) -> None:
        """Call the processors of an instance that this node has claimed."""
        job = self._registry.find(run.claim.kind)
        if job is None or not (job.policy.on_state_change or b"on_state_change" in run.claim.spec):
            return
        with contextlib.suppress(ValueError):  # ignored: the runner terminates an instance with an unreadable record
            self._runner.prepare(run)
            callback = run.policy.on_state_change if run.policy is not None else None
            if callback is not None:
                self._processors.tell(run, self._context_backend.instance_of(run), (callback, State.PROCESSING))

    def accepted(self, run: Run, outcome: Outcome) -> None:
        """Tell waiters and processors that the store accepted the outcome of a run."""
        state = FINAL_STATE.get(outcome.action)
        if state is not None:
            self._waiters.ended(run.claim.id)
        policy = run.policy
        if policy is None or outcome.action in _WITHOUT_RUN:
            return
        on_complete = policy.on_complete if state is _COMPLETED else None
        if policy.on_state_change is None and on_complete is None:
            return
        record = ended_record(
            self._context_backend.instance_of(run).record,
            outcome,
            state or State.SCHEDULED,
            self._name,
            self._clock.time_us(),
        )
        instance: Instance[Any] = Instance(self._manager, record, job=run.job)
        told: list[tuple[Callable[..., Any], object]] = []
        if policy.on_state_change is not None:
            told.append((policy.on_state_change, state or State.SCHEDULED))
        if on_complete is not None:
            try:
                told.append((on_complete, instance.outcome()))
            except Exception as error:  # noqa: BLE001  # an unreadable result must not stop the claim loop
                self._processors.report(run, on_complete, "was not called: the result cannot be read:", error)
        context = run.context
        if context is not None:
            self._context_backend.runs[context] = run
        task = self._processors.tell(run, instance, *told)
        task.add_done_callback(lambda _: self._done(run, ended=state is not None))

    def _done(self, run: Run, *, ended: bool) -> None:
        if run.context is not None:
            self._context_backend.runs.pop(run.context, None)
        if run.logs and ended:
            self._unsent_reports.add(run, report(run))
        elif run.logs:
            # the instance is in the queue again, so the store refuses log lines that are sent with the old claim
            self._log_lines.keep_all(run.claim.id, run.take_logs())

    # -- callers of this node ----------------------------------------------------------------------------------------

    def scheduled(self, job: Job[..., Any, Any] | None, record: Record) -> Instance[Any]:
        """The handle of an instance that this node has just stored."""
        instance: Instance[Any] = Instance(self._manager, record, job=job)
        if job is not None and job.policy.on_state_change is not None:
            callback = job.policy.on_state_change
            self._processors.tell(None, instance, (callback, State.CREATED), (callback, State.SCHEDULED))
        return instance

    def cancelled(self, instance: Instance[Any]) -> None:
        """This node cancelled an instance: end its body if it runs here, and call its processors."""
        for observer in self._observers:
            call_listener("cancel", observer.cancelled, instance.kind)
        self.end_body(instance.id)
        self._waiters.ended(instance.id)
        call_listener(f"instance {instance.id}", self._changed, instance, instance.state)

    def end_body(self, id: str) -> None:
        """A user cancelled an instance: end its body, or drop its claim, if this node holds the claim."""
        run = self._held_claims.get(id)
        if run is None or run.ended:
            return
        if run.context is None and self._pool.drop(run):
            self._unsent_reports.give_back(run, outcome_of(run, Action.RELEASE))
        else:
            run.cancel("user")

    # -- dead peers and schedules ------------------------------------------------------------------------------------

    def reaped(self, reaped: Sequence[Reaped]) -> None:
        """Tell observers, waiters and processors of the claims that this node took back from a dead peer."""
        for observer in self._observers:
            call_listener("reaper", observer.reaped, reaped)
        self._waker.hint()
        for claim in reaped:
            if claim.state.is_final:
                self._waiters.ended(claim.id)
            job = self._registry.find(claim.kind)
            if job is not None and job.policy.on_state_change is not None:
                self._read(claim.id, self._changed, claim.state)

    def fired(self, fire: Fire, record: FireRecord) -> None:
        """Tell the observers of a fire that this node recorded as the leader."""
        for observer in self._observers:
            call_listener(f"schedule {fire.schedule!r}", observer.fired, fire, record)
        if record.cancelled:
            self.replaced(record.cancelled)

    def replaced(self, id: str) -> None:
        """Tell observers, waiters and processors that a fire cancelled the instance of an earlier fire."""
        self._read(id, self.cancelled)

    def made(self, new: NewInstance) -> None:
        """Call the processors of an instance that a fire or a trigger of this node made."""
        job = self._registry.find(new.kind)
        if job is not None and (job.policy.on_state_change or b"on_state_change" in new.spec):
            instance: Instance[Any] = Instance(self._manager, fresh_record(new, self._clock.time_us()))
            call_listener(f"instance {new.id}", self._changed, instance, State.CREATED, State.SCHEDULED)

    def _changed(self, instance: Instance[Any], *states: State) -> None:
        """Call the processors of an instance for each of the states, which this node set without running the body."""
        with contextlib.suppress(ValueError):  # ignored: unreadable options name no processor to call
            policy = self._runner.policy_of(self._registry.find(instance.kind), decode_spec(instance.record.spec))
            if policy is not None and policy.on_state_change is not None:
                callback = policy.on_state_change
                self._processors.tell(None, instance, *((callback, state) for state in states))

    def _read(self, id: str, listener: Callable[..., None], *more: object) -> None:
        async def read() -> None:
            with contextlib.suppress(StoreError, LookupError):
                call_listener(f"instance {id}", listener, await self._manager.lookup_instance(id), *more)

        self._spawn(read())


class HintRouter(BackgroundRole):
    """Passes each hint to the part that it is for. A hint only wakes that part, which reads the store again."""

    name = "hints"
    restart_delay = 0.2

    def __init__(
        self,
        clock: Clock,
        hint_wait: HintWait,
        waker: Waker,
        lease: Lease,
        waiters: Waiters,
        watchers: Watchers,
        election: Election,
        cron: CronRole,
        reaper: Reaper,
        settler: SettlingRole,
    ) -> None:
        super().__init__(clock)
        self._hint_wait = hint_wait
        self._waker = waker
        self._lease = lease
        self._waiters = waiters
        self._watchers = watchers
        self._election = election
        self._cron = cron
        self._reaper = reaper
        self._settler = settler

    async def run(self) -> None:
        while True:
            try:
                hints = await self._hint_wait.next_hints()
            except StoreError:
                # hints may be lost with the answer, so each part reads the store
                self._waker.hint()
                self._election.soon()
                self._cron.changed()
                raise
            for hint in hints:
                self._pass_on(hint)
            if hints:
                await asyncio.sleep(0)  # let the claim loop send its claim before this role asks for hints again

    def _pass_on(self, hint: Hint) -> None:
        match hint.what:
            case "work":
                self._waker.hint()
            case "cancel":
                self._lease.renew_soon()
            case "final":
                self._waiters.ended(hint.id)
            case "change":
                self._watchers.changed(hint.id)
            case "schedule":
                self._cron.changed()
            case "leader":
                self._election.soon()
            case "dead":
                self._reaper.soon()
            case "settle":
                self._settler.soon()
            case _:
                pass  # a later version of peerjob can send hints that this version does not know
