"""What the engine stores, and how it reads it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from peerjob.model.decoding import reader
from peerjob.model.errors import DecodeError
from peerjob.model.record import (
    HISTORY_LIMIT,
    MAX_CRASHES,
    PRIORITY_MAX,
    PRIORITY_MIN,
    Claim,
    Count,
    LogLine,
    Moment,
    NodeInfo,
    Record,
    Transition,
    is_suspect,
)
from peerjob.model.state import State

from .base import Entry

NOTE_LIMIT = 200
"""Most characters of a note that are kept, so that a record stays small."""

HISTORY_BYTES = 3000
"""About how large a history may be."""
_SMALL_HISTORY = 10
GONE = b""
"""The record of an instance that was removed while its enqueue may come again: for all else, there is none."""
SMALL = 256
"""Bytes up to which arguments, or a result or error, stay in the record: a key of their own would cost more."""


NOTHING_EXTRA = msgspec.Raw(b"\x80")
"""What the rows of instances, nodes and schedules end in: a map of later releases, which is kept word for word."""


Priority = Annotated[int, msgspec.Meta(ge=PRIORITY_MIN, le=PRIORITY_MAX)]
Attempts = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Out(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Result and error of an instance."""

    result: bytes | None = None
    error: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes of what is in it."""
        return len(self.result or b"") + len(self.error or b"")


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What changes about an instance: small, rewritten by each transition."""

    kind: str
    state: State
    priority: Priority
    due_us: Moment
    history: tuple[Transition, ...]
    attempts: Attempts = 0
    crashes: Count = 0
    losses: Count = 0
    fence: Count = 0
    owner: str = ""
    """Who holds the claim, runs a cancelled instance still, or made it final."""
    started: bool = False
    releasing: bool = False
    """Cancelled, while its body still runs at the owner."""
    request: str = ""
    """The last commit that was accepted, so that one sent twice is known."""
    cancel: str = ""
    """The request that cancelled it, and the state in which it found it."""
    was: State = State.UNSET
    key: str | None = None
    tags: tuple[str, ...] = ()
    retention_us: int | None = None
    max_crashes: int = MAX_CRASHES
    has_out: bool = False
    """Whether its result and error have a key of their own."""
    has_progress: bool = False
    expires_us: int = 0
    log_first: int = 0
    """Number of the oldest log line kept."""
    log_next: int = 0
    log_bytes: int = 0
    log_dropped: int = 0
    slot: str = ""
    """The schedule whose slot it takes or waits for as long as it `keeps` it."""
    spec: bytes | None = None
    """Its arguments, where they are small."""
    out: Out | None = None
    """Its result and error, where they are small."""
    extra: msgspec.Raw = NOTHING_EXTRA

    @property
    def suspect(self) -> bool:
        return is_suspect(self.crashes, self.losses)

    @property
    def final(self) -> bool:
        # the final states have the highest numbers, and a comparison is many times faster than `is_final`
        return self.state >= State.CANCELLED

    @property
    def keeps(self) -> bool:
        """Whether it is not over, its body included, so that its key and slot are its own."""
        return not self.final or self.releasing


class Delayed(msgspec.Struct, frozen=True, array_like=True):
    """What the mover must know of a delayed instance."""

    kind: str
    priority: int
    suspect: bool


class Owned(msgspec.Struct, frozen=True, array_like=True):
    """A claim, as its owner's entry."""

    fence: int
    suspect: bool = False
    releasing: bool = False
    kind: str = ""


class NodeRow(msgspec.Struct, frozen=True, array_like=True):
    """An incarnation, until all its claims are taken back."""

    info: NodeInfo
    ended: str = ""
    """"" while it is alive; "left" in order; "dead": its lease expired and somebody marked it."""
    suspect_ran: bool = False
    """When dead: whether a suspect was running there."""
    kinds: str = ""
    """Where its kinds stand (`kindsets`), unless they are few and in `info`."""
    extra: msgspec.Raw = NOTHING_EXTRA

    @property
    def claims(self) -> bool:
        """Whether it has kinds, and so takes its part of what is due."""
        return bool(self.kinds or self.info.kinds)


class Live(msgspec.Struct, frozen=True, array_like=True):
    """The lease of an incarnation, and its load."""

    lease: int
    ttl_us: int
    running: int = 0
    claims: bool = True
    """Whether it has workers and kinds, so that others leave it its part of what is due."""


class ClockReport(msgspec.Struct, frozen=True, array_like=True):
    """What an incarnation tells of its clock."""

    clock_us: int
    """The node's clock when it wrote this."""
    asks: tuple[str, ...] = ()
    """Incarnations that are to tell their clocks; "*": all."""


class Idle(msgspec.Struct, frozen=True, array_like=True):
    """An incarnation that found nothing to claim."""

    kinds: tuple[str, ...]
    groups: tuple[str, ...] = ()
    """The groups of its kinds, where it has many; then `kinds` is empty."""


class Answers(msgspec.Struct, frozen=True, array_like=True):
    """What a request was answered: by place in its batch."""

    request: str
    answers: tuple[tuple[int, str], ...] = ()
    now_us: int = 0
    next_due_us: int | None = None


