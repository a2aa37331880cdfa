"""Runs jobs in unit tests at once, without a node, with real conversion, injection, retries and outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from msgspec import structs

from peerjob.cluster.loop_thread import run_here
from peerjob.handles.entries import LogEntry
from peerjob.handles.instance import Instance
from peerjob.handles.job_log import CaptureHandler
from peerjob.handles.manager import Manager
from peerjob.model.arguments import typed, whole_number
from peerjob.model.clock import aware_us
from peerjob.model.errors import OptionError
from peerjob.model.job import Call, Job
from peerjob.model.limits import MAX_COUNT, MAX_SEED
from peerjob.model.record import FINAL_STATE, Action, Claim, NewInstance, Outcome, Record
from peerjob.model.signal import Signal
from peerjob.model.signature import analyse
from peerjob.model.spec import ErrorInfo, Progress, decode_error, decode_spec, encode
from peerjob.model.state import State
from peerjob.node.body.context_vars import ContextVars
from peerjob.node.body.injection import Resources
from peerjob.node.body.registry import Registry
from peerjob.node.body.signal_values import encode_signal
from peerjob.node.manager.call_encoder import CallEncoder
from peerjob.node.node import MAX_PAYLOAD
from peerjob.node.work.failure_log import FailureLog
from peerjob.node.work.outcomes import OutcomeBuilder
from peerjob.node.work.pool import Prefetch
from peerjob.node.work.processors import Processors
from peerjob.node.work.run import Run, ended_record, record_of
from peerjob.node.work.runner import InstanceRunner

from .clock import VirtualClock
from .stand_ins import (
    NAME,
    CallersThread,
    DirectExecutor,
    EagerContextBackend,
    EagerParent,
    EagerReports,
    NoNode,
    SkippingClock,
)

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Verdict(StrEnum):
    """The outcome of an attempt."""

    COMPLETED = "completed"
    TERMINATED = "terminated"
    """The attempt failed, and the job's policy or `Fail` allows no retry."""
    TIMED_OUT = "timed out"
    """The attempt exceeded its `timeout`, and the job's policy allows no retry."""
    RETRIED = "retried"
    """The attempt failed, and the job runs again after a wait."""
    SNOOZED = "snoozed"
    """The job delayed itself. The run does not count as an attempt."""
    SUSPENDED = "suspended"
    """The job waits for a time or a signal. The run does not count as an attempt."""


_VERDICTS = {
    Action.COMPLETE: Verdict.COMPLETED,
    Action.TERMINATE: Verdict.TERMINATED,
    Action.TIME_OUT: Verdict.TIMED_OUT,
    Action.RETRY: Verdict.RETRIED,
    Action.SNOOZE: Verdict.SNOOZED,
    Action.SUSPEND: Verdict.SUSPENDED,
}


@dataclass(frozen=True, kw_only=True)
class EagerAttempt:
    """One run of the body."""

    number: int
    verdict: Verdict
    wait: float
    """Seconds until the next run, by backoff, snooze or a wait of the body; 0 after the last run."""
    error: ErrorInfo | None
    note: str
    """The note that a node would write into the history entry of the run."""
    logs: tuple[LogEntry, ...]


@dataclass(frozen=True, kw_only=True)
class EagerRun(Generic[R_co]):
    """The outcome of a job that ran at once."""

    attempts: tuple[EagerAttempt, ...]
    """All runs of the body, in order."""
    instance: Instance[R_co]
    """A snapshot of the instance as a node would have stored it. Verbs of the snapshot fail, since there is no node."""

    @property
    def verdict(self) -> Verdict:
        """The verdict of the last attempt."""
        return self.attempts[-1].verdict

    @property
    def state(self) -> State:
        """The state of the instance; Scheduled if it would run again."""
        return self.instance.state

    @property
    def result(self) -> R_co:
        """The result as a caller gets it, after storage; raises JobFailed, JobTimedOut or NodeStateError."""
        return self.instance.outcome()

    @property
    def error(self) -> ErrorInfo | None:
        """The error of the last attempt, or None."""
        return self.attempts[-1].error

    @property
    def waits(self) -> list[float]:
        """Seconds between the attempts, by backoff and jitter."""
        return [attempt.wait for attempt in self.attempts if attempt.wait]

    @property
    def logs(self) -> list[LogEntry]:
        """The log lines of all attempts."""
        return [line for attempt in self.attempts for line in attempt.logs]

    @property
    def progress(self) -> Progress | None:
        """The last progress that the job reported, or None."""
        return self.instance.progress


