"""Times, durations, states and arbitrary values, on the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError as MalformedError
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from typing_extensions import TypeIs

from peerjob.model.clock import to_datetime, to_us
from peerjob.model.durations import MAX_SECONDS
from peerjob.model.errors import OptionError
from peerjob.model.json_text import to_json
from peerjob.model.state import State
from peerjob.proto.job.v1 import service_pb2 as pb

M = TypeVar("M", bound=Message)

FIRST_US = to_us(datetime.min.replace(tzinfo=UTC))
LAST_US = to_us(datetime.max.replace(tzinfo=UTC))


def given(message: Any, name: str, default: Any = None) -> Any:
    """The value of a field; `default` if the field is optional and not set."""
    is_optional = message.DESCRIPTOR.fields_by_name[name].has_presence
    return default if is_optional and not message.HasField(name) else getattr(message, name)


def stamp(time_us: int) -> Timestamp:
    """Microseconds since the epoch as a message."""
    message = Timestamp()
    set_stamp(message, time_us)
    return message


def set_stamp(message: Timestamp, time_us: int) -> None:
    """Like `stamp`, for a message within another one: to pass a message to another one takes a copy."""
    message.seconds, micros = divmod(time_us, 1_000_000)
    message.nanos = micros * 1000


def optional_stamp(time_us: int | None) -> Timestamp | None:
    """Like `stamp`; None for 0, which means "never" in stored values."""
    return stamp(time_us) if time_us else None


def moment_stamp(moment: datetime | None) -> Timestamp | None:
    """An aware datetime as a message."""
    return None if moment is None else stamp(to_us(moment))


def stamp_us(message: Timestamp) -> int:
    """The inverse of `stamp`; 0 for an empty message."""
    return message.seconds * 1_000_000 + message.nanos // 1000


def given_moment(option: str, message: Timestamp) -> datetime:
    """The time in a request; raises OptionError for a time outside the calendar."""
    time_us = stamp_us(message)
    if not 0 <= message.nanos < 1_000_000_000 or not FIRST_US <= time_us <= LAST_US:
        raise OptionError(option, f"{message.seconds} s {message.nanos} ns", "a time in the years 1 to 9999")
    return to_datetime(time_us)


def span(time_us: int) -> Duration:
    """Microseconds as a message."""
    seconds, micros = divmod(abs(time_us), 1_000_000)
    sign = -1 if time_us < 0 else 1
    return Duration(seconds=sign * seconds, nanos=sign * micros * 1000)


def span_us(message: Duration) -> int:
    """The inverse of `span`."""
    return message.seconds * 1_000_000 + int(message.nanos / 1000)


def given_span(option: str, message: Duration) -> timedelta:
    """The duration in a request; raises OptionError for a negative or too long one."""
    if not 0 <= message.nanos < 1_000_000_000 or not 0 <= message.seconds <= MAX_SECONDS:
        raise OptionError(option, f"{message.seconds} s {message.nanos} ns", "a duration of zero to 1,000 years")
    return timedelta(microseconds=span_us(message))


def state_number(state: State) -> pb.JobState.ValueType:
    """The number of a state on the wire."""
    return cast("pb.JobState.ValueType", int(state))


def is_tuple(value: object) -> TypeIs[tuple[Any, ...]]:
    """Like `isinstance`, with a type that both type checkers understand."""
    return isinstance(value, tuple)


def value_text(value: Any) -> str:
    """The value as JSON; values that are strings in JSON (text, times, ids, decimals) have no quotes."""
    text = to_json(value)
    return cast(str, msgspec.json.decode(text)) if text.startswith('"') else text


def parsed(kind: type[M], data: bytes) -> M:
    """The message in these bytes; raises OptionError if they are not one."""
    try:
        return kind.FromString(data)
    except MalformedError:
        raise OptionError("request", f"{len(data):,} bytes", f"a message {kind.DESCRIPTOR.full_name}") from None
