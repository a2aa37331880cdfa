"""The format of a namespace on its way to another store: JSON lines.

A header comes first, then the schedules, then the unfinished instances, then a line with their numbers. Lines contain
arguments as they are stored, secrets too.

Children come after their parent. A parent is open until its children and its steps were read: its last line of steps
closes it. So an import can stop at any line, and no body runs without what it has done before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeAlias

import msgspec

from peerjob.model.clock import Clock, SystemClock
from peerjob.model.durable import Step, Wait
from peerjob.model.errors import DecodeError, OptionError
from peerjob.model.ids import checked_id
from peerjob.model.limit import checked_concurrency, checked_limit_key
from peerjob.model.record import MAX_PRIORITY, MIN_PRIORITY, Moment, NewInstance, StoreLimits
from peerjob.model.restored import Restored
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.store.durable_checks import check_restored

FORMAT = 2
"""The version of the format. A reader refuses a higher one, and ignores fields that it does not know.

Format 1 has no steps, waits and children.
"""
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
    """An unfinished instance, or a final child of one."""

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
    parent: str = ""
    steps: tuple[Step, ...] = ()
    """Its steps and signals, if they are few; otherwise they follow in lines of their own."""
    signals: tuple[str, ...] = ()
    """The signals that it waits for."""
    until_us: Moment | None = None
    """The time that it waits for."""
    open: bool = False
    """Whether a later line closes it, or its parent."""
    state: str = ""
    """The final state of a child."""
    result: bytes | None = None
    error: bytes | None = None

    @property
    def is_durable(self) -> bool:
        """Whether it has something that `Store.enqueue` does not take."""
        return bool(self.parent or self.steps or self.signals or self.open) or self.until_us is not None

    def new(self) -> NewInstance:
        """The instance to add."""
        return msgspec.convert(self, NewInstance, from_attributes=True)

    def restored(self) -> Restored:
        """The instance to add, with its steps and its wait. Raises ValueError for a state that does not exist."""
        waits = self.signals or self.until_us is not None
        return Restored(
            instance=self.new(),
            parent=self.parent,
            steps=self.steps,
            wait=Wait(signals=self.signals, until_us=self.until_us) if waits else None,
            open=self.open,
            state=State.parse(self.state) if self.state else State.SCHEDULED,
            result=self.result,
            error=self.error,
        )


class MovedSteps(msgspec.Struct, frozen=True, kw_only=True, tag="steps", omit_defaults=True):
    """Steps and signals of an instance that an earlier line has."""

    id: str
    parent: str = ""
    steps: tuple[Step, ...] = ()
    open: bool = False
    """Whether the instance stays open. The last of its lines closes it, unless only its parent can."""

    def restored(self, kind: str = "steps", due_us: int = 0) -> Restored:
        """What the instance gets, which the store knows already."""
        instance = NewInstance(id=self.id, kind=kind, spec=b"", due_us=due_us)
        return Restored(instance=instance, steps=self.steps, open=self.open)


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """The last line. A file without it is not whole."""

    schedules: int
    instances: int
    steps: int = 0
    """Number of lines with steps."""


Line: TypeAlias = Header | MovedSchedule | MovedInstance | MovedSteps | End
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
    if isinstance(value, MovedSteps) or (isinstance(value, MovedInstance) and value.is_durable):
        try:
            checked_id(value.id)
            check_restored([value.restored()])
        except (OptionError, ValueError) as error:
            raise DecodeError(f"line {number} of the export: {error}") from None
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
async def opened(url: str, namespace: str, clock: Clock | None = None) -> AsyncGenerator[Store]:
    """A store for the block."""
    store = open_store(url, namespace=namespace, clock=clock or SystemClock(), limits=StoreLimits())
    try:
        await store.open()
        yield store
    finally:
        await store.close()
