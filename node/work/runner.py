"""Runs one claimed instance: prepares the call, limits its time, and makes an outcome of its end."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

from peerjob.handles.context import Context
from peerjob.handles.manager import Manager
from peerjob.model.clock import Clock
from peerjob.model.codec import has_reference
from peerjob.model.durable_errors import Suspended
from peerjob.model.durations import format_seconds
from peerjob.model.errors import ArgumentError, DecodeError, JobCancelled, JobTimedOut, Snooze, StoreError
from peerjob.model.job import Job
from peerjob.model.policy import Backoff, FinishedResult, Policy, Recovered, load_overrides, make_policy
from peerjob.model.record import Action, Outcome
from peerjob.model.references import StoredReferenceError
from peerjob.model.spec import Spec, decode_spec
from peerjob.node.body.binding import Binding, StoredArgumentError
from peerjob.node.body.errors import BodyError, control_exception_in, is_suspended
from peerjob.node.body.executor import Executor
from peerjob.node.body.injection import clear_cancellations
from peerjob.node.body.registry import Registry

from .context_backend import NodeContextBackend
from .durable_state import DurableState
from .outcomes import SWALLOWED, OutcomeBuilder, handed_back, outcome_of, put_off, suspended
from .pool import Prefetch
from .processors import Processors
from .run import Run
from .unsent_reports import UnsentReports

logger = logging.getLogger("peerjob.node")

HANDED_BACK = {"drain": "node stopped", "lost": "node lost contact with the store"}
"""Reason why the body was told to end → note of the outcome that hands the instance back."""
MISFIT_TRIES = 12
"""How often a node offers an unfit instance to peers, over 7 minutes, before the node terminates the instance."""
MISFITS_KNOWN = 1_000
RESULTS_WAIT = 1.0
"""Seconds until an instance runs again whose references the store did not answer."""
MISFIT_WAIT = Backoff(initial=1, max=60, jitter=0)
"""The delay before an instance that this node cannot run is offered to peers again."""


class InstanceRunner:
    """Takes a run from its claim to its outcome."""

    def __init__(
        self,
        clock: Clock,
        manager: Manager,
        registry: Registry,
        executor: Executor,
        context_backend: NodeContextBackend,
        unsent_reports: UnsentReports,
        outcome_builder: OutcomeBuilder,
        processors: Processors,
        prefetch: Prefetch,
        trusts_lease: Callable[[], bool],
        loop_ends: Callable[[], bool],
        local_objects: dict[str, Any] | None,
    ) -> None:
        self._clock = clock
        self._manager = manager
        self._registry = registry
        self._executor = executor
        self._context_backend = context_backend
        self._unsent_reports = unsent_reports
        self._outcome_builder = outcome_builder
        self._processors = processors
        self._prefetch = prefetch
        self._trusts_lease = trusts_lease
        self._loop_ends = loop_ends
        self._local = local_objects
        self._misfits: dict[str, int] = {}

    async def run(self, run: Run) -> None:
        """Run an instance, and add its outcome to the unsent reports.

        Cancelling the task ends the body, not this call.
        """
        outcome = run.outcome = await self._outcome(run)
        run.ended = True
        if run.durable is not None and not run.lost and (run.context is None or run.context.cancel_reason != "lost"):
            await run.durable.flush()
        if run.context is not None:
            self._context_backend.runs.pop(run.context, None)
            policy = run.policy
            if policy is not None and policy.on_state_change is None and policy.on_complete is None:
                run.context = None  # as in `Pool._finished`; only these processors get it after the run
        self._unsent_reports.add(run, outcome)

    def prepare(self, run: Run) -> None:
        """Find the job, the policy and the arguments; raises DecodeError for an unreadable record."""
        claim = run.claim
        run.job = job = self._registry.find(claim.kind)
        run.binding = self._registry.binding(claim.kind)
        spec = decode_spec(claim.spec)
        run.arguments = spec.args
        run.schedule, run.nominal_us = spec.schedule or None, spec.nominal_us
        run.policy = self.policy_of(job, spec)

    def policy_of(self, job: Job[..., Any, Any] | None, spec: Spec) -> Policy | None:
        """The policy of a job, with the options of this instance; None without a job."""
        if job is None or not spec.overrides:
            return None if job is None else job.policy
        return make_policy(job.options | load_overrides(spec.overrides, self._local, self._registry.trusted()))

    async def _outcome(self, run: Run) -> Outcome:
        loop = asyncio.get_running_loop()
        claim = run.claim
        # the start of a suspect is committed before the node decodes the record: if decoding kills or freezes the node,
        # the crash must count for this instance
        if run.suspect and not await self._unsent_reports.commit_start(run):
            return handed_back(run, "lost before it began")
        try:
            if run.policy is None:
                self.prepare(run)
            if claim.parent and has_reference(run.arguments):
                run.arguments = await self._context_backend.with_results(claim, run.arguments)
        except (StoredReferenceError, DecodeError, StoredArgumentError, StoreError) as error:
            return await self._unprepared(run, error)
        binding, policy = run.binding, run.policy
        if binding is None or policy is None:
            return handed_back(run, "kind is no longer registered here")
        if run.lost or ((run.suspect or claim.parent) and not self._trusts_lease()):
            # the process was stopped, or the lease ended, while the node waited for an answer of the store
            return handed_back(run, HANDED_BACK["lost"])
        timeout = policy.timeout
        deadline = None if timeout is None else self._clock.time_us() + round(timeout * 1_000_000)
        context = run.context = Context(
            id=claim.id,
            kind=claim.kind,
            fence=claim.fence,
            attempt=claim.attempts,
            deadline_us=deadline,
            backend=self._context_backend,
            manager=self._manager,
            schedule=run.schedule,
            nominal_us=run.nominal_us,
        )
        self._context_backend.runs[context] = run
        started = run.started_at = loop.time()
        began = None if timeout is None else functools.partial(self._began, run, timeout)
        self._unsent_reports.watch_reports()
        try:
            result = await self._executor.call(binding, run.arguments, context, policy.run_in, began)
        except (asyncio.CancelledError, Snooze, Exception) as raised:  # noqa: BLE001  # a job must not stop the node
            self._ended(run, started, loop.time())
            cause = raised.cause if isinstance(raised, BodyError) else raised
            return await self._raised(run, binding, policy, context, cause)
        self._ended(run, started, loop.time())
        return await self._returned(run, policy, context, result)

    async def _unprepared(self, run: Run, error: Exception) -> Outcome:
        """End a run whose record or arguments cannot be read, or put it off while the store cannot read them."""
        claim = run.claim
        match error:
            case StoredReferenceError():
                return await self._untrusted(run, error)
            case DecodeError():
                logger.error("instance %s of %r cannot be read: %s", claim.id, claim.kind, error)
            case StoredArgumentError():
                logger.error("instance %s of %r cannot run: %s", claim.id, claim.kind, error)
            case _:
                logger.warning(
                    "instance %s of %r runs later: its arguments cannot be read: %s", claim.id, claim.kind, error
                )
                return put_off(run, RESULTS_WAIT, "the results of other members cannot be read now")
        return self._outcome_builder.terminated(run, error)

    def _began(self, run: Run, timeout: float) -> None:
        """Start the timeout of an attempt that begins now."""
        run.timer = asyncio.get_running_loop().call_later(timeout, run.cancel, "timeout")

    def _ended(self, run: Run, started: float, now: float) -> None:
        """Record the end of the body. A later cancellation has no effect: the runner now decides the outcome."""
        run.ended = True
        if run.timer is not None:
            run.timer.cancel()
        run.ended_at = now
        run.seconds = now - started
        self._prefetch.measured(run.claim.kind, run.seconds)

    async def _returned(self, run: Run, policy: Policy, context: Context, result: Any) -> Outcome:
        finished = isinstance(result, FinishedResult)
        reason = context.cancel_reason
        if reason == "timeout" or reason == "user":
            return await self._cancelled(run, policy, reason)
        if run.durable is not None and run.durable.raised is not None:
            return await self._swallowed(run, policy, run.durable, run.durable.raised)
        if context.told and reason is not None and not finished:
            logger.warning(
                "instance %s of %r returned after it was told to end (%s); the node hands it back, and it runs again. "
                "If a job has done all its work, return Finished(result)",
                run.claim.id,
                run.claim.kind,
                reason,
            )
            return handed_back(run, HANDED_BACK[reason])
        return self._outcome_builder.completed(run, result.result if finished else result)

    async def _raised(
        self, run: Run, binding: Binding, policy: Policy, context: Context, error: BaseException
    ) -> Outcome:
        raised = control_exception_in(error)
        if isinstance(raised, Snooze):
            return self._outcome_builder.snoozed(run, raised)
        reason = context.cancel_reason
        suspension = None if run.durable is None else run.durable.suspension
        if suspension is not None and reason != "user" and is_suspended(error):
            return suspended(run, suspension)
        if reason == "timeout" or reason == "user":
            return await self._cancelled(run, policy, reason)
        if isinstance(error, StoredArgumentError):
            return await self._misfit(run, binding, error)
        if reason is None and isinstance(error, asyncio.CancelledError) and clear_cancellations() and self._loop_ends():
            reason = "drain"  # the event loop is being closed, so the node stops
        elif raised is not None or not context.told:
            reason = None
        if reason is not None:
            return handed_back(run, HANDED_BACK[reason])
        return await self._failed(run, policy, error)

    async def _swallowed(self, run: Run, policy: Policy, durable: DurableState, raised: Suspended) -> Outcome:
        assert durable.verbs is not None  # one of them has raised the error
        end = self._outcome_builder.swallowed(run, raised, len(await durable.verbs.kept(SWALLOWED)))
        return end if isinstance(end, Outcome) else await self._failed(run, policy, end)

    async def _misfit(self, run: Run, binding: Binding, error: ArgumentError) -> Outcome:
        """The arguments do not fit the job, so no body ran. Offer the instance to peers with another signature."""
        kind, own = run.claim.kind, binding.signature_hash
        others = [node.info for node in await self._manager.nodes() if kind in node.info.open_kinds]
        names = [info.name for info in others if info.signatures.get(kind, own) != own]
        return self._offered(run, names) or self._outcome_builder.terminated(run, error)

    async def _untrusted(self, run: Run, error: StoredReferenceError) -> Outcome:
        """An option names a function that this node must not use, so no body ran. Offer the instance to peers."""
        claim = run.claim
        others = [node.info for node in await self._manager.nodes() if claim.kind in node.info.open_kinds]
        names = sorted(peer.name for peer in others if peer.incarnation != run.incarnation)
        offered = self._offered(run, names)
        if offered is not None:
            return offered
        logger.error("instance %s of %r cannot run: %s", claim.id, claim.kind, error)
        return self._outcome_builder.terminated(run, error)

    def _offered(self, run: Run, names: Sequence[str]) -> Outcome | None:
        """Put the instance off, for the named peers; None if there is no peer, or after too many tries."""
        tries = self._misfits.pop(run.claim.id, 0) + 1
        if not names or tries > MISFIT_TRIES:
            return None
        if len(self._misfits) >= MISFITS_KNOWN:
            del self._misfits[next(iter(self._misfits))]
        self._misfits[run.claim.id] = tries
        wait = MISFIT_WAIT.seconds(tries, run.claim.id)
        return put_off(run, wait, f"does not fit here; {names[0]} may run it")

    async def _failed(self, run: Run, policy: Policy, error: BaseException, *, timed_out: bool = False) -> Outcome:
        """The outcome of a failed attempt. `on_terminate` can turn the failure into a success or into another error."""
        instance = self._context_backend.instance_of(run)
        decision: object = None
        if policy.on_terminate is not None:
            decision = await self._processors.terminate(run, policy.on_terminate, instance, error)
        if isinstance(decision, Recovered):
            return self._outcome_builder.completed(run, decision.result)
        decided = decision if isinstance(decision, BaseException) else error
        if timed_out and isinstance(decided, TimeoutError):
            return self._outcome_builder.timed_out(run, policy, error, instance)
        return self._outcome_builder.failed(run, policy, decided, instance)

    async def _cancelled(self, run: Run, policy: Policy, reason: Literal["user", "timeout"]) -> Outcome:
        if reason == "timeout":
            text = f"ran longer than its timeout of {format_seconds(policy.timeout or 0)}"
            return await self._failed(run, policy, JobTimedOut(run.claim.id, text), timed_out=True)
        if policy.on_terminate is not None:
            error = JobCancelled(run.claim.id)
            await self._processors.terminate(run, policy.on_terminate, self._context_backend.instance_of(run), error)
        return outcome_of(run, Action.RELEASE)