UNREADABLE_NODE = NodeRow(
    NodeInfo(name="?", incarnation="", kinds=(), signatures={}, workers=0, host="?", pid=0, version="?", started_us=0)
)
"""Stands for a node whose record cannot be read, so that its claims are taken back once its lease has ended."""


def node_of(data: bytes) -> NodeRow:
    """What a node's record says; `UNREADABLE_NODE` for one that cannot be read."""
    try:
        return decode_node(data)
    except DecodeError:
        return UNREADABLE_NODE


def live_of(data: bytes) -> Live:
    """What a node's lease says; one without a load where it cannot be read."""
    try:
        return decode_live(data)
    except DecodeError:
        return Live(lease=0, ttl_us=0)


def clock_report_of(data: bytes) -> ClockReport | None:
    """What a node tells of its clock; None where it cannot be read."""
    try:
        return decode_clock_report(data)
    except DecodeError:
        return None


def owned_of(data: bytes) -> Owned:
    """What the owner's entry of a claim says; the record decides where it cannot be read."""
    try:
        return decode_owned(data)
    except DecodeError:
        return Owned(fence=0)


def kind_of_delayed(data: bytes) -> str:
    """The kind of a delayed instance; "" where its entry cannot be read."""
    try:
        return decode_delayed(data).kind
    except DecodeError:
        return ""


def kinds_of(data: bytes) -> list[tuple[str, str | None]]:
    """Kinds and signatures of nodes; none where they cannot be read."""
    try:
        return decode_kinds(data)
    except DecodeError:
        return []


def count_of(data: bytes) -> int:
    """A counter; 0 where it cannot be read."""
    try:
        return decode_count(data)
    except DecodeError:
        return 0


def number_of(data: bytes) -> int:
    """A number as text; -1 where it cannot be read."""
    try:
        return int(data)
    except ValueError:
        return -1


def start_of(data: bytes) -> str:
    """The place that a queue begins at; before all of them where it cannot be read."""
    text = data.decode(errors="replace")
    return text if text[:1].isdigit() else ""


_NOTHING = Out()
_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
decode_row = reader(Row, "record")
decode_out = reader(Out, "result or error")
decode_delayed = reader(Delayed, "entry of a delayed instance")
decode_owned = reader(Owned, "claim")
decode_node = reader(NodeRow, "node")
decode_kinds: Callable[[bytes], list[tuple[str, str | None]]] = reader(list[tuple[str, str | None]], "kinds of a node")
decode_live = reader(Live, "lease of a node")
decode_clock_report = reader(ClockReport, "clock of a node")
decode_idle = reader(Idle, "idle node")
decode_answers = reader(Answers, "journal")
decode_lines: Callable[[bytes], tuple[LogLine, ...]] = reader(tuple[LogLine, ...], "log lines", open=True)
decode_count = reader(int, "counter")
decode_counts: Callable[[bytes], list[int]] = reader(list[int], "counter")


def is_gone(entry: Entry | None) -> bool:
    """Whether there is no record, but perhaps the memory of one."""
    return entry is None or entry.value == GONE


def extended(row: Row, state: State, now_us: int, node: str, note: str) -> tuple[Transition, ...]:
    """The history with one more entry; times never go back, and what is too much is folded into the oldest."""
    history = row.history
    at_us = max(history[-1].at_us, now_us)
    history = (*history, Transition(state, at_us, node, note[:NOTE_LIMIT]))
    if len(history) < _SMALL_HISTORY:
        return history
    surplus = max(0, len(history) - HISTORY_LIMIT)
    size = sum(map(_size, history[surplus:]))
    while size > HISTORY_BYTES and surplus < len(history) - 2:
        size -= _size(history[surplus])
        surplus += 1
    return (folded(history[: surplus + 1]), *history[surplus + 1 :]) if surplus else history


def _size(entry: Transition) -> int:
    """About how many bytes an entry takes."""
    note = len(entry.note) if entry.note.isascii() else len(entry.note.encode(errors="replace"))
    return 20 + len(entry.node) + note


def folded(history: tuple[Transition, ...]) -> Transition:
    """The last entry, standing for all of them."""
    last = history[-1]
    return Transition(last.state, last.at_us, last.node, last.note, sum(entry.count for entry in history))


def to_record(id: str, row: Row, spec: bytes, out: Out | None, progress: bytes | None) -> Record:
    """A record as readers see it; `out` is what has a key of its own."""
    out = out or row.out or _NOTHING
    return Record(
        id=id,
        kind=row.kind,
        state=row.state,
        spec=spec,
        priority=row.priority,
        due_us=row.due_us,
        attempts=row.attempts,
        crashes=row.crashes,
        losses=row.losses,
        fence=row.fence,
        owner="" if row.releasing else row.owner,
        history=row.history,
        result=out.result,
        error=out.error,
        progress=progress,
        key=row.key,
        tags=row.tags,
        slot=row.slot if row.keeps else "",
    )


def to_claim(id: str, row: Row, spec: bytes) -> Claim:
    """A claim as its new owner sees it."""
    return Claim(
        id=id,
        kind=row.kind,
        fence=row.fence,
        spec=spec,
        priority=row.priority,
        due_us=row.due_us,
        attempts=row.attempts,
        crashes=row.crashes,
        losses=row.losses,
        at_us=row.history[-1].at_us,
        key=row.key,
        tags=row.tags,
    )
