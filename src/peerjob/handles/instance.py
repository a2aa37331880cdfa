"""One execution of a job: a handle with a snapshot of the record, and verbs to act on the instance."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, ClassVar, Generic, Protocol, cast
from uuid import UUID

from typing_extensions import TypeVar

from peerjob.model.clock import to_datetime
from peerjob.model.codec import decode_value
from peerjob.model.durations import Duration
from peerjob.model.errors import EncodeError, JobCancelled, JobFailed, JobTimedOut, NodeStateError
from peerjob.model.injected import Injectable, Injection
from peerjob.model.record import LogLine, Record, Transition
from peerjob.model.spec import (
    ErrorInfo,
    Spec,
    encode,
    encode_arguments,
)
from peerjob.model.state import Level, State

from .instance_view import InstanceView
from .job_log import instance_logger

R_co = TypeVar("R_co", covariant=True, default=Any)


E_co = TypeVar("E_co", bound=Transition | LogLine, covariant=True)


class _Entry(Generic[E_co]):
    """A stored entry of an instance, with the id and kind of the instance."""

    __slots__ = ("_entry", "instance_id", "kind")

    def __init__(self, instance_id: str, kind: str, entry: E_co) -> None:
        self.instance_id = instance_id
        self.kind = kind
        self._entry = entry

    @property
    def uuid(self) -> UUID:
        """Id of the instance."""
        return UUID(self.instance_id)

    @property
    def timestamp(self) -> datetime:
        return to_datetime(self._entry.at_us)

    @property
    def node(self) -> str:
        return self._entry.node


class HistoryEntry(_Entry[Transition]):
    """One entry in the history of an instance: a state, its time, the node and the reason."""

    __slots__ = ()

    @property
    def transition(self) -> Transition:
        """The entry as it is stored."""
        return self._entry

    @property
    def state(self) -> State:
        return self._entry.state

    @property
    def note(self) -> str:
        """The reason in a few words; "" for the normal case."""
        return self._entry.note

    @property
    def count(self) -> int:
        """Over 1 if the entry stands for older entries that were folded."""
        return self._entry.count

    def to_dict(self) -> dict[str, Any]:
        return {
            "uuid": self.instance_id,
            "kind": self.kind,
            "state": str(self.state),
            "timestamp": self.timestamp.isoformat(),
            "node": self.node,
            "note": self.note,
        }

    def __repr__(self) -> str:
        return f"<{self.state!s} at {self.timestamp.isoformat()}{' ' + self.note if self.note else ''}>"


class LogEntry(_Entry[LogLine]):
    """One log line of an instance."""

    __slots__ = ()

    @property
    def line(self) -> LogLine:
        """The line as it is stored."""
        return self._entry

    @property
    def level(self) -> Level:
        return Level(self._entry.level)

    @property
    def message(self) -> str:
        return self._entry.message

    @property
    def attempt(self) -> int:
        return self._entry.attempt

    @property
    def fields(self) -> dict[str, Any]:
        """The `extra=` of the logging call."""
        return self._entry.fields or {}

    def to_dict(self) -> dict[str, Any]:
        return {
            "uuid": self.instance_id,
            "kind": self.kind,
            "level": self.level.name,
            "timestamp": self.timestamp.isoformat(),
            "message": self.message,
            "node": self.node,
            "attempt": self.attempt,
            "fields": self.fields,
        }

    def __repr__(self) -> str:
        return f"<{self.level.name} {self.message!r}>"


class InstanceManager(Protocol):
    """The verbs of a `Manager` that an `Instance` calls."""

    async def lookup_instance(self, uuid: str, /) -> Instance[Any]: ...
    async def wait_final(self, uuid: str, timeout: Duration | None, /) -> Record: ...
    def read_result(self, record: Record, job: Any, /) -> Any: ...
    async def cancel_instance(self, uuid: str, /) -> bool: ...
    async def retry_instance(self, uuid: str, /) -> Instance[Any]: ...
    def iter_logs(self, uuid: str, /, *, follow: bool) -> AsyncIterator[LogLine]: ...
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
        super().__init__()
        self._manager = manager
        self._job = job
        self._record = record
        self._log: logging.Logger | None = None
        self.is_new = is_new
        """Whether the call made this instance. False when `schedule()` found the instance by its idempotency key."""

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

    async def retry(self) -> Instance[R_co]:
        """Schedule a new instance with the same arguments and options; its `retry_of` names this one."""
        made: Instance[R_co] = await self._need_manager().retry_instance(self.id)
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
