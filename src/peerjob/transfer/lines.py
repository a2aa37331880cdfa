"""The format of a namespace on its way to another store: JSON lines.

A header comes first, then the schedules, then the unfinished instances, then a line with their numbers. Lines contain
arguments as they are stored, secrets too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeAlias

import msgspec

from peerjob.model.clock import Clock, SystemClock
from peerjob.model.errors import DecodeError, OptionError
from peerjob.model.ids import checked_id
from peerjob.model.limit import checked_concurrency, checked_limit_key
from peerjob.model.record import MAX_PRIORITY, MIN_PRIORITY, Moment, StoreLimits
from peerjob.store.base import Store
from peerjob.store.drivers import open_store

FORMAT = 1
"""The version of the format. A reader refuses a higher one, and ignores fields that it does not know."""
MAX_LINE = 16 << 20
"""The most bytes of a line. The largest instance needs about a tenth of it, with the default `max_payload`."""


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="header", omit_defaults=True):
    """The first line."""

    format: int
    release: str
    namespace: str
    schedules: int = 0
    """About how many schedules and instances follow, for a progress bar."""
    instances: int = 0
    undecodable: int = 0
    """Number of records that the source set aside because they cannot be decoded. They are not in the export."""


class MovedSchedule(msgspec.Struct, frozen=True, kw_only=True, tag="schedule", omit_defaults=True):
    """A schedule."""

    name: str
    kind: str
    definition: bytes
    next_us: Moment | None
    paused: bool = False
    note: str = ""
    last_us: Moment = 0
    """The latest nominal time that has a record."""


class MovedInstance(msgspec.Struct, frozen=True, kw_only=True, tag="instance", omit_defaults=True):
    """An unfinished instance."""

    id: str
    kind: str
    spec: bytes
    priority: int
    due_us: Moment
    attempts: int = 0
    crashes: int = 0
    losses: int = 0
    key: str | None = None
    tags: tuple[str, ...] = ()
    retention_us: int | None = None
    max_crashes: int
    slot: str = ""
    """The schedule whose slot the instance holds or waits for."""
    limit_key: str = ""
    key_concurrency: int = 0


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """The last line. A file without it is not whole."""

    schedules: int
    instances: int


Line: TypeAlias = Header | MovedSchedule | MovedInstance | End
_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def line_of(value: Line) -> bytes:
    """The line of a value."""
    return _encode(value) + b"\n"


def read_line(number: int, line: bytes) -> Line:
    """The inverse of `line_of`; raises DecodeError, which names the line by its number."""
    if len(line) > MAX_LINE:
        raise DecodeError(f"line {number} of the export has more than {MAX_LINE:,} bytes")
    try:
        value = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        shown = line[:40].decode(errors="replace").strip()
        raise DecodeError(f"line {number} of the export, {shown!r}…: expected a line of an export ({error})") from None
    if isinstance(value, Header) and value.format > FORMAT:
        raise DecodeError(
            f"the export has format {value.format}, written by release {value.release}; expected at most {FORMAT}: use "
            "that release or a later one"
        )
    if isinstance(value, MovedInstance):
        _check(number, value)
    return value


def _check(number: int, instance: MovedInstance) -> None:
    """Check what a store takes on trust from a node."""
    try:
        checked_id(instance.id)
    except OptionError as error:
        raise DecodeError(f"line {number} of the export: {error}") from None
    if instance.limit_key:
        try:
            checked_limit_key(instance.limit_key)
            checked_concurrency(instance.key_concurrency)
        except OptionError as error:
            raise DecodeError(f"line {number} of the export: instance {instance.id}: {error}") from None
    if not (
        MIN_PRIORITY <= instance.priority <= MAX_PRIORITY
        and min(instance.attempts, instance.crashes, instance.losses, instance.max_crashes) >= 0
        and max(instance.attempts, instance.crashes, instance.losses, instance.max_crashes) < 2**31
    ):
        raise DecodeError(f"line {number} of the export: instance {instance.id} has a number that is out of range")


@asynccontextmanager
async def opened(url: str, namespace: str, clock: Clock | None) -> AsyncGenerator[Store]:
    """A store for the block."""
    store = open_store(url, namespace=namespace, clock=clock or SystemClock(), limits=StoreLimits())
    try:
        await store.open()
        yield store
    finally:
        await store.close()