class Eager:
    """Runs jobs at once, run after run, until the end, a snooze, a wait for a signal or `max_attempts` runs.

    - `overrides` replaces factories of `Depends`, as `Node.override` does.
    - `clock`: waits inside a body take real time, unless you pass a VirtualClock. Waits between attempts are skipped.
    - `nominal_at` is the nominal time of a schedule for which the job runs.
    - `seed` determines the jitter.
    - `signals`: the values of signals, by signal or name. A wait for another signal lasts until its timeout, which is
      skipped as other waits of the body are; without a timeout, the runs end.

    A job with `run_in="process"` runs in this process too. `on_complete` and `on_state_change` are not called.
    """

    @typed
    def __init__(
        self,
        *,
        overrides: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
        clock: VirtualClock | None = None,
        nominal_at: datetime | None = None,
        max_attempts: int = 100,
        seed: int = 0,
        signals: Mapping[Signal[Any] | str, Any] | None = None,
    ) -> None:
        whole_number("max_attempts", max_attempts, 1, MAX_COUNT)
        whole_number("seed", seed, -MAX_SEED, MAX_SEED)
        self._overrides = dict(overrides or {})
        self._clock = clock
        self._nominal_us = 0 if nominal_at is None else aware_us("nominal_at", nominal_at)
        self._max_attempts = max_attempts
        self._seed = seed
        given = [
            (Signal[Any](signal, Any) if isinstance(signal, str) else signal, value)
            for signal, value in (signals or {}).items()
        ]
        self._signals = {signal.stored_name: encode_signal(signal, value) for signal, value in given}

    @overload
    def run(self, job: Job[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> EagerRun[R]: ...
    @overload
    def run(self, job: Call[R], /) -> EagerRun[R]: ...
    def run(self, job: Any, /, *args: Any, **kwargs: Any) -> EagerRun[Any]:
        """Run a job from a sync test: a sync body in the thread of the test, an async body on a new event loop.

        Raises ArgumentError for arguments that do not fit, and RuntimeError on a thread that runs an event loop.
        """
        _refuse_loop()
        call = _call(job, args, kwargs)
        made: list[EagerRun[Any]] = []
        if call.job.executor is not None and analyse(call.job.executor).is_async:

            async def main() -> None:
                made.append(await self._run(call, None))

            run_here(main())
            return made[0]
        return self._run_sync(call)

    @overload
    async def run_async(self, job: Job[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> EagerRun[R]: ...
    @overload
    async def run_async(self, job: Call[R], /) -> EagerRun[R]: ...
    async def run_async(self, job: Any, /, *args: Any, **kwargs: Any) -> EagerRun[Any]:
        """Run a job from an async test: an async body on the loop of the test, a sync body in a thread."""
        return await self._run(_call(job, args, kwargs), None)

    def _run_sync(self, call: Call[Any]) -> EagerRun[Any]:
        """Run a sync body in this thread and the event loop in another, so that the body sees no running event loop."""
        here = CallersThread(1)
        made: list[EagerRun[Any] | BaseException] = []

        async def main() -> None:
            try:
                made.append(await self._run(call, here))
            except BaseException as error:  # noqa: BLE001  # _run_sync raises the error in the test's thread
                made.append(error)

        def beside() -> None:
            try:
                run_here(main())
            finally:
                here.finish()

        thread = threading.Thread(target=contextvars.copy_context().run, args=(beside,), name="peerjob-eager")
        thread.start()
        here.serve()
        thread.join()
        (end,) = made
        if isinstance(end, BaseException):
            raise end
        return end

    async def _run(self, call: Call[Any], pool: CallersThread | None) -> EagerRun[Any]:
        clock = self._clock or SkippingClock(self._seed)
        async with clock.passing(math.inf):
            return await self._run_on(clock, call, pool, self._nominal_us)

    async def _run_on(
        self, clock: SkippingClock | VirtualClock, call: Call[Any], pool: CallersThread | None, nominal_us: int
    ) -> EagerRun[Any]:
        async def run_child(call: Call[Any]) -> Record:
            return (await self._run_on(clock, _call(call, (), {}), None, 0)).instance.record

        kept = EagerParent(steps=dict(self._signals), now_us=clock.time_us, run_child=run_child)
        async with _Attempts(clock, call, self._overrides, pool, kept) as attempts:
            while True:
                attempt = await attempts.next(nominal_us)
                if attempt.error is not None and attempt.error.type == KeyboardInterrupt.__name__:
                    # Ctrl-C must end the test run, not count as a failed attempt
                    raise KeyboardInterrupt
                again = attempt.verdict is Verdict.RETRIED or (attempt.verdict is Verdict.SUSPENDED and attempt.wait)
                if not again or len(attempts.ended) >= self._max_attempts:
                    return EagerRun(attempts=tuple(attempts.ended), instance=attempts.instance())
                if isinstance(clock, SkippingClock):
                    clock.skip(attempt.wait)
                else:
                    await asyncio.sleep(attempt.wait)


class _Attempts:
    """The parts of a node that run one instance."""

    def __init__(
        self,
        clock: SkippingClock | VirtualClock,
        call: Call[Any],
        overrides: dict[Callable[..., Any], Callable[..., Any]],
        pool: CallersThread | None,
        kept: EagerParent,
    ) -> None:
        self._clock = clock
        self._kept = kept
        self.ended: list[EagerAttempt] = []
        registry = Registry()
        registry.add(call.job.untimed())
        local: dict[str, Any] = {}
        call_encoder = CallEncoder(
            clock=clock, registry=registry, max_payload=MAX_PAYLOAD, timezone="UTC", local_objects=lambda: local
        )
        self._job = call.job
        self._new = call_encoder.new(call)
        self._manager = cast(Manager, NoNode(clock, call_encoder))
        context_vars = ContextVars()
        self._resources = Resources(overrides, context_vars)
        self._executor = DirectExecutor(clock=clock, threads=1, resources=self._resources, pool=pool)
        self._processors = Processors(clock, NAME, context_vars, pool)
        self._failures = FailureLog(NAME)
        outcome_builder = OutcomeBuilder(clock, MAX_PAYLOAD, node=NAME, failures=self._failures)
        reports = EagerReports(kept)
        context_backend = EagerContextBackend(clock, self._manager, self._executor, reports, kept)
        self._runner = InstanceRunner(
            clock=clock,
            manager=self._manager,
            registry=registry,
            executor=self._executor,
            context_backend=context_backend,
            unsent_reports=reports,
            outcome_builder=outcome_builder,
            processors=self._processors,
            prefetch=Prefetch(),
            trusts_lease=lambda: True,
            loop_ends=lambda: False,
            local_objects=local,
        )
        self._capture = CaptureHandler(context_backend)
        self._last: tuple[Claim, Outcome]
        self._progress: bytes | None = None

    async def __aenter__(self) -> _Attempts:
        self._capture.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._capture.stop()
        self._failures.close()
        await self._processors.close()
        await self._resources.close()
        await self._executor.close()

    async def next(self, nominal_us: int) -> EagerAttempt:
        """Run the next attempt."""
        number = 1 + sum(attempt.verdict is not Verdict.SUSPENDED for attempt in self.ended)
        claim = _claim(self._new, self._job, number, nominal_us, self._clock.time_us())
        run = Run(claim, NAME, asyncio.get_running_loop().time())
        run.slot = 0
        run.task = asyncio.get_running_loop().create_task(self._runner.run(run))
        try:
            await asyncio.wait([run.task])
        finally:
            if not run.task.done():
                run.cancel("drain")
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([run.task])
        run.task.result()
        outcome = run.outcome
        assert outcome is not None
        self._last = claim, outcome
        self._progress = outcome.progress or self._progress
        self._kept.steps.update((step.name, step.value) for step in outcome.steps)
        attempt = EagerAttempt(
            number=number,
            verdict=_VERDICTS[outcome.action],
            wait=_wait_us(outcome, self._clock.time_us()) / 1_000_000,
            error=None if outcome.error is None else decode_error(outcome.error),
            note=outcome.note,
            logs=tuple(LogEntry(claim.id, claim.kind, line) for line in outcome.logs),
        )
        self.ended.append(attempt)
        return attempt

    def instance(self) -> Instance[Any]:
        """The instance after its last attempt."""
        claim, outcome = self._last
        state = FINAL_STATE.get(outcome.action, State.SCHEDULED)
        record = ended_record(record_of(claim, NAME, NAME), outcome, state, NAME, self._clock.time_us())
        return Instance(
            self._manager,
            structs.replace(record, progress=self._progress),
            job=self._job,
        )


def _wait_us(outcome: Outcome, now_us: int) -> int:
    """Microseconds until the next run."""
    if outcome.wait is None:
        return outcome.delay_us
    return 0 if outcome.wait.until_us is None else max(1, outcome.wait.until_us - now_us)


def _claim(new: NewInstance, job: Job[..., Any, Any], number: int, nominal_us: int, at_us: int) -> Claim:
    spec = new.spec
    if nominal_us:
        spec = encode(structs.replace(decode_spec(spec), schedule=job.schedule_name, nominal_us=nominal_us))
    return Claim(
        id=new.id,
        kind=new.kind,
        fence=number,
        spec=spec,
        priority=new.priority,
        due_us=at_us,
        attempts=number,
        crashes=0,
        losses=0,
        at_us=at_us,
        key=new.key,
        tags=new.tags,
    )


def _call(job: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
    made: Any
    if isinstance(job, Job):
        made = Call(cast("Job[..., Any, Any]", job), args, kwargs)
    elif isinstance(job, Call):
        made = cast(Any, job)
    else:
        raise TypeError(f"eager() takes a Job or a call, not {type(job).__name__}")
    call = cast("Call[Any]", made)
    if call.job.executor is None:
        raise OptionError("job", call.job, "a job with a callable; a handle's body is elsewhere")
    return call


def _refuse_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("an event loop runs here: await eager_async(), or Eager().run_async()")


@overload
def eager(job: Job[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> EagerRun[R]: ...
@overload
def eager(job: Call[R], /) -> EagerRun[R]: ...
def eager(job: Any, /, *args: Any, **kwargs: Any) -> EagerRun[Any]:
    """Run a job at once, in a sync test: `Eager().run`."""
    return Eager().run(job, *args, **kwargs)


@overload
async def eager_async(job: Job[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> EagerRun[R]: ...
@overload
async def eager_async(job: Call[R], /) -> EagerRun[R]: ...
async def eager_async(job: Any, /, *args: Any, **kwargs: Any) -> EagerRun[Any]:
    """Run a job at once, in an async test: `Eager().run_async`."""
    return await Eager().run_async(job, *args, **kwargs)
