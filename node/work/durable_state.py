"""What the other parts of a node see of a run that is durable: what it has to write, and how it was suspended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import msgspec

from peerjob.handles.durable_run import DurableRun
from peerjob.model.durable import MAX_NEEDS_CALL, MAX_STEP_BYTES, MAX_STEPS_CALL, Need, Step, Wait
from peerjob.model.durable_errors import Suspended
from peerjob.model.record import Ack

from .over_marks import marked


class Suspension(msgspec.Struct, frozen=True):
    """How a run ends that waits: what the store gets with its SUSPEND."""

    wait: Wait
    steps: tuple[Step, ...] = ()
    needs: tuple[Need, ...] = ()


def joined(waits: Sequence[Suspension]) -> Suspension:
    """One wait for all that the tasks of a body await, over as soon as one of them is: the body then runs again.

    Of several sets of children, the first one is awaited: a store has one set of a wait.
    """
    needing = next((given for given in waits if given.wait.needs), None)
    times = [given.wait.until_us for given in waits if given.wait.until_us is not None]
    wait = Wait(
        signals=tuple(dict.fromkeys(name for given in waits for name in given.wait.signals)),
        until_us=min(times, default=None),
        needs=needing is not None,
    )
    # the step of a wait for needs is the mark of that wait; each other step is a deadline
    deadlines = tuple(step for given in waits if not given.wait.needs for step in given.steps)
    if needing is None:
        return Suspension(wait, deadlines)
    return Suspension(wait, (*(marked(mark, wait) for mark in needing.steps), *deadlines), needing.needs)


class Write:
    """Values and needs that a body waits to have stored."""

    __slots__ = ("alone", "answer", "needs", "steps")

    def __init__(self, steps: tuple[Step, ...], needs: tuple[Need, ...], *, alone: bool) -> None:
        self.steps = steps
        self.needs = needs
        self.alone = alone
        """Whether it needs an outcome of its own: its answer can be TAKEN, and then the outcome writes nothing."""
        self.answer: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()

    @property
    def size(self) -> int:
        return sum(len(step.name) + len(step.value) for step in self.steps)


class DurableState:
    """The writes of one run, in order, and its suspension.

    The claim loop sends one request at a time, so at most one report with writes of a run is on its way.
    """

    def __init__(self) -> None:
        self.verbs: DurableRun | None = None
        self.suspension: Suspension | None = None
        self.raised: Suspended | None = None
        """The last error that told the body to end."""
        self.is_queued = False
        """Whether the unsent reports know that this run has writes."""
        self._waiting: deque[Write] = deque()
        self._sent: list[Write] = []

    @property
    def may_send(self) -> bool:
        """Whether a write waits, and no other one is on its way."""
        return bool(self._waiting) and not self._sent

    @property
    def waits(self) -> bool:
        """Whether a write waits to be sent."""
        return bool(self._waiting)

    def add(self, write: Write) -> None:
        self._waiting.append(write)

    def take(self) -> tuple[tuple[Step, ...], tuple[Need, ...], bool]:
        """The steps and needs of the next report, and whether it must have nothing else."""
        first = self._waiting.popleft()
        sent, size, needs, count = [first], first.size, len(first.needs), len(first.steps)
        while self._waiting and not first.alone and not self._waiting[0].alone:
            size += self._waiting[0].size
            needs += len(self._waiting[0].needs)
            count += len(self._waiting[0].steps)
            if size > MAX_STEP_BYTES or needs > MAX_NEEDS_CALL or count > MAX_STEPS_CALL:
                break
            sent.append(self._waiting.popleft())
        self._sent = sent
        steps = tuple(step for write in sent for step in write.steps)
        return steps, tuple(need for write in sent for need in write.needs), first.alone

    def answered(self, ack: Ack) -> None:
        """The store has answered the report that was on its way, if there was one."""
        sent, self._sent = self._sent, []
        for write in sent:
            if not write.answer.done():
                write.answer.set_result(ack)

    def refused(self, error: Exception) -> None:
        """The store refuses the report that was on its way."""
        sent, self._sent = self._sent, []
        for write in sent:
            if not write.answer.done():
                write.answer.set_exception(error)
                write.answer.exception()  # read it: asyncio warns of an error that a cancelled body did not read

    def drop(self) -> None:
        """The claim is gone: no write can succeed."""
        self._sent.extend(self._waiting)
        self._waiting.clear()
        self.answered(Ack.LOST)

    async def flush(self) -> None:
        """Wait until the store has answered each write; a body that was cancelled did not wait for them."""
        while writes := [write.answer for write in (*self._sent, *self._waiting)]:
            await asyncio.wait(writes)
