"""The steps of one run: their names, their limits, and how they are stored."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn, TypeVar

from peerjob.handles.context import Context
from peerjob.handles.durable_run import StepSlot, holds_thread, inside_step
from peerjob.handles.job_log import instance_logger
from peerjob.model.call_list import CallList
from peerjob.model.codec import encode_value
from peerjob.model.durable import MAX_ALL_STEP_BYTES, MAX_STEP_BYTES, MAX_STEPS, SIGNAL_MARK, Step
from peerjob.model.durable_errors import StepLimitError, StepNameError, Suspended
from peerjob.model.errors import DecodeError, NodeStateError, OwnershipLost, ResultTypeError
from peerjob.model.job import Job
from peerjob.model.record import Ack, NewInstance, Record
from peerjob.model.signal import checked_step_name, name_again
from peerjob.model.signature import analyse
from peerjob.model.step_values import wait_text
from peerjob.node.body.executor import Executor
from peerjob.node.body.typed_positions import ResultType
from peerjob.node.manager.batches import RecordReader
from peerjob.store.base import Store
from peerjob.store.rules import FLOWS_LAYOUT

from .durable_state import DurableState, Write
from .run import Run
from .unsent_reports import UnsentReports

T = TypeVar("T")

WHAT = "durable steps"
"""The reason for the layout, in its error."""


@dataclass(frozen=True)
class ChildCalls:
    """What the manager of a node does with the calls of children."""

    new_instances: Callable[[CallList[Any]], Awaitable[list[NewInstance]]]
    """Checks calls, and makes the instances to store; raises the errors of `schedule`."""
    made: Callable[[Sequence[NewInstance]], None]
    """Calls the processors of instances that this node has stored."""
    read_result: Callable[[Record, Job[..., Any, Any]], Any]


@dataclass(frozen=True)
class DurableParts:
    """The parts of a node behind the durable verbs of its runs."""

    store: Store
    unsent: UnsentReports
    executor: Executor
    records: RecordReader
    calls: ChildCalls


class RunSteps:
    """The steps of a run. Its instance has each stored step in memory while the body runs."""

    def __init__(self, run: Run, context: Context, state: DurableState, parts: DurableParts) -> None:
        self._run = run
        self._context = context
        self._state = state
        self._parts = parts
        self._steps: dict[str, bytes] = {}
        self._bytes = 0
        self._signals = 0
        self._is_open = False
        self._opening = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._names: set[str] = set()
        """The names that this run has used."""
        self._running = 0
        """Steps of this run that are not kept yet, and waits that have not told yet what they wait for."""
        self._idle = asyncio.Event()
        self._verb_at = 0.0
        """Time of the event loop when the last step ended, or the last wait began."""

    # -- steps -------------------------------------------------------------------------------------------------------

    async def step(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        slot = await self.enter_step(name, function)
        if slot.is_stored:
            return slot.value
        cancelled: list[asyncio.CancelledError] = []
        try:
            value = await self._call(name, function, args, kwargs, cancelled)
        except BaseException:
            self.leave_step(slot)
            raise
        kept = await self.keep_step(slot, value)
        if cancelled:
            raise asyncio.CancelledError(*cancelled[0].args)
        return kept

    async def enter_step(self, name: str, function: Callable[..., Any]) -> StepSlot:
        self._use(name)
        await self._open()
        returns = _returns(function)
        stored_name, data, value = self._find(name, lambda data: returns.decode(data, self._run.claim.id, name))
        if data is not None:
            return StepSlot(stored_name, function, is_stored=True, value=value)
        self._refuse_if_suspended()
        self._check_bounds(stored_name)
        self._running += 1
        return StepSlot(stored_name, function)

    async def keep_step(self, slot: StepSlot, value: Any) -> Any:
        returns = _returns(slot.function)
        try:
            data = returns.encode(value) or encode_value(None)
            self._check_bounds(slot.name, len(data))
            stored = await self._keep(Step(slot.name, data))
        finally:
            self.leave_step(slot)
        return returns.decode(stored, self._run.claim.id, slot.name)

    def leave_step(self, slot: StepSlot) -> None:
        self._leave()

    @contextlib.contextmanager
    def _busy(self) -> Generator[None]:
        """Let no other task end the run meanwhile."""
        self._running += 1
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._loop.is_closed():
            return
        self._running -= 1
        self._verb_at = self._loop.time()
        if not self._running:
            self._idle.set()

    async def keep(self, *steps: Step) -> None:
        await self._open()
        for step in steps:
            self._check_bounds(step.name, len(step.value))
            await self._keep(step)

    async def kept(self, prefix: str = "") -> dict[str, bytes]:
        await self._open()
        return {name: data for name, data in self._steps.items() if name.startswith(prefix)}

    async def _call(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        cancelled: list[asyncio.CancelledError],
    ) -> Any:
        """Call the function of a step. A thread cannot be cancelled: `cancelled` then gets the cancellation."""
        token = inside_step.set(name)
        try:
            if analyse(function).is_async:
                return await function(*args, **kwargs)
            if holds_thread.get():
                text = "a sync function needs a thread, and that of the sync body waits for this code"
                raise NodeStateError(f"step {name!r}: {text}: call the function directly, or make the step in the body")
            variables = contextvars.copy_context()
            result = await self._parts.executor.call_in_thread(
                lambda: variables.run(function, *args, **kwargs),
                lambda: cancelled.append(asyncio.CancelledError(*filter(None, [self._context.cancel_reason]))),
            )
            return await result if inspect.isawaitable(result) else result
        finally:
            if not self._loop.is_closed():  # Python destroys the coroutines of a closed loop in another context
                inside_step.reset(token)

    # -- names and limits --------------------------------------------------------------------------------------------

    def _use(self, *names: str) -> None:
        claim, known = self._run.claim, self._names
        if self._run.ended and names:
            raise NodeStateError(f"instance {claim.id}: {names[0]!r} comes after the end of its run")
        for name in names:
            checked_step_name(name)
            if name in known:
                raise StepNameError(claim.id, name)
            known.add(name)

    def _find(self, name: str, read: Callable[[bytes], T]) -> tuple[str, bytes | None, T | None]:
        """The stored value of a name; or the name under which a new value is kept: a value that does not fit stays."""
        stored_name = name
        for number in count(2):
            data = self._steps.get(stored_name)
            if data is None:
                return stored_name, None, None
            try:
                return stored_name, data, read(data)
            except (DecodeError, ResultTypeError) as error:
                stored_name = name_again(name, number)
                if stored_name not in self._steps:
                    self._warn(name, stored_name, error)
        raise AssertionError("the numbers end")

    def _warn(self, name: str, stored_name: str, error: Exception) -> None:
        text = "instance %s of %r: the stored value of %r does not fit, so the body gets another one, as %r: %s"
        claim = self._run.claim
        instance_logger(claim.id).warning(text, claim.id, claim.kind, name, stored_name, error)

    def _check_bounds(self, name: str, size: int = 0) -> None:
        """Raise StepLimitError if a step with a value of this size is over a limit."""
        reason = ""
        if len(self._steps) - self._signals + (self._running if not size else 0) >= MAX_STEPS:
            reason = f"the instance has {MAX_STEPS:,} steps"
        elif size > MAX_STEP_BYTES:
            reason = f"{size:,} bytes, over the limit of {MAX_STEP_BYTES:,} bytes"
        elif self._bytes + size > MAX_ALL_STEP_BYTES or self._bytes >= MAX_ALL_STEP_BYTES:
            reason = f"its steps have {self._bytes + size:,} bytes, over the limit of {MAX_ALL_STEP_BYTES:,} bytes"
        if reason:
            raise StepLimitError(self._run.claim.id, name, reason)

    # -- the store ---------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        """At the first verb of the run: see that the namespace has the layout, and read the steps."""
        if self._is_open:
            return
        async with self._opening:
            if not self._is_open:
                await self._begin()
                self._is_open = True

    async def _begin(self) -> None:
        await self._parts.store.require_layout(FLOWS_LAYOUT, WHAT)
        if self._run.claim.has_steps:
            await self._read()

    async def _read(self) -> None:
        cursor = None
        while True:
            page = await self._parts.store.steps(self._run.claim.id, cursor=cursor)
            for step in page.steps:
                self._remember(step)
            cursor = page.cursor
            if cursor is None:
                return

    def _remember(self, step: Step) -> None:
        if step.name not in self._steps:
            self._bytes += len(step.value)
            self._signals += step.name.startswith(SIGNAL_MARK)
        self._steps[step.name] = step.value

    async def _keep(self, step: Step, *, alone: bool = False) -> bytes:
        """Store a step, and return the value that its name has then: another one that was there first stays."""
        while await self._written(step, alone=alone) is Ack.TAKEN:
            await self._read()
            if step.name in self._steps:
                break
        else:
            self._remember(step)
        return self._steps[step.name]

    async def _written(self, step: Step, *, alone: bool) -> Ack:
        """The answer to a write: DONE or TAKEN. A cancelled body does not wait for it, but the runner does."""
        write = Write((step,), (), alone=alone)
        self._parts.unsent.write(self._run, self._state, write)
        ack = await asyncio.shield(write.answer)
        if ack is Ack.LOST:
            raise self._not_held()
        if ack is Ack.CANCELLED:
            raise asyncio.CancelledError("user")
        return ack

    def _not_held(self) -> OwnershipLost:
        claim = self._run.claim
        return OwnershipLost(f"instance {claim.id} is not held under fence {claim.fence} any more")

    def _now_us(self) -> int:
        """The time by the clock that decides about due times."""
        passed = asyncio.get_running_loop().time() - self._run.claimed_at
        return self._run.claim.at_us + round(passed * 1_000_000)

    def _refuse_if_suspended(self) -> None:
        if self._state.suspension is not None:
            self._raise_suspended()

    def _raise_suspended(self) -> NoReturn:
        if self._state.suspension is None:  # the body has ended without a look at the task that waits
            raise asyncio.CancelledError
        task = asyncio.current_task()
        if task is not None and task is not self._run.task:
            # a body reads the first of its tasks that end, and asyncio would warn of each other one
            task.add_done_callback(_read_error)
        self._state.raised = Suspended(wait_text(self._state.suspension.wait))
        raise self._state.raised


def _read_error(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _returns(function: Callable[..., Any]) -> ResultType:
    """The type of what a step returns; it is made once, because its converter takes long to make."""
    try:
        return _known_returns(function)
    except TypeError:  # the callable has no hash
        return ResultType(analyse(function).returns)


@functools.lru_cache(maxsize=1024)
def _known_returns(function: Callable[..., Any]) -> ResultType:
    return ResultType(analyse(function).returns)
