"""One read of a followed instance: everything that is new since the read before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peerjob.model.record import LogLine, Record, Transition

from .entries import HistoryEntry, LogEntry
from .instance import Event, Instance
from .manager import Manager


@dataclass(frozen=True, kw_only=True)
class Position:
    """The position up to which a reader knows an instance. A stream that broke off continues from there."""

    entries: int
    """Number of states, folded ones included."""
    log_cursor: str | None = None
    progress: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Update:
    """The record as it was read, and what is new in it."""

    record: Record
    entries: tuple[Transition, ...] = ()
    """The new states; in the first update of a reader, only the present one."""
    lines: tuple[LogLine, ...] = ()
    progressed: bool = False
    position: Position

    def events(self, manager: Manager) -> list[Event]:
        """One event for each new line, progress and state, in this order: a final state is the last event."""
        record = self.record
        id, kind, state = record.id, record.kind, record.state
        instance: Instance[Any] = Instance(manager, record)
        return [
            *(Event(what="log", instance=instance, state=state, log=LogEntry(id, kind, line)) for line in self.lines),
            *([Event(what="progress", instance=instance, state=state)] if self.progressed else ()),
            *(
                Event(what="state", instance=instance, state=entry.state, entry=HistoryEntry(id, kind, entry))
                for entry in self.entries
            ),
        ]
