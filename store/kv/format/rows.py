"""The records that the engine stores about instances and nodes, and how they are decoded."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from peerjob.model.errors import DecodeError
from peerjob.model.instruction import encode_instruction, instruction_of
from peerjob.model.limits import MAX_KIND
from peerjob.model.record import (
    MAX_CRASHES,
    MAX_HISTORY,
    MAX_PRIORITY,
    MIN_PRIORITY,
    Ack,
    Count,
    Instruction,
    LogLine,
    Moment,
    NodeInfo,
    Transition,
    is_suspect,
)
from peerjob.model.spec import reader
from peerjob.model.state import State

from .base import Entry

SLOTS = 9
"""The numbers in a stored counter, see `counts`."""

T = TypeVar("T")
D = TypeVar("D")

NOTE_LIMIT = 200
"""Most characters of a note that a record stores: a longer note is cut, so that the record stays small."""
HISTORY_BYTES = 3000
"""About the largest number of bytes of a stored history: in a longer one, the oldest entries become one entry."""
_SMALL_HISTORY = 10
_GROUP_NAME = re.compile("[0-9a-f]{12}")
_INSTRUCTION = "instruction"
"""The key of the instruction in `NodeRow.extra`."""
GONE = b""
"""The record of a removed instance, kept while a client can repeat the enqueue. All other
verbs treat the record as absent."""
SMALL = 256
"""Arguments, or result and error, of at most this number of bytes are stored in the record: a
separate key would cost more."""
NOTHING_EXTRA = msgspec.Raw(b"\x80")
"""The empty value of the last field of stored rows. The field is a map that later versions can
fill, and is kept unchanged."""

Priority = Annotated[int, msgspec.Meta(ge=MIN_PRIORITY, le=MAX_PRIORITY)]
Attempts = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Id = Annotated[str, msgspec.Meta(min_length=36, max_length=36)]
Kind = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KIND)]
Retention = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""In microseconds. The longest retention, 1,000 years, is more than a `Count` can be."""
Lease = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
History = Annotated[tuple[Transition, ...], msgspec.Meta(min_length=1)]
Answer = Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(Ack)}|[0-9]{{1,16}} [0-9a-f-]{{36}})$")]
"""The answer to an outcome; or fence and id of a claim."""
Summand = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""A number in one shard of a counter. The shards are summed, so one of them can be negative."""
Counter = Annotated[list[Summand], msgspec.Meta(min_length=SLOTS, max_length=SLOTS)]


class Out(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Result and error of an instance."""

    result: bytes | None = None
    error: bytes | None = None

    @property
    def size(self) -> int:
        """The number of bytes of result and error together."""
        return len(self.result or b"") + len(self.error or b"")


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The changing part of an instance: small, rewritten by each transition."""

    kind: Kind
    state: State
    priority: Priority
    due_us: Moment
    history: History
    attempts: Attempts = 0
    crashes: Count = 0
    losses: Count = 0
    fence: Count = 0
    owner: str = ""
    """The incarnation that holds the claim, still runs the cancelled instance, or made the instance final."""
    started: bool = False
    releasing: bool = False
    """Whether the instance is cancelled while the owner still runs the body of the instance."""
    request: str = ""
    """The request id of the last accepted commit, so that a repeated commit is recognized."""
    cancel: str = ""
    """The request id of the cancellation, so that a repeated cancellation is recognized."""
    state_before_cancel: State = State.UNSET
    """The state before the cancellation: a repeated cancellation returns the same state."""
    key: str | None = None
    tags: tuple[str, ...] = ()
    retention_us: Retention | None = None
    max_crashes: Count = MAX_CRASHES
    has_out: bool = False
    """Whether result and error are stored under a separate key, because they are large."""
    has_progress: bool = False
    expires_us: Moment = 0
    log_first: Count = 0
    """Number of the oldest stored log line."""
    log_next: Count = 0
    log_bytes: Count = 0
    log_dropped: Count = 0
    slot: str = ""
    """The schedule whose slot the instance holds or waits for, while `keeps` is true."""
    spec: bytes | None = None
    """The arguments of the instance, if they are small; None if they have a separate key."""
    out: Out | None = None
    """Result and error of the instance, if they are small; None if they have a separate key or do not exist."""
    extra: msgspec.Raw = NOTHING_EXTRA

    @property
    def suspect(self) -> bool:
        return is_suspect(self.crashes, self.losses)

    @property
    def final(self) -> bool:
        # final states have the highest numbers, and a comparison of numbers is many times faster than `is_final`
        return self.state >= State.CANCELLED

    @property
    def claimed(self) -> bool:
        """Whether an incarnation holds the claim, or runs the body of the cancelled instance."""
        return self.state is State.PROCESSING or self.releasing

    @property
    def keeps(self) -> bool:
        """Whether the instance or its body has not ended, so that the instance keeps its unique key and its slot."""
        return not self.final or self.releasing


LimitKey = tuple[Annotated[str, msgspec.Meta(min_length=1)], Count]
"""The limit key of an instance, and the concurrency that came with it."""


class Delayed(msgspec.Struct, frozen=True, array_like=True):
    """The entry of a delayed instance, with what is needed to move it."""

    kind: Kind
    priority: Priority
    suspect: bool
    limit_key: LimitKey | None = None

    @property
    def value(self) -> bytes:
        """The stored entry, without the last field if it has no value."""
        return encode((self.kind, self.priority, self.suspect, *((self.limit_key,) if self.limit_key else ())))


class Owned(msgspec.Struct, frozen=True, array_like=True):
    """A claim, in the index of its owner."""

    fence: Count
    suspect: bool = False
    releasing: bool = False
    kind: str = ""

    @classmethod
    def of(cls, row: Row) -> Owned:
        """The entry that belongs to a record."""
        return cls(row.fence, row.suspect, row.releasing, row.kind)


class NodeRow(msgspec.Struct, frozen=True, array_like=True):
    """An incarnation, until all its claims are taken back and it is deleted."""

    info: NodeInfo
    ended: Literal["", "left", "dead", "returned"] = ""
    """Empty while the node is alive. "left": the node stopped; "dead": the lease expired and a
    reaper marked the node; "returned": the process of the dead node joined again."""
    suspect_ran: bool = False
    """Whether a suspect was running on the node when the node died, so that only suspects are
    charged with the crash."""
    kinds: str = ""
    """The digest of the node's kinds (`kind_sets`); "" if the kinds are few, and stored in `info`."""
    extra: msgspec.Raw = NOTHING_EXTRA

    @property
    def claims(self) -> bool:
        """Whether the node has kinds and does not drain, so that the node claims a share of the due instances."""
        return bool((self.kinds or self.info.kinds) and self.info.intake in ("", "active"))

    @property
    def instruction(self) -> Instruction | None:
        """The latest instruction to the node."""
        return None if self.extra == NOTHING_EXTRA else instruction_of(_extra_of(self).get(_INSTRUCTION))

    def instructed(self, instruction: Instruction) -> NodeRow:
        """The row with a new instruction."""
        extra = _extra_of(self) | {_INSTRUCTION: encode_instruction(instruction)}
        return replace(self, extra=msgspec.Raw(encode(extra)))


