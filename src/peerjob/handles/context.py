"""`Context`: the run of an instance, seen from inside the job."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar, Literal, NoReturn, Protocol, SupportsFloat, SupportsIndex, TypeVar

from peerjob.model.clock import SystemClock, to_datetime
from peerjob.model.durations import Duration, to_micros, to_seconds
from peerjob.model.errors import NodeStateError, OptionError, OwnershipLost, Snooze
from peerjob.model.injected import Injectable, Injection, current_run
from peerjob.model.limit import Limit
from peerjob.model.limits import MAX_LIMIT_NAME, checked_text
from peerjob.model.printable import shown
from peerjob.model.worker import Worker

from .child_verbs import ChildVerbs
from .durable_run import DurableRun
from .durable_verbs import DurableVerbs
from .instance import Instance
from .job_log import instance_logger
from .manager import Manager

T = TypeVar("T")
Reason = Literal["user", "timeout", "drain", "lost"]
"""Reasons for which a run is cancelled."""
_NO_INTERRUPTS: Any = frozenset[Any]()


class ContextBackend(Protocol):
    """The part of a node that serves contexts. A detached context has no backend."""

    def time_us(self) -> int: ...
    def report_progress(self, context: Context, fraction: float, message: str) -> None: ...
    async def check_owner(self, context: Context) -> bool: ...
    async def throttle(self, context: Context, limit: str, delay_us: int) -> None: ...
    def durable_run(self, context: Context, verb: str) -> DurableRun: ...
    def make_instance(self, context: Context) -> Instance[Any]: ...
    def make_worker(self, context: Context) -> Worker: ...
    def log_line(self, context: Context, level: int, message: str, fields: dict[str, object] | None) -> bool: ...


class Context(DurableVerbs, ChildVerbs, Injectable):
    """The run of one instance, seen from inside the job. Threads may use it.

    Annotate a parameter to get it, or call `Context.current()`.
    """

    injected_as: ClassVar[Injection] = "context"

    __slots__ = (
        "__weakref__",
        "_backend",
        "_cancelled",
        "_corrected",
        "_instance",
        "_interrupts",
        "attempt",
        "cancel_reason",
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
        """A number that grows with each claim. Pass the fence to your own storage to refuse a stale run."""
        self.attempt = attempt
        self.deadline_us = deadline_us
        self.manager = manager
        self.schedule = schedule
        """Name of the schedule that made the instance, or None."""
        self.nominal_us = nominal_us
        self.cancel_reason: Reason | None = None
        """For the node: the same value as `reason`. Reading `cancel_reason` does not mark the body as told."""
        self.told = False
        """For the node: whether the body was told to end. Decision 0012 defines which events tell a body."""
        self.ended = False
        """For the node: whether the body has ended. A cancellation after the end of the body has no effect."""
        self._backend = backend
        self._instance: Instance[Any] | None = None
        self._cancelled: threading.Event | None = None
        self._corrected = False
        """Whether a progress outside 0 to 1 was logged."""
        self._interrupts: set[Callable[[], object]] = _NO_INTERRUPTS

    @classmethod
    def current(cls) -> Context:
        """Return the context of the running job, or a detached one, which is never cancelled."""
        run = current_run.get()
        return run if isinstance(run, Context) else cls()

    @classmethod
    def detached_value(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Context:
        return cls()

    @property
    def detached(self) -> bool:
        """Whether the context has no node, because the function was called outside of a job."""
        return self._backend is None

    @property
    def instance(self) -> Instance[Any] | None:
        """The instance that runs; None if detached."""
        if self._instance is None and self._backend is not None:
            self._instance = self._backend.make_instance(self)
        return self._instance

    @property
    def worker(self) -> Worker | None:
        """The worker that runs the instance; None if detached."""
        return None if self._backend is None else self._backend.make_worker(self)

    @property
    def deadline(self) -> datetime | None:
        """Time at which this attempt times out, or None."""
        return None if self.deadline_us is None else to_datetime(self.deadline_us)

    @property
    def nominal_at(self) -> datetime | None:
        """The nominal time of the schedule's fire (see `Instance.nominal_at`), or None."""
        return to_datetime(self.nominal_us) if self.nominal_us else None

    def now(self) -> datetime:
        """Return the time in UTC by the node's clock, as `deadline` and `nominal_at` are. In a test, it is virtual.

        A detached context returns the time of the machine.
        """
        return to_datetime(SystemClock().time_us() if self._backend is None else self._backend.time_us())

    # -- cancellation --------------------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether the run is cancelled."""
        return self.reason is not None

    @property
    def reason(self) -> Reason | None:
        """The reason of the cancellation: "user", "timeout", "drain" or "lost"; None without a cancellation."""
        if self.cancel_reason is not None and not self.ended:
            self.told = True
        return self.cancel_reason

    def raise_if_cancelled(self) -> None:
        """Raise asyncio.CancelledError if the run is cancelled."""
        reason = self.reason
        if reason is not None:
            raise asyncio.CancelledError(reason)

    async def sleep(self, duration: Duration) -> None:
        """Sleep on the event loop. A cancellation ends the sleep."""
        await asyncio.sleep(to_seconds(duration))

    def wait(self, duration: Duration) -> bool:
        """Sleep in a thread until the run is cancelled or the time is over; True if it is cancelled."""
        if self._cancelled is None:
            self._cancelled = threading.Event()
            if self.cancel_reason is not None:
                self._cancelled.set()
        return self._cancelled.wait(to_seconds(duration)) and self.cancelled

    def cancel(self, reason: Reason) -> bool:
        """Cancel the run; for the node. False if the run is already cancelled or has ended: the first reason stays."""
        if self.cancel_reason is not None or self.ended:
            return False
        self.cancel_reason = reason
        if self._cancelled is not None:
            self._cancelled.set()
        for interrupt in tuple(self._interrupts):
            interrupt()
        return True

    def interrupted_by(self, interrupt: Callable[[], object], *, until: Callable[[], T]) -> T:
        """Return `until()`, a call that blocks a thread. A cancellation meanwhile calls `interrupt`.

        If the run is cancelled already and the body was not told, `interrupt` is called at once.
        """
        if self._interrupts is _NO_INTERRUPTS:
            self._interrupts = set()
        self._interrupts.add(interrupt)
        try:
            # check after the add: the check finds an earlier cancellation, and a later cancellation calls `interrupt`
            if self.cancel_reason is not None and not self.told:
                interrupt()
            return until()
        finally:
            self._interrupts.discard(interrupt)

    def serves(self, backend: ContextBackend) -> bool:
        """Whether this run belongs to the node with this backend: one process can have several nodes."""
        return self._backend is backend

    # -- steps and waits -----------------------------------------------------------------------------------------

    def durable_run(self, verb: str) -> DurableRun:
        if self._backend is None:
            raise NodeStateError(f"{verb}() needs a job that a node runs; a direct call of its function has no node")
        return self._backend.durable_run(self, verb)

    # -- ownership -----------------------------------------------------------------------------------------------

    async def assert_owner(self) -> None:
        """Read the claim from the store, and raise OwnershipLost unless this run still holds it."""
        if self._backend is not None and not await self._backend.check_owner(self):
            raise OwnershipLost(f"instance {self.id} is not held under fence {self.fence} any more")

    # -- limits --------------------------------------------------------------------------------------------------

    async def throttle(self, limit: Limit | str, duration: Duration) -> None:
        """Close a shared limit for all nodes: none of its kinds is claimed for this time. Running jobs go on.

        A limit that is closed for longer stays so. Raises OptionError if no kind has a limit of this name. If only jobs
        of this node still have it, since other nodes run newer code, the node logs a warning and closes nothing. A job
        that runs eagerly, or without a node, closes nothing.
        """
        name = limit.name if isinstance(limit, Limit) else checked_text("limit", limit, MAX_LIMIT_NAME)
        delay_us = to_micros(duration, "duration")
        if self._backend is not None:
            await self._backend.throttle(self, name, delay_us)

    # -- reports ----------------------------------------------------------------------------------------

    def progress(self, fraction: float, message: str = "") -> None:
        """Report the progress of the run: a fraction from 0 to 1 and a short text. The next group commit writes it.

        A number below 0 counts as 0, and one above 1 as 1; the first such number of a run is logged with the instance.
        Raises OptionError for a value that is no finite number.
        """
        given: Any = fraction  # a caller without a type checker can pass any object
        try:
            # any number: Fraction, Decimal and numpy's float32 are no subclasses of float
            share = float(given) if isinstance(given, SupportsFloat | SupportsIndex) else math.nan
        except (ValueError, ArithmeticError):
            share = math.nan
        if not math.isfinite(share):
            raise OptionError("fraction", given, "a number from 0 to 1")
        stored = min(1.0, max(0.0, share))
        if stored != share and not self._corrected:
            self._corrected = True
            self._warn(f"progress({shown(given)}): expected a fraction from 0 to 1, not percent; stored as {stored:g}")
        if self._backend is not None:
            self._backend.report_progress(self, stored, message)

    def log_line(self, level: int, message: str, fields: dict[str, object] | None = None) -> bool:
        """Store a line with the instance; for log handlers. `level` is a `logging` number.

        False if the run takes no more lines.
        """
        return self._backend is not None and self._backend.log_line(self, level, message, fields)

    def snooze(self, duration: Duration) -> NoReturn:
        """End this run and run the instance again after `duration`. This does not count as an attempt."""
        raise Snooze(to_seconds(duration))

    def _warn(self, message: str) -> None:
        """Log a warning of this run, and store it with the instance. The calling thread may have no current run."""
        token = current_run.set(self)
        try:
            instance_logger(self.id).warning("instance %s of %r: %s", self.id, self.kind, message)
        finally:
            current_run.reset(token)
