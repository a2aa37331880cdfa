"""The durable verbs of one run: its waits and its children, beside its steps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import MutableSet, Sequence
from itertools import count
from typing import Any, NoReturn

from msgspec import structs

from peerjob.handles.context import Context
from peerjob.handles.durable_run import OTHER_THREAD, holds_thread, inside_step
from peerjob.handles.job_log import instance_logger
from peerjob.model.call_list import CallList
from peerjob.model.child_call import check_child
from peerjob.model.durable import (
    MAX_AWAITED_BYTES,
    MAX_NEEDS_CALL,
    MAX_SIGNALS,
    MAX_STEPS_CALL,
    SIGNAL_MARK,
    Need,
    Step,
    Wait,
    size_of_names,
)
from peerjob.model.durable_errors import SignalTimeout, StepLimitError
from peerjob.model.errors import DecodeError, NodeStateError
from peerjob.model.ids import child_ids
from peerjob.model.job import Job
from peerjob.model.record import Held, NewChild, Record
from peerjob.model.signal import SignalSource
from peerjob.model.state import State
from peerjob.model.step_values import TIMED_OUT, decode_deadline, encode_deadline, wait_text
from peerjob.node.body.typed_positions import ResultType

from .child_pages import in_claim_order, pages_of
from .durable_state import DurableState, Suspension, Write, joined
from .durable_steps import DurableParts, RunSteps
from .over_marks import mark_name, shows_over
from .run import Run

QUIET_PASSES = 64
"""Passes of the event loop, without a call of a verb, after which a body counts as one that cannot go on.

