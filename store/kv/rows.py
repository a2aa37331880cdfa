"""The records that the engine stores about instances and nodes, and how they are decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec

from peerjob.model.decoding import reader
from peerjob.model.errors import DecodeError
from peerjob.model.record import (
    MAX_CRASHES,
    MAX_HISTORY,
    MAX_PRIORITY,
    MIN_PRIORITY,
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

T = TypeVar("T")
D = TypeVar("D")

NOTE_LIMIT = 200
"""Most characters of a note that are stored, so that a record stays small."""
HISTORY_BYTES = 3000
"""About the largest size of a history."""
_SMALL_HISTORY = 10
GONE = b""
"""The record of a removed instance while its enqueue may be repeated. All other verbs treat it as no record."""
SMALL = 256
"""Up to this number of bytes, arguments or result and error are in the record: a separate key would cost more."""
NOTHING_EXTRA = msgspec.Raw(b"\x80")
"""The last field of the rows of instances, nodes and schedules: a map of later releases, kept unchanged."""

Priority = Annotated[int, msgspec.Meta(ge=MIN_PRIORITY, le=MAX_PRIORITY)]
Attempts = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Out(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Result and error of an instance."""

    result: bytes | None = None
    error: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes of both."""
        return len(self.result or b"") + len(self.error or b"")


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The changing part of an instance: small, rewritten by each transition."""

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
    """The incarnation that holds the claim, still runs the cancelled instance, or made it final."""
    started: bool = False
    releasing: bool = False
    """Whether it is cancelled while its body still runs at the owner."""
    request: str = ""
    """The last accepted commit, so that a repeated one is recognized."""
    cancel: str = ""
    """The request that cancelled it."""
    state_before_cancel: State = State.UNSET
    """The state before the cancellation."""
    key: str | None = None
    tags: tuple[str, ...] = ()
    retention_us: int | None = None
    max_crashes: int = MAX_CRASHES
    has_out: bool = False
    """Whether its result and error have a separate key."""
    has_progress: bool = False
    expires_us: int = 0
    log_first: int = 0
    """Number of the oldest stored log line."""
    log_next: int = 0
    log_bytes: int = 0
    log_dropped: int = 0
    slot: str = ""
    """The schedule whose slot it holds or waits for while `keeps` is true."""
    spec: bytes | None = None
    """Its arguments, if they are small."""
    out: Out | None = None
    """Its result and error, if they are small."""
    extra: msgspec.Raw = NOTHING_EXTRA

    @property
    def suspect(self) -> bool:
        return is_suspect(self.crashes, self.losses)

    @property
    def final(self) -> bool:
        # final states have the highest numbers, and this comparison is many times faster than `is_final`
        return self.state >= State.CANCELLED

    @property
    def keeps(self) -> bool:
        """Whether it, or its body, has not ended yet, so that it keeps its key and its slot."""
        return not self.final or self.releasing


class Delayed(msgspec.Struct, frozen=True, array_like=True):
    """The entry of a delayed instance, with what is needed to move it."""

    kind: str
    priority: int
    suspect: bool


class Owned(msgspec.Struct, frozen=True, array_like=True):
    """A claim, in the index of its owner."""

    fence: int
    suspect: bool = False
    releasing: bool = False
    kind: str = ""


class NodeRow(msgspec.Struct, frozen=True, array_like=True):
    """An incarnation, until all its claims are taken back and it is deleted."""

    info: NodeInfo
    ended: str = ""
    """"" while it is alive; "left": it stopped; "dead": its lease expired and a reaper marked it."""
    suspect_ran: bool = False
    """For a dead node: whether a suspect was running there."""
    kinds: str = ""
    """The digest of its kinds (`kind_sets`); "" if they are few, and in `info`."""
    extra: msgspec.Raw = NOTHING_EXTRA

    @property
    def claims(self) -> bool:
        """Whether it has kinds, so that it claims a share of the due instances."""
        return bool(self.kinds or self.info.kinds)


class Live(msgspec.Struct, frozen=True, array_like=True):
    """The lease of an incarnation, and its load."""

    lease: int
    ttl_us: int
    running: int = 0
    claims: bool = True
    """Whether it has workers and kinds, so that other nodes leave it a share of the due instances."""


