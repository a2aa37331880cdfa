"""What the engine stores, and how it reads it back."""

from __future__ import annotations

import msgspec

from peerjob.record import (
    HISTORY_LIMIT,
    MAX_CRASHES,
    Claim,
    LogLine,
    NodeInfo,
    Record,
    Transition,
    is_suspect,
)
from peerjob.state import State

NOTE_LIMIT = 200
"""Most characters of a note that are kept, so that a record stays small."""

HISTORY_BYTES = 3000
"""About how large a history may be."""
_SMALL_HISTORY = 10
SMALL = 256
"""Bytes up to which arguments, or a result or error, stay in the record: a key of their own would cost more."""


NOTHING_EXTRA = msgspec.Raw(b"\x80")
"""What the rows of instances, nodes and schedules end in: a map of later releases, which is kept word for word."""


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
    priority: int
    due_us: int
    history: tuple[Transition, ...]
    attempts: int = 0
    crashes: int = 0
    losses: int = 0
    fence: int = 0
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
    clock_us: int = 0
    """The node's clock when it wrote this; 0: not told."""
    asks: bool = False
    """Whether it has just begun to listen to its peers' clocks."""
    claims: bool = True
    """Whether it has workers and kinds, so that others leave it its part of what is due."""


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


_NOTHING = Out()
_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
decode_row = msgspec.msgpack.Decoder(Row).decode
decode_out = msgspec.msgpack.Decoder(Out).decode
decode_delayed = msgspec.msgpack.Decoder(Delayed).decode
decode_owned = msgspec.msgpack.Decoder(Owned).decode
decode_node = msgspec.msgpack.Decoder(NodeRow).decode
decode_kinds = msgspec.msgpack.Decoder(list[tuple[str, str | None]]).decode
decode_live = msgspec.msgpack.Decoder(Live).decode
decode_idle = msgspec.msgpack.Decoder(Idle).decode
decode_answers = msgspec.msgpack.Decoder(Answers).decode
decode_lines = msgspec.msgpack.Decoder(tuple[LogLine, ...]).decode
decode_count = msgspec.msgpack.Decoder(int).decode
decode_counts = msgspec.msgpack.Decoder(list[int]).decode


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
    )
