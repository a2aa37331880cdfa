"""One execution of a job: the snapshot of its record, and the handle with verbs to act on the instance."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Generic, Literal, Protocol, cast
from uuid import UUID

from typing_extensions import TypeVar

from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.clock import to_datetime
from peerjob.model.codec import decode_value
from peerjob.model.durable import FLOW_KIND
from peerjob.model.durations import Duration
from peerjob.model.errors import DecodeError, EncodeError, JobCancelled, JobFailed, JobTimedOut, NodeStateError
from peerjob.model.graph import shown_flow
from peerjob.model.ids import id_time_us
from peerjob.model.injected import Injectable, Injection
from peerjob.model.json_text import to_json
from peerjob.model.record import LogLine, Record
from peerjob.model.spec import (
    ErrorInfo,
    Progress,
    Spec,
    decode_error,
    decode_progress,
    decode_spec,
    encode,
    encode_arguments,
)
from peerjob.model.state import Level, State
from peerjob.model.step_values import waits_for

from .entries import HistoryEntry, LogEntry
from .job_log import instance_logger

R_co = TypeVar("R_co", covariant=True, default=Any)

_SHOWN = {"max_retries", "timeout"}


class InstanceView(ABC):
    """The record of an instance, as it was last read."""

    __slots__ = ("_spec",)

    def __init__(self) -> None:
        self._spec: Spec | None = None

    @property
    @abstractmethod
    def record(self) -> Record:
        """The stored record as last read."""

    @property
    def id(self) -> str:
        """The UUIDv7 as text."""
        return self.record.id

    @property
    def uuid(self) -> UUID:
        """The UUIDv7."""
        return UUID(self.record.id)

    @property
    def kind(self) -> str:
        """The kind of the job."""
        return self.record.kind

    @property
    def state(self) -> State:
        """The state, which is one of the seven single states."""
        return self.record.state

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments, as scheduled; "***" for a secret, and counts for the graph of a flow."""
        args = self._decoded().arguments()[0]
        return args if self.record.kind != FLOW_KIND else shown_flow(args)

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments, as scheduled; "***" for a secret."""
        return self._decoded().arguments()[1]

    @property
    def arguments(self) -> list[Any]:
        """All arguments as one list, keyword ones last."""
        return [*self.args, *self.kwargs.values()]

    @property
    def attempts(self) -> int:
        """Counted runs, the present one included."""
        return self.record.attempts

    @property
    def crashes(self) -> int:
        """How often a node died while the body ran."""
        return self.record.crashes

    @property
    def losses(self) -> int:
        """How often a node died between the claim and the start of the body."""
        return self.record.losses

    @property
    def fence(self) -> int:
        """The number of the latest claim. It grows with each claim of the instance; 0 before the first one."""
        return self.record.fence

    @property
    def priority(self) -> int:
        """The priority: due instances with a lower number run first."""
        return self.record.priority

    @property
    def due_at(self) -> datetime:
        """Time at which the instance is, or was, due."""
        return to_datetime(self.record.due_us)

    @property
    def created_at(self) -> datetime:
        """Creation time of the id, to the millisecond. `Query(after=, before=)` uses it."""
        return to_datetime(id_time_us(self.id))

    @property
    def scheduled_at(self) -> datetime:
        """The same as `due_at`, with go-job's name."""
        return self.due_at

    @property
    def queued_at(self) -> datetime | None:
        """Time of the latest entry into the queue."""
        return self._last(State.SCHEDULED)

    @property
    def processed_at(self) -> datetime | None:
        """Time of the latest claim."""
        return self._last(State.PROCESSING)

    @property
    def completed_at(self) -> datetime | None:
        """Time at which the instance became Completed, or None."""
        return self._last(State.COMPLETED)

    @property
    def terminated_at(self) -> datetime | None:
        """Time at which the instance became Terminated, or None."""
        return self._last(State.TERMINATED)

    @property
    def cancelled_at(self) -> datetime | None:
        """Time at which the instance became Cancelled, or None."""
        return self._last(State.CANCELLED)

    @property
    def timed_out_at(self) -> datetime | None:
        """Time at which the instance became TimedOut, or None."""
        return self._last(State.TIMED_OUT)

    @property
    def node(self) -> str | None:
        """Name of the node with the latest run; None before the first run."""
        for entry in reversed(self.record.history):
            if entry.state is State.PROCESSING:
                return entry.node
        return None

    @property
    def retry_of(self) -> UUID | None:
        """The instance that this one repeats, if `retry()` made it."""
        return None if (old := self._decoded().retry_of) is None else UUID(old)

    @property
    def schedule(self) -> str | None:
        """Name of the schedule that made the instance, or None."""
        return self._decoded().schedule or None

    @property
    def nominal_at(self) -> datetime | None:
        """The nominal time of the schedule's fire; for a trigger, the time of the trigger; None without a schedule."""
        nominal = self._decoded().nominal_us
        return to_datetime(nominal) if nominal else None

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags; () without tags."""
        return self.record.tags

    @property
    def key(self) -> str | None:
        """The idempotency key."""
        return self.record.key

    @property
    def error(self) -> ErrorInfo | None:
        """Type, message and traceback of the last failed run's error, or None."""
        return None if self.record.error is None else decode_error(self.record.error)

    @property
    def waits_for(self) -> str | None:
        """What the suspended instance waits for, in words; None if it is not suspended."""
        return waits_for(self.record)

    @property
    def progress(self) -> Progress | None:
        """The latest reported progress, or None."""
        return None if self.record.progress is None else decode_progress(self.record.progress)

    def to_dict(self) -> dict[str, Any]:
        """The snapshot as plain values, with go-job's keys."""
        record = self.record
        done = record.state is State.COMPLETED and record.result is not None
        return {
            "kind": record.kind,
            "uuid": record.id,
            "state": str(record.state),
            "arguments": _readable(lambda: self.arguments),
            "priority": record.priority,
            "attempts": record.attempts,
            "crashes": record.crashes,
            "schedule_at": self.due_at.isoformat(),
            "created_at": self.created_at.isoformat(),
            "scheduled_at": self.scheduled_at.isoformat(),
            "queued_at": _iso(self.queued_at),
            "processed_at": _iso(self.processed_at),
            "completed_at": _iso(self.completed_at),
            "terminated_at": _iso(self.terminated_at),
            "cancelled_at": _iso(self.cancelled_at),
            "timed_out_at": _iso(self.timed_out_at),
            "node": self.node,
            "tags": list(record.tags),
            "key": record.key,
            "retry_of": _readable(lambda: self._decoded().retry_of),
            "schedule": _readable(lambda: self.schedule),
            "nominal_at": _readable(lambda: _iso(self.nominal_at)),
            "waits_for": self.waits_for,
            "progress": _readable(lambda: _progress_shown(self.progress)),
            "error": None if record.error is None else _readable(lambda: str(self.error)),
            "traceback": None
            if record.error is None
            else _readable(lambda: decode_error(record.error or b"").traceback or None),
            "result": _readable(lambda: decode_value(record.result or b"")) if done else None,
            **self._overrides_shown(),
        }

    def _overrides_shown(self) -> dict[str, Any]:
        try:
            overrides = self._decoded().overrides
        except DecodeError:
            return {}
        return {name: overrides[name] for name in overrides.keys() & _SHOWN}

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return to_json(self.to_dict())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.kind!r} {self.state!s}>"

    def _last(self, state: State) -> datetime | None:
        for entry in reversed(self.record.history):
            if entry.state is state:
                return to_datetime(entry.at_us)
        return None

    def _decoded(self) -> Spec:
        if self._spec is None:
            self._spec = decode_spec(self.record.spec)
        return self._spec


