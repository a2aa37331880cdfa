"""What the column `call` of an outbox holds: an instance to enqueue, after one byte with the version of the form."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from peerjob.model.durations import MAX_SECONDS
from peerjob.model.errors import DecodeError
from peerjob.model.ids import is_outbox_id
from peerjob.model.limits import MAX_KEY, MAX_KIND, MAX_LIMIT_NAME, MAX_TAG, MAX_TAGS
from peerjob.model.record import (
    LAST_MOMENT_US,
    MAX_CRASHES,
    MAX_PRIORITY,
    MIN_PRIORITY,
    Count,
    Moment,
    NewInstance,
)
from peerjob.model.spec import decode_spec, reader

VERSION = 1
_TEXT = r"^[^\x00]*\Z"
_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class StoredCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An instance without its id, which the row has. The due time is a time: it does not depend on the relay.

    A store checks no values. A damaged row must not become a record that no node can read.
    """

    kind: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KIND, pattern=_TEXT)]
    spec: bytes
    priority: Annotated[int, msgspec.Meta(ge=MIN_PRIORITY, le=MAX_PRIORITY)] = 5
    due_us: Moment | None = None
    key: Annotated[str, msgspec.Meta(max_length=MAX_KEY, pattern=_TEXT)] | None = None
    tags: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=MAX_TAG, pattern=_TEXT)], ...],
        msgspec.Meta(max_length=MAX_TAGS),
    ] = ()
    retention_us: Annotated[int, msgspec.Meta(ge=0, le=MAX_SECONDS * 1_000_000)] | None = None
    max_crashes: Count = MAX_CRASHES
    limit_key: Annotated[str, msgspec.Meta(max_length=MAX_LIMIT_NAME, pattern=_TEXT)] = ""
    key_concurrency: Count = 0


_encoder = msgspec.msgpack.Encoder()
_decode = reader(StoredCall, "row of an outbox")


def encode_row(new: NewInstance, now_us: int) -> bytes:
    """The column `call` for an instance."""
    due_us = now_us + new.delay_us if new.delay_us else new.due_us
    stored = StoredCall(
        kind=new.kind,
        spec=new.spec,
        priority=new.priority,
        due_us=None if due_us is None else min(due_us, LAST_MOMENT_US),  # a store replaces a later time, too
        key=new.key,
        tags=new.tags,
        retention_us=new.retention_us,
        max_crashes=new.max_crashes,
        limit_key=new.limit_key,
        key_concurrency=new.key_concurrency,
    )
    return bytes((VERSION,)) + _encoder.encode(stored)


def is_row_id(id: object) -> bool:
    """Whether an outbox has made an id: the store remembers only those for a day."""
    return isinstance(id, str) and _ID.fullmatch(id) is not None and is_outbox_id(id)


def decode_row(id: str, call: Any) -> NewInstance:
    """The instance of a row; raises DecodeError, also for a form of a newer release."""
    if type(call) not in (bytes, bytearray, memoryview):
        raise DecodeError(f"row of an outbox has a call that is {type(call).__name__}, and not bytes")
    data = bytes(call)
    if data[:1] != bytes((VERSION,)):
        form = data[0] if data else "none"
        raise DecodeError(f"row of an outbox has the form {form}, and this release reads the form {VERSION}")
    stored = _decode(data[1:])
    decode_spec(stored.spec)
    return NewInstance(
        id=id,
        kind=stored.kind,
        spec=stored.spec,
        priority=stored.priority,
        due_us=stored.due_us,
        key=stored.key,
        tags=stored.tags,
        retention_us=stored.retention_us,
        max_crashes=stored.max_crashes,
        limit_key=stored.limit_key,
        key_concurrency=stored.key_concurrency,
    )
