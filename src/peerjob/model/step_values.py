"""The stored values of steps, signals and waits."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from .ages import moment
from .clock import aware_us, to_datetime
from .codec import decode_shown, decode_value, encode_value
from .durable import Wait
from .errors import DecodeError
from .record import LAST_MOMENT_US, Record

TIMED_OUT = b"\xc1"
"""In place of the value of a signal: the wait for it ended by its timeout. No encoded value has this byte."""


def encode_deadline(at_us: int) -> bytes:
    """The value under the name of a wait: the time at which it ends."""
    return encode_value(to_datetime(min(at_us, LAST_MOMENT_US)))


def decode_deadline(data: bytes) -> int | None:
    """The time of a wait in microseconds; None if the value is none of a wait."""
    try:
        value = decode_value(data)
    except DecodeError:
        return None
    return aware_us("deadline", value) if isinstance(value, datetime) and value.tzinfo is not None else None


def shown_step(data: bytes) -> Any:
    """The value of a step or a signal as plain data, for people, with "***" for secrets."""
    if data == TIMED_OUT:
        return "timed out"
    try:
        return decode_shown(data)
    except DecodeError as error:
        return f"<{error}>"


def wait_text(wait: Wait, needs: str = "its children") -> str:
    """What an instance waits for, in words: "signal approval until 2026-11-30 12:00:00Z"."""
    parts = [f"signal {name}" for name in wait.names]
    if wait.needs:
        parts.append(needs)
    text = " or ".join(parts)
    if wait.until_us is None:
        return text
    until = moment(to_datetime(min(wait.until_us, LAST_MOMENT_US)))
    return f"{text} until {until}" if text else until


def waits_for(record: Record) -> str | None:
    """What an instance waits for, in words; None if it waits for nothing but its turn in the queue."""
    if record.open:
        if not record.parent:
            return "the rest of its import: import the export again, or cancel it"
        return "its parent, which has not told all that it needs"
    if record.wait is None:
        return None
    # an instance that never ran has no children, so it is a child that needs others
    return wait_text(record.wait, "its children" if record.fence else "other children of its parent")
