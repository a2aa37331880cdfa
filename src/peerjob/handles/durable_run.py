"""What a running body can do with its steps, waits and children: the part of a node behind the verbs of `Context`."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from peerjob.model.call_list import CallList
from peerjob.model.durable import Step
from peerjob.model.job import Job
from peerjob.model.record import NewChild, Record
from peerjob.model.signal import SignalSource

inside_step: contextvars.ContextVar[str | None] = contextvars.ContextVar("peerjob_step", default=None)
"""The name of the step whose function the present code belongs to."""

holds_thread: contextvars.ContextVar[int] = contextvars.ContextVar("peerjob_thread", default=0)
"""The thread of the sync body that runs in this context, or that waits for code on the event loop with this context.

OTHER_THREAD for another thread of the body; 0 if there is no thread.
"""
OTHER_THREAD = -1


class StepSlot:
    """A step that a body has entered: its stored value, or the name under which its value will be kept."""

    __slots__ = ("function", "is_stored", "name", "value")

    def __init__(self, name: str, function: Callable[..., Any], *, is_stored: bool = False, value: Any = None) -> None:
        self.name = name
        self.function = function
        self.is_stored = is_stored
        self.value = value


class DurableRun(Protocol):
    """The steps, waits and children of the instance that runs. A node makes it at the first durable verb of a run.

    All methods run on the event loop of the node.
    """

    async def step(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...
    async def enter_step(self, name: str, function: Callable[..., Any]) -> StepSlot:
        """Enter a step. Unless its value is stored, `keep_step` or `leave_step` must follow."""
        ...

    async def keep_step(self, slot: StepSlot, value: Any) -> Any:
        """Keep what the function of a step returned, and return it as a later run of the body will get it."""
        ...

    def leave_step(self, slot: StepSlot) -> None:
        """End a step whose function raised an error."""
        ...

    async def keep(self, *steps: Step) -> None:
        """Keep encoded values, which are stored when the call returns. Raises StepLimitError."""
        ...

    async def kept(self, prefix: str = "") -> dict[str, bytes]:
        """The stored steps and signals by stored name, as the node knows them."""
        ...

    async def start(self, names: Sequence[str], calls: CallList[Any]) -> list[str]:
        """Make a child of each name and call, unless it exists; returns their ids. All calls are checked first."""
        ...

    async def spawn(self, children: Sequence[NewChild]) -> None:
        """Add children, in calls of the store as large as it takes. Those that exist do not change.

        A child that others need comes before them. Raises OwnershipLost.
        """
        ...

    async def over(self, ids: Sequence[str]) -> list[Record | None]:
        """The records of children if all are over; None for one that is gone. Otherwise, wait until they are over.

        Over: final, and no body runs any more. Raises Suspended to wait.
        """
        ...

    def read_result(self, record: Record, job: Job[..., Any, Any]) -> Any:
        """The result of a child that is Completed."""
        ...

    async def suspend(self, name: str, delay_us: int) -> None: ...
    async def wait_for(self, signal: SignalSource[Any], timeout_us: int | None) -> Any: ...
