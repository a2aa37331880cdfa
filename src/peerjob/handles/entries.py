"""What an instance has left behind: the entries of its history, and its log lines."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic
from uuid import UUID

from typing_extensions import TypeVar

from peerjob.model.clock import to_datetime
from peerjob.model.record import LogLine, Transition
from peerjob.model.state import Level, State

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
        """Time of the entry, in UTC."""
        return to_datetime(self._entry.at_us)

    @property
    def node(self) -> str:
        """Name of the node that caused the entry; "" if no node did."""
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
        """The state that the instance entered."""
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
        """The entry as plain values, for JSON."""
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
        """The level of the line."""
        return Level(self._entry.level)

    @property
    def message(self) -> str:
        """The text of the line."""
        return self._entry.message

    @property
    def attempt(self) -> int:
        """The number of the run that wrote the line, from 1; 0 for a line from outside of a run."""
        return self._entry.attempt

    @property
    def fields(self) -> dict[str, Any]:
        """The `extra=` of the logging call."""
        return self._entry.fields or {}

    def to_dict(self) -> dict[str, Any]:
        """The entry as plain values, for JSON."""
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