@dataclass(frozen=True, kw_only=True)
class Event:
    """A present state, or one change: a state, a log line, or progress. `watch` yields events."""

    what: Literal["state", "log", "progress"]
    instance: Instance[Any]
    """A snapshot of the instance, read after the change."""
    state: State
    log: LogEntry | None = None
    entry: HistoryEntry | None = None

    def to_dict(self) -> dict[str, Any]:
        """The event as plain values, for JSON."""
        return {
            "what": self.what,
            "uuid": self.instance.id,
            "kind": self.instance.kind,
            "state": str(self.state),
            "entry": None if self.entry is None else self.entry.to_dict(),
            "log": None if self.log is None else self.log.to_dict(),
            "progress": _progress_shown(self.instance.progress),
        }


class InstanceManager(Protocol):
    """The verbs of a `Manager` that an `Instance` calls."""

    async def lookup_instance(self, uuid: str, /) -> Instance[Any]: ...
    def lookup_directly(self, uuid: str, /) -> Instance[Any] | None: ...
    async def wait_final(self, uuid: str, timeout: Duration | None, /) -> Record: ...
    def read_result(self, record: Record, job: Any, /) -> Any: ...
    async def cancel_instance(self, uuid: str, /) -> bool: ...
    async def run_now(self, uuid: str, /, *, id: str | UUID | None) -> bool: ...
    async def retry_instance(self, uuid: str, /, *, id: str | UUID | None) -> Instance[Any]: ...
    def iter_logs(self, uuid: str, /, *, follow: bool) -> AsyncIterator[LogLine]: ...
    def watch_instance(self, uuid: str, /) -> AsyncIterator[Event]: ...
    def keep_line(self, id: str, level: int, message: str, fields: Mapping[str, object] | None, /) -> None: ...


