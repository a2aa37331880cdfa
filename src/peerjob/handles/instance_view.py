"""The properties that `Instance` and `BlockingInstance` share: a snapshot of an instance's record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from peerjob.model.clock import to_datetime
from peerjob.model.codec import decode_value
from peerjob.model.errors import DecodeError
from peerjob.model.ids import id_time_us
from peerjob.model.json_text import to_json
from peerjob.model.record import Record
from peerjob.model.spec import ErrorInfo, Progress, Spec, decode_error, decode_progress, decode_spec
from peerjob.model.state import State


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
        return self.record.kind

    @property
    def state(self) -> State:
        return self.record.state

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments, as scheduled; "***" for a secret."""
        return self._decoded().arguments()[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments, as scheduled; "***" for a secret."""
        return self._decoded().arguments()[1]

    @property
    def arguments(self) -> list[Any]:
        """All arguments as one list, keyword ones last."""
        args, kwargs = self._decoded().arguments()
        return [*args, *kwargs.values()]

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
        return self.record.fence

    @property
    def priority(self) -> int:
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
        return self._last(State.COMPLETED)

    @property
    def terminated_at(self) -> datetime | None:
        return self._last(State.TERMINATED)

    @property
    def cancelled_at(self) -> datetime | None:
        return self._last(State.CANCELLED)

    @property
    def timed_out_at(self) -> datetime | None:
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


_SHOWN = {"max_retries", "timeout"}


def _readable(read: Callable[[], Any]) -> Any:
    """Return a part of the view, or the error as text, so that a damaged part does not hide the other parts."""
    try:
        return read()
    except (DecodeError, ValueError) as error:
        return f"<{error}>"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