class Live(msgspec.Struct, frozen=True, array_like=True):
    """The lease of an incarnation, and its load."""

    lease: Lease
    ttl_us: Count
    running: Count = 0
    claims: bool = True
    """Whether the node has workers and kinds, so that other nodes leave a share of the due instances to the node."""


class ClockReport(msgspec.Struct, frozen=True, array_like=True):
    """A message of an incarnation about its clock."""

    clock_us: Moment
    """The wall-clock time of the node at which the node wrote the message."""
    asks: tuple[str, ...] = ()
    """Incarnations that must report their clocks in answer to the message; "*" asks all incarnations."""


class Idle(msgspec.Struct, frozen=True, array_like=True):
    """The registration of an incarnation that found nothing to claim."""

    kinds: tuple[str, ...]
    groups: tuple[str, ...] = ()
    """The groups of the node's kinds, if the node has many kinds; `kinds` is empty in that case."""
    opens: tuple[tuple[str, Moment], ...] = ()
    """Shared limits that time opens, each with the moment at which this node claims because of it."""

    @property
    def value(self) -> bytes:
        """The stored registration, without the last field if it has no value."""
        return encode((self.kinds, self.groups, *((self.opens,) if self.opens else ())))


class Answers(msgspec.Struct, frozen=True, array_like=True):
    """Answers to a request, by index in its batch."""

    request: str
    answers: tuple[tuple[Count, Answer], ...] = ()
    now_us: Moment = 0
    next_due_us: Moment | None = None


