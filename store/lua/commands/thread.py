"""Converts the thread of an instance, and what an outcome does to it; `thread.lua` has the format."""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

import msgspec

from peerjob.model.durable import Wait
from peerjob.model.record import Outcome
from peerjob.store.lua.scripts.script import Argument

THREAD = 1
"""The tag of a thread in the tail of a record."""
PARENT_MARK = b"\0"
"""The first byte of a tag that no user can give. The id of the parent follows, so the index of tags finds children."""
_ENTRY = struct.Struct(">BHBIHHIddB")
_SIZE = struct.Struct(">H")
_SUM_SIZE = 4
_MAX_TIME_US = 2**53 - 1
_WAITS, _TIMED, _OPEN, _JOINS, _HAS_CHILDREN = 1, 2, 4, 8, 16


class Thread(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The thread of an instance."""

    flags: int = 0
    values: int = 0
    """The number of steps and signals."""
    fence: float = 0.0
    """The fence of the wait. With another fence in the record, the wait is over."""
    parent: str = ""
    awaits: tuple[str, ...] = ()

    def wait(self, fence: float, due_us: float) -> Wait | None:
        """The wait of a Scheduled instance with this fence and this due time."""
        if not self.flags & _WAITS or fence != self.fence:
            return None
        until_us = int(due_us) if self.flags & _TIMED else None
        return Wait(signals=self.awaits, until_us=until_us, needs=bool(self.flags & _JOINS))

    @property
    def has_children(self) -> bool:
        """Whether the instance made children."""
        return bool(self.flags & _HAS_CHILDREN)

    def is_open(self, fence: float) -> bool:
        """Whether a Scheduled instance with this fence is an open child."""
        return bool(self.flags & _OPEN) and fence == self.fence


NO_THREAD = Thread()


# the children of one call of `spawn` have equal tails
@lru_cache(maxsize=256)
def unpack_thread(tail: bytes) -> Thread | None:
    """The thread in the tail of a record; None if there is none. Raises an error of any type for a damaged one."""
    if not tail or tail[0] != THREAD:
        if tail and (tail[0] ^ THREAD).bit_count() == 1:
            raise ValueError("a damaged thread")
        return None
    _, size, flags, _, steps, signals, _, due, fence, parent_size = _ENTRY.unpack_from(tail)
    begin = _ENTRY.size + parent_size
    (awaits_size,) = _SIZE.unpack_from(tail, begin)
    end = begin + _SIZE.size + awaits_size
    total = hashlib.sha1(tail[:end], usedforsecurity=False).hexdigest()[:_SUM_SIZE].encode()
    if (
        end + _SUM_SIZE != size + 3
        or tail[end : end + _SUM_SIZE] != total
        or not all(0 <= at <= _MAX_TIME_US and not at % 1 for at in (due, fence))
    ):
        raise ValueError("a damaged thread")
    return Thread(
        flags=flags,
        values=steps + signals,
        fence=fence,
        parent=tail[_ENTRY.size : begin].decode(),
        awaits=tuple(filter(None, tail[begin + _SIZE.size : end].decode().split("\0"))),
    )


def awaited_text(wait: Wait | None) -> str:
    """The signals of a wait, as the scripts take them."""
    return "" if wait is None else "\0".join(wait.signals)


def parent_tag(parent: str) -> str:
    """The tag of the children of an instance, which a record does not show among its tags."""
    return f"{PARENT_MARK.decode()}{parent}"


def add_thread_arguments(outcome: Outcome, arguments: list[Argument]) -> str:
    """Add the steps, needs and wait of an outcome, as thread_outcome.lua reads them; return their letters."""
    letters = ""
    if outcome.steps:
        letters += "k"
        arguments.append(len(outcome.steps))
        for step in outcome.steps:
            arguments += (step.name, step.value)
    if outcome.needs:
        letters += "m"
        arguments.append(len(outcome.needs))
        arguments += (need.id for need in outcome.needs)
    if (wait := outcome.wait) is not None:
        if wait.until_us is not None:
            letters += "u"
            arguments.append(max(wait.until_us, 0))
        if wait.signals:
            letters += "g"
            arguments.append(awaited_text(wait))
        if wait.needs:
            letters += "j"
    return letters