No rule without such a number exists: asyncio does not tell what will complete a future. A body that awaits an Event
beside a task that waits for a signal goes on if other code sets the Event, and never if that task does. A value takes
up to three passes from task to task, so 64 passes are enough for 20 levels of nested tasks.
"""
LOOK_AGAIN = 1.0
"""Seconds until the node looks again whether the body awaits a task that it has left in a wait. No event tells it."""
UNAWAITED_SECONDS = 60.0
"""Seconds without a call of a verb after which a warning tells of tasks that wait and that nothing awaits."""
FIRST_READ = 32
"""Children that a wait for many reads at first, the last ones. If one of them is not over, the body waits for the rest
without a read."""


class NodeDurableRun(RunSteps):
    """The steps, waits and children of a run."""

    def __init__(self, run: Run, context: Context, state: DurableState, parts: DurableParts) -> None:
        super().__init__(run, context, state, parts)
        self._ended: dict[str, Record] = {}
        """Children that this run has found over."""
        self._waiting: dict[asyncio.Task[Any], Suspension] = {}
        """What each task of the body waits for."""
        self._passes = 0
        """Passes of the event loop since a wait began or a verb ended."""
        self._watch: asyncio.Task[None] | None = None
        self._begins = asyncio.Event()
        """A task has begun a wait."""
        self._warned = False

    # -- waits -------------------------------------------------------------------------------------------------------

    async def suspend(self, name: str, delay_us: int) -> None:
        self._begin_wait("suspend", name)
        with self._busy():
            await self._open()
        until_us, steps = self._deadline(name, delay_us)
        if until_us > self._now_us():
            await self._suspend(Suspension(Wait(until_us=until_us), steps))

    async def wait_for(self, signal: SignalSource[Any], timeout_us: int | None) -> Any:
        name, claim = signal.name, self._run.claim
        self._begin_wait("wait_for", name)
        with self._busy():
            await self._open()
        returns = ResultType(signal.type)

        def read(data: bytes) -> Any:
            return None if data == TIMED_OUT else returns.decode(data, claim.id, claim.kind, optional=False)

        stored_name, data, value = self._find(signal.stored_name, read)
        while data is None:
            self._refuse_if_suspended()
            if self._signals >= MAX_SIGNALS:
                raise StepLimitError(claim.id, name, f"the instance has {MAX_SIGNALS} signals")
            until_us, steps = (None, ()) if timeout_us is None else self._deadline(name, timeout_us)
            if until_us is None or until_us > self._now_us():
                wait = Wait(signals=(stored_name.removeprefix(SIGNAL_MARK),), until_us=until_us)
                self._check_awaited(name, wait.signals[0])
                await self._suspend(Suspension(wait, steps))
            with self._busy():
                await self._keep(Step(stored_name, TIMED_OUT), alone=True)
            stored_name, data, value = self._find(signal.stored_name, read)
        if data == TIMED_OUT:
            raise SignalTimeout(claim.id, name)
        return value

    def _check_awaited(self, name: str, more: str) -> None:
        signals = {more, *(signal for waiting in self._waiting.values() for signal in waiting.wait.signals)}
        if (size := size_of_names(signals)) > MAX_AWAITED_BYTES:
            reason = f"the names of the signals that tasks await at once have {size:,} bytes"
            raise StepLimitError(self._run.claim.id, name, f"{reason}, over the limit of {MAX_AWAITED_BYTES:,} bytes")

    def _begin_wait(self, verb: str, name: str) -> None:
        self._check_inside(verb, name)
        self._use(name)

    def _check_inside(self, verb: str, what: str) -> None:
        if (step := inside_step.get()) is not None:
            raise NodeStateError(f"{verb}({what!r}) is called in step {step!r}; only the body itself can wait")
        if holds_thread.get() == OTHER_THREAD:
            text = f"{verb}({what!r}) is called in another thread than that of the body, which alone can wait"
            raise NodeStateError(f"{text}: take steps in other threads, or make the body a coroutine function")

    def _deadline(self, name: str, delay_us: int) -> tuple[int, tuple[Step, ...]]:
        """When a wait ends; and the step that keeps the time, unless it is stored."""
        stored_name, _, until_us = self._find(name, _read_deadline)
        if until_us is not None:
            return until_us, ()
        until_us = self._now_us() + delay_us
        self._check_bounds(stored_name)
        return until_us, (Step(stored_name, encode_deadline(until_us)),)

    async def _suspend(self, suspension: Suspension) -> NoReturn:
        """Wait until the body cannot go on, and end the run."""
        self._refuse_if_suspended()
        task = asyncio.current_task()
        assert task is not None
        self._waiting[task], self._passes = suspension, 0
        self._begins.set()
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._until_stuck())
        try:
            await asyncio.shield(self._watch)
        except BaseException:
            del self._waiting[task]
            raise
        self._raise_suspended()

    async def _until_stuck(self) -> None:
        """Return when the body cannot go on without its waits, or has ended.

        The body cannot go on if it waits itself, or if its tasks wait and it has called no verb for QUIET_PASSES.
        A task that nothing awaits, as the loser of a race, does not count.
        """
        while self._waiting and not (self._run.ended or self._context.ended):
            top_waits = holds_thread.get() or self._run.task in self._waiting
            if self._running:
                self._idle.clear()
                await self._idle.wait()
                self._passes = 0
            elif self._passes < (1 if top_waits else QUIET_PASSES):
                self._passes += 1
                await asyncio.sleep(0)
            elif top_waits or self._awaits_one():
                self._state.suspension = self._paged(joined(self._awaited()))
                return
            else:
                self._begins.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._begins.wait(), LOOK_AGAIN)
                if self._awaits_one():
                    self._passes = 0
                elif not self._warned:
                    self._warn_of_unawaited()

    def _warn_of_unawaited(self) -> None:
        """Warn of tasks that hold the worker for ever if the body awaits a queue or an event that they fill."""
        seconds = asyncio.get_running_loop().time() - self._verb_at
        if self._running or not self._waiting or seconds < UNAWAITED_SECONDS:
            return
        self._warned = True
        claim, waits = self._run.claim, wait_text(joined(tuple(self._waiting.values())).wait)
        text = "instance %s of %r: the body has called no verb for %d s, and a task that nothing awaits waits for %s"
        advice = (
            "if the body awaits a queue or an event that this task fills, it holds its worker for ever: await the task"
        )
        instance_logger(claim.id).warning(f"{text}; {advice}", claim.id, claim.kind, seconds, waits)

    def _awaits_one(self) -> bool:
        return any(map(_is_awaited, self._waiting))

    def _awaited(self) -> list[Suspension]:
        """What ends the wait of the body. Of a task that nothing awaits, only a deadline is kept."""
        top = self._run.task
        return [
            wait if task is top or _is_awaited(task) else Suspension(Wait(), () if wait.wait.needs else wait.steps)
            for task, wait in self._waiting.items()
        ]

    def _paged(self, suspension: Suspension) -> Suspension:
        """What one outcome takes of a suspension; the rest is written before it, because the runner flushes."""
        # needs count until the next claim, so those of a task that the body can still cancel are not written
        needs, steps = suspension.needs, suspension.steps
        while len(needs) > MAX_NEEDS_CALL or len(steps) > MAX_STEPS_CALL:
            # the step of a wait for needs is the first one: it stays with the wait
            write = Write(steps[1:][-MAX_STEPS_CALL:], needs[MAX_NEEDS_CALL:][:MAX_NEEDS_CALL], alone=False)
            self._parts.unsent.write(self._run, self._state, write)
            needs = needs[:MAX_NEEDS_CALL] + needs[2 * MAX_NEEDS_CALL :]
            steps = steps[: len(steps) - len(write.steps)]
        return structs.replace(suspension, needs=needs, steps=steps)

    # -- children ----------------------------------------------------------------------------------------------------

    async def start(self, names: Sequence[str], calls: CallList[Any]) -> list[str]:
        ids = self._child_ids(names, calls.jobs)
        with self._busy():
            await self._open()
            missing = await self._missing(ids)
            if not missing:
                return ids
            new = calls
            if len(missing) < len(ids):
                new = CallList(call for id, call in zip(ids, calls, strict=True) if id in missing)
            made = await self._parts.calls.new_instances(new)
            named = [structs.replace(instance, id=id) for id, instance in zip(missing, made, strict=True)]
            added = await self._spawn([NewChild(instance=instance) for instance in named])
            self._parts.calls.made([instance for instance in named if instance.id in added])
        return ids

    def _child_ids(self, names: Sequence[str], jobs: Sequence[Job[..., Any, Any]]) -> list[str]:
        """Check the jobs of children, and use their names; returns their ids."""
        checked = None
        for name, job in zip(names, jobs, strict=True):
            if job is not checked:
                check_child(job, f"child {name!r}")
                checked = job
        self._use(*names)
        return child_ids(self._run.claim.id, names)

    async def spawn(self, children: Sequence[NewChild]) -> None:
        await self._open()
        missing = await self._missing([child.instance.id for child in children])
        await self._spawn([child for child in children if child.instance.id in missing])

    async def over(self, ids: Sequence[str]) -> list[Record | None]:
        self._check_inside("over", "a child")
        with self._busy():
            suspension = await self._need(ids)
        if suspension is not None:
            await self._suspend(suspension)
        return [self._ended.get(id) for id in ids]

    async def _need(self, ids: Sequence[str]) -> Suspension | None:
        """How to wait until children are over; None if all are."""
        await self._open()
        unread = sorted(id for id in set(ids) if id not in self._ended)
        known = await self._read_children(unread[-FIRST_READ:])
        del unread[-FIRST_READ:]
        if all(record.state.is_final for record in known.values()):
            known |= await self._read_children(unread)
            unread = []
        left = unread + [id for id, record in known.items() if id not in self._ended and not record.state.is_final]
        unsure = [id for id, record in known.items() if id not in self._ended and record.state.is_final]
        steps: tuple[Step, ...] = ()
        if unsure and not left:
            # a claim after a wait for these alone shows that they are over, so the wait leaves a mark
            mark = self._new_mark(unsure)
            if mark is None:
                self._ended.update((id, known[id]) for id in unsure)
                unsure = []
            else:
                self._check_bounds(mark.name)
                steps = (mark,)
        if not (left or unsure):
            return None
        self._refuse_if_suspended()
        return Suspension(Wait(needs=True), steps, tuple(Need(id) for id in (*left, *unsure)))

    def _new_mark(self, unsure: Sequence[str]) -> Step | None:
        """The mark of a wait for these children; None if a former wait shows that they are over."""
        for number in count(1):
            name = mark_name(unsure, number)
            data = self._steps.get(name)
            if data is None:
                return Step(name, b"")
            if shows_over(data, self._steps, self._now_us()):
                return None
        raise AssertionError("the numbers end")

    def read_result(self, record: Record, job: Job[..., Any, Any]) -> Any:
        return self._parts.calls.read_result(record, job)

    async def _missing(self, ids: Sequence[str]) -> dict[str, None]:
        """The ids of children, in order, that the store does not have whole. A first run has no children."""
        if not self._run.claim.linked:
            return dict.fromkeys(ids)
        known = await self._read_children(sorted(ids))
        return {id: None for id in ids if (record := known.get(id)) is None or record.open}

    async def _read_children(self, ids: Sequence[str]) -> dict[str, Record]:
        """The children that the store has."""
        known = await self._parts.records.find_many(ids)
        self._ended.update((id, record) for id, record in known.items() if _is_over(record))
        return known

    async def _spawn(self, children: Sequence[NewChild]) -> set[str]:
        """Add children, and return the ids of those that an earlier call had not added."""
        if children:
            self._refuse_if_suspended()
        run, added = self._run, set[str]()
        for page in pages_of(in_claim_order(children)):
            answers = await self._parts.store.spawn(run.incarnation, Held(run.claim.id, run.claim.fence), page)
            if answers is None:
                run.lost = True
                run.cancel("lost")
                raise self._not_held()
            added.update(answer.id for answer in answers if not answer.repeated)
        return added


def _is_awaited(task: asyncio.Task[Any]) -> bool:
    """Whether something waits for the end of a task. Without an answer, as of a task of another class, it counts.

    A callback that takes the task out of a set, which the documentation of asyncio advises, waits for nothing.
    """
    callbacks: Any = getattr(task, "_callbacks", True)
    if callbacks is True:
        return True
    return any(not isinstance(getattr(callback, "__self__", None), MutableSet) for callback, _ in callbacks or ())


def _is_over(record: Record) -> bool:
    """Whether an instance is surely final without a body. The record of one that was cancelled does not always tell."""
    if record.state is not State.CANCELLED:
        return record.state.is_final
    before = record.history[-2].state if len(record.history) > 1 else State.PROCESSING
    return not record.fence or before is not State.PROCESSING


def _read_deadline(data: bytes) -> int:
    until_us = decode_deadline(data)
    if until_us is None:
        raise DecodeError("a step has the name of this wait")
    return until_us
