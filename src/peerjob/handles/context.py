"""What a running job can ask and say: `Context`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar, Literal, NoReturn, Protocol, TypeVar

from peerjob.model.clock import to_datetime
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import OptionError, OwnershipLost, Snooze
from peerjob.model.injected import Injectable, Injection, current_run
from peerjob.model.worker import Worker

from .instance import Instance
from .manager import Manager

T = TypeVar("T")
Reason = Literal["user", "timeout", "drain", "lost"]
"""Why a run is cancelled."""
_NO_INTERRUPTS: Any = frozenset[Any]()


class ContextBackend(Protocol):
    """What a node does for a context; a detached context has none."""

    def report_progress(self, context: Context, fraction: float, message: str) -> None: ...
    async def check_owner(self, context: Context) -> bool: ...
    def make_instance(self, context: Context) -> Instance[Any]: ...
    def make_worker(self, context: Context) -> Worker: ...
    def log_line(self, context: Context, level: int, message: str, fields: dict[str, object] | None) -> bool: ...


class Context(Injectable):
    """The run of one instance, seen from inside; usable from threads.

    Get it by annotating a parameter, or with `Context.current()`.
    """

    injected_as: ClassVar[Injection] = "context"

    __slots__ = (
        "_backend",
        "_cancelled",
        "_instance",
        "_interrupts",
        "asked",
        "attempt",
        "deadline_us",
        "ended",
        "fence",
        "id",
        "kind",
        "manager",
        "nominal_us",
        "schedule",
        "told",
    )

    def __init__(
        self,
        *,
        id: str = "",
        kind: str = "",
        fence: int = 0,
        attempt: int = 1,
        deadline_us: int | None = None,
        backend: ContextBackend | None = None,
        manager: Manager | None = None,
        schedule: str | None = None,
        nominal_us: int = 0,
    ) -> None:
        self.id = id
        self.kind = kind
        self.fence = fence
        """Grows with every claim of the instance: pass it to your own storage to refuse a stale run."""
        self.attempt = attempt
        self.deadline_us = deadline_us
        self.manager = manager
        self.schedule = schedule
        """Name of the schedule that made the instance, if one did."""
        self.nominal_us = nominal_us
        self.asked: Reason | None = None
        """For the node: `reason`, read without telling the body."""
        self.told = False
        """For the node: whether the body learned that it was asked to end. Decision 0012 defines it."""
        self.ended = False
        """For the node: whether the body has ended. A cancellation that comes later changes nothing."""
        self._backend = backend
        self._instance: Instance[Any] | None = None
        self._cancelled: threading.Event | None = None
        self._interrupts: set[Callable[[], object]] = _NO_INTERRUPTS

    @classmethod
    def current(cls) -> Context:
        """The context of the running job, or a detached one that is never cancelled."""
        run = current_run.get()
        return run if isinstance(run, Context) else cls()

    @classmethod
    def detached_value(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Context:
        return cls()

    @property
    def detached(self) -> bool:
        """Whether no node stands behind it: the function was called in place, outside a job."""
        return self._backend is None

    @property
    def instance(self) -> Instance[Any] | None:
        """The instance that runs, made when first asked for; None when detached."""
        if self._instance is None and self._backend is not None:
            self._instance = self._backend.make_instance(self)
        return self._instance

    @property
    def worker(self) -> Worker | None:
        """The worker that runs it; None when detached."""
        return None if self._backend is None else self._backend.make_worker(self)

    @property
    def deadline(self) -> datetime | None:
        """When this attempt times out, or None."""
        return None if self.deadline_us is None else to_datetime(self.deadline_us)

    @property
    def nominal_at(self) -> datetime | None:
        """The nominal time that its schedule made the instance for (see `Instance.nominal_at`), or None."""
        return to_datetime(self.nominal_us) if self.nominal_us else None

    # -- cancellation --------------------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether the run was asked to end."""
        return self.reason is not None

    @property
    def reason(self) -> Reason | None:
        """Why: "user", "timeout", "drain" or "lost"; None while it is not cancelled."""
        if self.asked is not None and not self.ended:
            self.told = True
        return self.asked

    def raise_if_cancelled(self) -> None:
        """Raise asyncio.CancelledError when the run was asked to end."""
        reason = self.reason
        if reason is not None:
            raise asyncio.CancelledError(reason)

    async def sleep(self, duration: Duration) -> None:
        """Sleep, on the loop; cancelled like any await."""
        await asyncio.sleep(to_seconds(duration))

    def wait(self, duration: Duration) -> bool:
        """Sleep in a thread until the run is cancelled or the time is over; True when it was cancelled."""
        if self._cancelled is None:
            self._cancelled = threading.Event()
            if self.asked is not None:
                self._cancelled.set()
        return self._cancelled.wait(to_seconds(duration)) and self.cancelled

    def cancel(self, reason: Reason) -> bool:
        """Ask the run to end. For the node; False when it was asked before, or has ended: the first reason stays."""
        if self.asked is not None or self.ended:
            return False
        self.asked = reason
        if self._cancelled is not None:
            self._cancelled.set()
        for interrupt in tuple(self._interrupts):
            interrupt()
        return True

    def interrupted_by(self, interrupt: Callable[[], object], *, until: Callable[[], T]) -> T:
        """What `until()` returns; a cancellation meanwhile calls `interrupt`. For calls that block a thread.

        A cancellation that the body was not told of yet interrupts at once.
        """
        if self._interrupts is _NO_INTERRUPTS:
            self._interrupts = set()
        self._interrupts.add(interrupt)
        try:
            # after it was added: else a cancellation in between would interrupt nothing
            if self.asked is not None and not self.told:
                interrupt()
            return until()
        finally:
            self._interrupts.discard(interrupt)

    def serves(self, backend: ContextBackend) -> bool:
        """Whether this is the backend of the node that runs it; a process may hold several nodes."""
        return self._backend is backend

    # -- ownership -----------------------------------------------------------------------------------------------

    async def assert_owner(self) -> None:
        """Raise OwnershipLost unless the store still holds this very claim; asks the store."""
        if self._backend is not None and not await self._backend.check_owner(self):
            raise OwnershipLost(f"instance {self.id} is not held under fence {self.fence} any more")

    # -- saying something ----------------------------------------------------------------------------------------

    def progress(self, fraction: float, message: str = "") -> None:
        """Show how far the run is: 0 to 1, and a short text. Written with the next group commit."""
        if not 0 <= fraction <= 1:
            raise OptionError("fraction", fraction, "a number from 0 to 1")
        if self._backend is not None:
            self._backend.report_progress(self, float(fraction), message)

    def log_line(self, level: int, message: str, fields: dict[str, object] | None = None) -> bool:
        """Keep a line with the instance; `level` is a `logging` number. For the log handlers.

        False says that the run takes no more lines.
        """
        return self._backend is not None and self._backend.log_line(self, level, message, fields)

    def snooze(self, duration: Duration) -> NoReturn:
        """End this run and have the instance run again after `duration`; it is not counted as an attempt."""
        raise Snooze(to_seconds(duration))