class Instance(InstanceView, Injectable, Generic[R_co]):
    """One execution of a job with concrete arguments.

    Its properties show the record as it was last read; `refresh()` reads it again. Its coroutines act on the instance,
    on any node. `R_co` is the type of the result.
    """

    injected_as: ClassVar[Injection] = "instance"

    __slots__ = ("_job", "_log", "_manager", "_record", "is_new")

    def __init__(
        self, manager: InstanceManager | None, record: Record, *, job: object = None, is_new: bool = True
    ) -> None:
        self._spec: Spec | None = None  # as in `InstanceView`, whose call would take as long as all lines below
        self._manager = manager
        self._job = job
        self._record = record
        self._log: logging.Logger | None = None
        self.is_new = is_new
        """False when `schedule()` found this instance by its key, or `schedule_as()` found it by its id."""

    @classmethod
    def detached_value(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Instance[Any]:
        try:
            stored = encode_arguments(args, kwargs)
        # a direct call of a job accepts values that cannot be stored: the snapshot of that call shows no arguments
        except EncodeError:
            stored = encode_arguments((), {})
        record = Record(
            id="00000000-0000-7000-8000-000000000000",
            kind="",
            state=State.PROCESSING,
            spec=encode(Spec(args=stored)),
            priority=0,
            due_us=0,
            attempts=1,
            crashes=0,
            losses=0,
            fence=0,
            owner="",
            history=(),
        )
        return cls(None, record)

    @property
    def record(self) -> Record:
        return self._record

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instance) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    # -- verbs that read or change the stored instance -----------------------------------------------------------

    async def refresh(self) -> Instance[R_co]:
        """Read the record again; raises UnknownInstanceError if retention has removed the instance."""
        self._record = (await self._need_manager().lookup_instance(self.id)).record
        return self

    def refresh_directly(self) -> bool:
        """Read the record again in a thread without an event loop; False if only `refresh` can do that now."""
        latest = self._need_manager().lookup_directly(self.id)
        if latest is not None:
            self._record = latest.record
        return latest is not None

    async def wait(self, timeout: Duration | None = None) -> Instance[R_co]:
        """Wait until the instance is final, and refresh it. Raises TimeoutError, but no error of the job."""
        self._record = await self._need_manager().wait_final(self.id, timeout)
        return self

    async def result(self, timeout: Duration | None = None) -> R_co:
        """Wait until the instance is final and return its result.

        The result is converted by the job's return annotation if the job is known here; otherwise it is plain data.
        Raises JobFailed, JobCancelled or JobTimedOut if the instance did not complete, TimeoutError after `timeout`,
        and ResultTypeError if the stored result does not fit the annotation.
        """
        if not self._record.state.is_final:
            await self.wait(timeout)
        return self.outcome()

    def outcome(self) -> R_co:
        """Like `result`, from this snapshot; raises NodeStateError if the snapshot is not final."""
        record = self._record
        if record.state is State.COMPLETED:
            # an instance without a manager is a bare snapshot: its job, which converts the result, is unknown
            if self._manager is None:
                return cast("R_co", None if record.result is None else decode_value(record.result))
            return cast("R_co", self._manager.read_result(record, self._job))
        if record.state is State.CANCELLED:
            raise JobCancelled(self.id)
        info = self.error or ErrorInfo(type="Unknown", message="no error was recorded")
        if record.state is State.TIMED_OUT:
            raise JobTimedOut(self.id, info.message)
        if record.state is State.TERMINATED:
            raise JobFailed(self.id, info.type, info.message, info.traceback)
        raise NodeStateError(f"instance {self.id} is {record.state!s}, it has no outcome yet")

    async def cancel(self) -> bool:
        """Cancel the instance, queued or running, on any node; False if it was already final."""
        return await self._need_manager().cancel_instance(self.id)

    async def run_now(self, *, id: str | UUID | None = None) -> bool:
        """Make the delayed instance due at once; False if it was due already. Attempts and options stay.

        `id` and errors as in `Manager.run_now`.
        """
        return await self._need_manager().run_now(self.id, id=id)

    async def retry(self, *, id: str | UUID | None = None) -> Instance[R_co]:
        """Schedule a new instance with the same arguments and options; its `retry_of` names this one.

        `id` as in `Manager.retry_instance`.
        """
        made: Instance[R_co] = await self._need_manager().retry_instance(self.id, id=id)
        made._job = self._job
        return made

    async def history(self) -> list[HistoryEntry]:
        """Read the states so far, oldest first."""
        await self.refresh()
        return [HistoryEntry(self.id, self.kind, entry) for entry in self._record.history]

    async def logs(self, *, level: Level | int | None = None) -> list[LogEntry]:
        """Read the log lines so far, oldest first."""
        return [line async for line in self.iter_logs(level=level)]

    async def iter_logs(self, *, level: Level | int | None = None, follow: bool = False) -> AsyncIterator[LogEntry]:
        """Yield the log lines; with `follow`, yield new lines too until the instance is final."""
        async for line in self._need_manager().iter_logs(self.id, follow=follow):
            if level is None or int(level) & line.level:
                yield LogEntry(self.id, self.kind, line)

    async def watch(self) -> AsyncIterator[Event]:
        """Yield the present state, then the log lines so far, then each change until the instance is final.

        Nothing is missing between the first event and the later ones, and nothing comes twice. The last event is a
        final state, unless the first one is: its log lines follow then. Each event refreshes this snapshot. Raises
        UnknownInstanceError if retention removes the instance, NodeStateError when the node stops, and
        StoreUnavailableError if the store does not answer for 30 s: call `watch` again, and it begins anew.
        """
        events: Any = self._need_manager().watch_instance(self.id)
        async with AsyncClosing(events):
            async for event in events:
                self._record = event.instance.record
                yield event

    @property
    def log(self) -> logging.Logger:
        """A logger whose lines are stored with this instance, at any level of the root logger.

        A Node stores lines from outside the run in the background, such as lines of a processor. A Client drops them.
        """
        if self._log is None:
            self._log = instance_logger(self.id, None if self._manager is None else self._manager.keep_line)
        return self._log

    def _need_manager(self) -> InstanceManager:
        if self._manager is None:
            raise NodeStateError(f"instance {self.id} is a bare snapshot, without a node to ask")
        return self._manager


def _readable(read: Callable[[], Any]) -> Any:
    """Return a part of the view, or the error as text, so that a damaged part does not hide the other parts."""
    try:
        return read()
    except (DecodeError, ValueError) as error:
        return f"<{error}>"


def _progress_shown(progress: Progress | None) -> dict[str, Any] | None:
    return None if progress is None else {"fraction": progress.fraction, "message": progress.message}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
