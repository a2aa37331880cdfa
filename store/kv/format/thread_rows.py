"""What the engine stores about a durable body: its wait, and what is kept beside its record.

The record of an instance that has used none of this has no `StoredThread`, so it is as it was before.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgspec
from msgspec.structs import replace

from peerjob.model.durable import SIGNAL_MARK, Wait
from peerjob.model.errors import DecodeError
from peerjob.model.record import Count, Moment
from peerjob.model.spec import reader
from peerjob.model.state import State

from .rows import NOTHING_EXTRA, Row, encode, or_default

_THREAD = "thread"
"""The key of the thread in `Row.extra`."""
_SUM = "sum"
"""The key of its checksum. A flipped bit could otherwise end a wait without a trace, or let it last for ever."""
_THREAD_MARK, _SUM_MARK = encode(_THREAD), encode(_SUM)


class StoredThread(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The part of a record that only durable bodies and their children have."""

    waits: bool = False
    """Whether the instance waits. This counts only while the record has the fence of the thread: a claim ends a wait.
    """
    fence: Count = 0
    """The fence to which the wait belongs; 0 for a child that was not claimed yet."""
    until_us: Moment | None = None
    """The time that ends the wait. Until then, the instance is in the delayed queue; without one, it is in none."""
    awaits: tuple[str, ...] = ()
    """The signals that end the wait."""
    needs: bool = False
    before_us: Moment = 0
    """The due time before a wait with a time."""
    parent: str = ""
    """The instance that made this one as its child."""
    open: bool = False
    """Whether the parent has not told all needs of the child, so that the child waits in any case."""
    held: bool = False
    """Whether the parent of the child is not final, so that the child does not expire."""
    children: bool = False
    """Whether the instance has made children."""
    steps: Count = 0
    signals: Count = 0
    bytes: Count = 0
    """Of all values of steps and signals."""

    @property
    def has_values(self) -> bool:
        """Whether the instance has steps or signals."""
        return self.steps + self.signals > 0

    def with_value(self, name: str, size: int) -> StoredThread:
        """The thread of an instance that gets one more step or signal."""
        is_signal = name.startswith(SIGNAL_MARK)
        return replace(
            self,
            steps=self.steps + (not is_signal),
            signals=self.signals + is_signal,
            bytes=self.bytes + size,
        )


class StoredEdge(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The need of a child, by the instance that has it."""

    fence: Count
    """That of the instance when it came to need the child."""
    must_complete: bool = False


NO_THREAD = StoredThread()
_read_extra = reader(dict[str, msgspec.Raw], "later fields of a record")
_read_thread = reader(StoredThread, "thread")
edge_of = or_default(reader(StoredEdge, "need of a child"), None)


def thread_of(row: Row) -> StoredThread | None:
    """The thread of an instance. Raises DecodeError if it is unreadable: `KVContext.row_of` sets the record aside."""
    if row.extra == NOTHING_EXTRA:
        return None
    data = bytes(row.extra)
    if _THREAD_MARK not in data and _SUM_MARK not in data:
        return None
    extra = _read_extra(data)
    stored = bytes(extra.get(_THREAD, b""))
    if bytes(extra.get(_SUM, b"")) != encode(crc32(stored)):
        raise DecodeError("thread cannot be read: its checksum is another one")
    return _read_thread(stored)


def with_thread(row: Row, thread: StoredThread) -> Row:
    """The record with another thread."""
    others: dict[str, Any] = {} if row.extra == NOTHING_EXTRA else dict(_read_extra(bytes(row.extra)))
    data = encode(thread)
    return replace(row, extra=msgspec.Raw(encode({**others, _THREAD: msgspec.Raw(data), _SUM: crc32(data)})))


def wait_of(row: Row) -> StoredThread | None:
    """The thread of an instance that waits; None if the instance does not wait."""
    thread = thread_of(row)
    waits = thread is not None and thread.waits and thread.fence == row.fence and row.state is State.SCHEDULED
    return thread if waits else None


def is_outside(row: Row) -> bool:
    """Whether a Scheduled instance is in no queue, because it waits without a time."""
    thread = wait_of(row)
    return thread is not None and thread.until_us is None


def shown_wait(row: Row) -> Wait | None:
    """The wait of an instance as readers see it."""
    thread = wait_of(row)
    return None if thread is None else Wait(signals=thread.awaits, until_us=thread.until_us, needs=thread.needs)


def is_held(row: Row) -> bool:
    """Whether an instance is a child whose parent holds it."""
    thread = thread_of(row)
    return thread is not None and thread.held


def without_hold(row: Row) -> Row:
    """The record of a child whose parent does not hold it any more."""
    return with_thread(row, replace(thread_of(row) or NO_THREAD, held=False))