class ClockReport(msgspec.Struct, frozen=True, array_like=True):
    """A message of an incarnation about its clock."""

    clock_us: int
    """The node's clock when it wrote the message."""
    asks: tuple[str, ...] = ()
    """Incarnations that must report their clocks; "*": all."""


class Idle(msgspec.Struct, frozen=True, array_like=True):
    """The registration of an incarnation that found nothing to claim."""

    kinds: tuple[str, ...]
    groups: tuple[str, ...] = ()
    """The groups of its kinds, if it has many; then `kinds` is empty."""


class Answers(msgspec.Struct, frozen=True, array_like=True):
    """Answers to a request, by place in its batch."""

    request: str
    answers: tuple[tuple[int, str], ...] = ()
    now_us: int = 0
    next_due_us: int | None = None


UNREADABLE_NODE = NodeRow(
    NodeInfo(name="?", incarnation="", kinds=(), signatures={}, workers=0, host="?", pid=0, version="?", started_us=0)
)
"""The row of a node whose record is unreadable, so that its claims are taken back when its lease has ended."""


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
decode_answers = reader(Answers, "answers")
decode_lines: Callable[[bytes], tuple[LogLine, ...]] = reader(tuple[LogLine, ...], "log lines", open=True)
decode_count = reader(int, "counter")
decode_counts: Callable[[bytes], list[int]] = reader(list[int], "counter")


def _or_default(decode: Callable[[bytes], T], default: D) -> Callable[[bytes], T | D]:
    """A decoder that returns a default for unreadable data."""

    def decoded(data: bytes) -> T | D:
        try:
            return decode(data)
        except DecodeError:
            return default

    return decoded


node_of = _or_default(decode_node, UNREADABLE_NODE)
live_of = _or_default(decode_live, Live(lease=0, ttl_us=0))
clock_report_of = _or_default(decode_clock_report, None)
owned_of = _or_default(decode_owned, Owned(fence=0))
"""The entry of a claim; if it is unreadable, the record decides."""
delayed_of = _or_default(decode_delayed, None)
kinds_of = _or_default(decode_kinds, list[tuple[str, str | None]]())
"""Kinds and signatures of nodes."""
count_of = _or_default(decode_count, 0)


def number_of(data: bytes) -> int:
    """A number that is stored as text; -1 if it is unreadable."""
    try:
        return int(data)
    except ValueError:
        return -1


def start_of(data: bytes) -> str:
    """The start of a queue, in its head; before all places if it is unreadable."""
    text = data.decode(errors="replace")
    return text if text[:1].isdigit() else ""


def is_gone(entry: Entry | None) -> bool:
    """Whether an instance does not exist; the empty record of a removed one may."""
    return entry is None or entry.value == GONE


def extended(row: Row, state: State, now_us: int, node: str, note: str) -> tuple[Transition, ...]:
    """The history with one more entry. Times never go back, and surplus entries are folded into the oldest one."""
    history = row.history
    at_us = max(history[-1].at_us, now_us)
    history = (*history, Transition(state, at_us, node, note[:NOTE_LIMIT]))
    if len(history) < _SMALL_HISTORY:
        return history
    surplus = max(0, len(history) - MAX_HISTORY)
    size = sum(map(_size, history[surplus:]))
    while size > HISTORY_BYTES and surplus < len(history) - 2:
        size -= _size(history[surplus])
        surplus += 1
    return (folded(history[: surplus + 1]), *history[surplus + 1 :]) if surplus else history


def _size(entry: Transition) -> int:
    """About the size of an entry in bytes."""
    note = len(entry.note) if entry.note.isascii() else len(entry.note.encode(errors="replace"))
    return 20 + len(entry.node) + note


def folded(history: tuple[Transition, ...]) -> Transition:
    """The last entry, with the count of all."""
    last = history[-1]
    return Transition(last.state, last.at_us, last.node, last.note, sum(entry.count for entry in history))


def to_record(id: str, row: Row, spec: bytes, out: Out | None, progress: bytes | None) -> Record:
    """A record as readers see it; `out` comes from the separate key."""
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