UNREADABLE_NODE = NodeRow(
    NodeInfo(name="?", incarnation="", kinds=(), signatures={}, workers=0, host="?", pid=0, version="?", started_us=0)
)
"""Replaces a node's unreadable record, so that a reaper takes back the node's claims after the
node's lease has ended."""


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
_read_row = reader(Row, "record")
decode_out = reader(Out, "result or error")
decode_delayed = reader(Delayed, "entry of a delayed instance")
decode_owned = reader(Owned, "claim")
decode_node = reader(NodeRow, "node")
decode_kinds: Callable[[bytes], list[tuple[str, str | None]]] = reader(list[tuple[str, str | None]], "kinds of a node")
decode_clock_report = reader(ClockReport, "clock of a node")
decode_idle = reader(Idle, "idle node")
decode_answers = reader(Answers, "answers")
decode_lines: Callable[[bytes], tuple[LogLine, ...]] = reader(tuple[LogLine, ...], "log lines", open=True)
decode_count: Callable[[bytes], int] = reader(Count, "counter")  # pyright: ignore[reportArgumentType]  # msgspec decodes it
decode_counts: Callable[[bytes], list[int]] = reader(Counter, "counter")  # pyright: ignore[reportArgumentType]  # also
_SINGLE = [State.SCHEDULED <= number <= State.TERMINATED and number.bit_count() == 1 for number in range(128)]
_LAST = State.TERMINATED


def decode_row(data: bytes) -> Row:
    """Decode a record, and check what its types do not say. Raises DecodeError."""
    row = _read_row(data)
    state = row.state
    if not 0 < state <= _LAST or not _SINGLE[state]:
        raise DecodeError(f"record cannot be read: {state:d} is no state of an instance")
    for entry in row.history:
        if not 0 < entry.state <= _LAST:
            raise DecodeError(f"record cannot be read: its history has the state {entry.state:d}")
    if not row.owner and (state is State.PROCESSING or row.releasing):
        raise DecodeError("record cannot be read: it is claimed without an owner")
    return row


def or_default(decode: Callable[[bytes], T], default: D) -> Callable[[bytes], T | D]:
    """A decoder that returns a default for unreadable data."""

    def decoded(data: bytes) -> T | D:
        try:
            return decode(data)
        except DecodeError:
            return default

    return decoded


def _extra_of(row: NodeRow) -> dict[str, Any]:
    """The map with the later fields of a node's row; empty if it is unreadable."""
    return _decode_extra(row.extra)


_decode_extra = or_default(reader(dict[str, Any], "later fields of a node"), dict[str, Any]())
node_of = or_default(decode_node, UNREADABLE_NODE)
owned_of = or_default(decode_owned, None)
idle_of = or_default(decode_idle, None)
clock_report_of = or_default(decode_clock_report, None)
delayed_of = or_default(decode_delayed, None)
kinds_of = or_default(decode_kinds, list[tuple[str, str | None]]())
"""Decodes one part of a set of kinds: pairs of kind and signature; no pairs if the part is unreadable."""
digests_of = or_default(reader(bytes, "digests of descriptors"), b"")
count_of = or_default(decode_count, 0)


_decode_live = or_default(reader(Live, "lease of a node"), None)


def live_of(entry: Entry) -> Live:
    """The lease of a node: the one of the key. If the entry is unreadable, `ttl_us` is 0 and `running` is -1."""
    live = _decode_live(entry.value)
    if live is None:
        return Live(entry.lease, 0, running=-1)
    return live if live.lease == entry.lease else replace(live, lease=entry.lease)


def number_of(data: bytes) -> int:
    """A number below 2^63 that is stored as text; -1 if it is unreadable."""
    number = int(data) if len(data) < 20 and data.isdigit() else -1
    return number if number < 2**63 else -1


def group_of(data: bytes) -> str:
    """The name of a group of kinds; "" if it is unreadable, as for a kind without a group."""
    text = data.decode(errors="replace")
    return text if _GROUP_NAME.fullmatch(text) else ""


def is_gone(entry: Entry | None) -> bool:
    """Whether an instance does not exist. The empty record of a removed instance counts as no instance."""
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
    """The approximate size of a history entry in bytes."""
    note = len(entry.note) if entry.note.isascii() else len(entry.note.encode(errors="replace"))
    return 20 + len(entry.node) + note


def folded(history: tuple[Transition, ...]) -> Transition:
    """The last entry of a history, with the sum of the counts of all entries."""
    last = history[-1]
    return Transition(last.state, last.at_us, last.node, last.note, sum(entry.count for entry in history))
