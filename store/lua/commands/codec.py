"""Converts values to arguments of scripts, and replies to values; `record.lua` has the format of a record."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import msgspec

from peerjob.model.errors import DecodeError
from peerjob.model.record import (
    Ack,
    Action,
    Claim,
    Claimed,
    LogLine,
    Outcome,
    Record,
    Transition,
)
from peerjob.model.spec import reader
from peerjob.model.state import SINGLE, State
from peerjob.store.lua.scripts.script import Argument, Reply

from .thread import NO_THREAD, PARENT_MARK, Thread, add_thread_arguments, unpack_thread

FORMAT = 1
MAX_TAIL = 1536
"""The maximum number of bytes in the tail of a record: the thread, and up to 512 bytes of later versions of peerjob."""
MAX_TIME_US = 2**53 - 1
"""The latest time in microseconds that a double holds exactly: the year 2255."""
MAX_NOTE = 1000

_NUMBERS = struct.Struct(">BBBHidddIIIIdII")
_SIZE = struct.Struct(">I")
_ENTRY = struct.Struct(">BdII")
_FLAGS_AT = 2
"""The position of the flags in a record."""
_TEXTS_BEFORE_RESULT = 5
_NO_TEXT = _SIZE.pack(0)
_MAX_KNOWN = 2048
"""The maximum number of bytes, without the result, of a record that is kept for equal ones."""
_HAS_KEY, _HAS_RESULT, _HAS_ERROR, _HAS_PROGRESS, _HAS_SLOT, _HAS_TAIL = 2, 4, 8, 16, 64, 128
_STATES = {int(state): state for state in SINGLE}
_encode = msgspec.msgpack.Encoder().encode
_decode_line = reader(LogLine, "log line", open=True)

ACTIONS = {
    Action.COMPLETE: "C",
    Action.TERMINATE: "T",
    Action.TIME_OUT: "O",
    Action.CANCEL: "X",
    Action.RETRY: "R",
    Action.SNOOZE: "Z",
    Action.HAND_BACK: "H",
    Action.RELEASE: "L",
    Action.REPORT: "P",
    Action.SUSPEND: "S",
}
ACKS = {ord("D"): Ack.DONE, ord("L"): Ack.LOST, ord("C"): Ack.CANCELLED, ord("T"): Ack.TAKEN}


def claimed(reply: Reply) -> Claimed:
    """The answer of claim.lua."""
    if reply[0] == b"dead":
        return Claimed(dead=True)
    now: int = reply[1]
    shared = iter(reply[5])
    shapes: list[tuple[Any, ...]] = [*zip(*[shared] * 7, strict=True)]
    kinds: list[str] = [fields[0].decode() for fields in shapes]
    labels = _labels(reply[4])
    claims: list[Claim] = []
    own = iter(reply[6:])
    for name, spec, number in zip(own, own, own, strict=True):
        shape: int = number - 1
        _, fence, priority, due, attempts, crashes, losses = shapes[shape]
        claim = Claim(
            id=name.decode(),
            kind=kinds[shape],
            fence=fence,
            spec=spec,
            priority=priority,
            due_us=due,
            attempts=attempts,
            crashes=crashes,
            losses=losses,
            at_us=now,
        )
        if number in labels:
            key, tags, thread = labels[number]
            claim = msgspec.structs.replace(
                claim,
                key=key,
                tags=tags,
                linked=thread is not None,
                has_steps=thread is not None and thread.values > 0,
                parent="" if thread is None else thread.parent,
            )
        claims.append(claim)
    are_missing = reply[3][-1:] == [b"missing"]
    return Claimed(claims=tuple(claims), now_us=now, next_due_us=reply[2] or None, limits_missing=are_missing)


def _labels(reply: Reply) -> dict[int, tuple[str | None, tuple[str, ...], Thread | None]]:
    """By the number of a shape: its key, tags and thread, if it has any."""
    own = iter(reply)
    return {
        number: (key[1:].decode() if key else None, _tags(tags), unpack_thread(tail))
        for number, key, tags, tail in zip(own, own, own, own, strict=True)
    }


def outcome_arguments(outcomes: Sequence[Outcome]) -> list[Argument]:
    """The outcomes in the arguments of commit.lua."""
    arguments: list[Argument] = []
    for outcome in outcomes:
        what = ACTIONS[outcome.action]
        extra: list[Argument] = []
        if outcome.started:
            what += "s"
        if outcome.result is not None:
            what += "r"
            extra.append(outcome.result)
        if outcome.error is not None:
            what += "e"
            extra.append(outcome.error)
        if outcome.progress is not None:
            what += "p"
            extra.append(outcome.progress)
        if outcome.delay_us > 0:
            what += "d"
            extra.append(outcome.delay_us)
        if outcome.note:
            what += "n"
            extra.append(outcome.note[:MAX_NOTE])
        if outcome.logs:
            what += "l"
            extra.append(len(outcome.logs))
            extra += map(pack_line, outcome.logs)
        if outcome.steps or outcome.needs or outcome.wait is not None:
            what += add_thread_arguments(outcome, extra)
        arguments += (outcome.id, outcome.fence, what, *extra)
    return arguments


def acks(reply: Reply) -> list[Ack]:
    """The answers of commit.lua."""
    return [ACKS[letter] for letter in cast("bytes", reply[0])]


def pack_line(line: LogLine) -> bytes:
    """A log line as stored: the size of its message, which the limit counts, then the line."""
    return _SIZE.pack(len(line.message.encode())) + _encode(line)


def unpack_line(raw: bytes) -> LogLine:
    """A stored log line; raises DecodeError."""
    return _decode_line(raw[_SIZE.size :])


def unpack_record(id: str, raw: bytes, spec: bytes) -> Record:
    """A stored record; raises DecodeError if it is damaged."""
    try:
        return _unpack_record(id, raw, spec)
    # Damaged bytes cause errors of many types, so every error counts as an unreadable record.
    except Exception as error:
        raise DecodeError(f"record of {id}: {error}") from error


def _unpack_record(id: str, raw: bytes, spec: bytes) -> Record:
    if raw[0] != FORMAT:
        raise ValueError(f"format {raw[0]}, {FORMAT} expected")
    if not raw[_FLAGS_AT] & _HAS_RESULT:
        return msgspec.structs.replace(_unpack_shared(raw), id=id, spec=spec)
    head, tail, record = _latest[0]
    begin, end = len(head) + _SIZE.size, len(raw) - len(tail)
    if not (raw.startswith(head) and raw.endswith(tail) and int.from_bytes(raw[len(head) : begin]) == end - begin):
        begin = _NUMBERS.size + _SIZE.size
        for _ in range(_TEXTS_BEFORE_RESULT):
            begin += _SIZE.size + _SIZE.unpack_from(raw, begin - _SIZE.size)[0]
        end = begin + _SIZE.unpack_from(raw, begin - _SIZE.size)[0]
        head, tail = raw[: begin - _SIZE.size], raw[end:]
        record = _unpack_shared(head + _NO_TEXT + tail)
        if len(head) + len(tail) <= _MAX_KNOWN:
            _latest[0] = head, tail, record
    return msgspec.structs.replace(record, id=id, spec=spec, result=raw[begin:end])


def _unpack_shared(raw: bytes) -> Record:
    return (_unpack_known if len(raw) <= _MAX_KNOWN else _unpack_rest)(raw)


def _unpack_rest(raw: bytes) -> Record:
    """A record that has no result, without id and spec."""
    _, state, flags, entries, priority, due, fence, at, attempts, crashes, losses, max_crashes, kept, *_ = (
        _NUMBERS.unpack_from(raw)
    )
    known = _state(state)
    _time(at)
    (kind, owner, history), end = _texts(raw, _NUMBERS.size, 3)
    key = tags = error = progress = slot = tail = b""
    if flags:
        (key, tags, _, error, progress), end = _texts(raw, end, 5)
    if flags & _HAS_SLOT:
        (slot,), end = _texts(raw, end, 1)
    if flags & _HAS_TAIL:
        (tail,), end = _texts(raw, end, 1)
        if len(tail) > MAX_TAIL:
            raise ValueError(f"a tail of {len(tail)} bytes, at most {MAX_TAIL} expected")
    thread = unpack_thread(tail) or NO_THREAD
    if end != len(raw):
        raise ValueError(f"{len(raw)} bytes, {end} expected")
    transitions = _unpack_history(history)
    if not transitions or len(transitions) != entries:
        raise ValueError(f"{len(transitions)} entries of history, {entries} expected")
    return Record(
        id="",
        kind=kind.decode(),
        state=known,
        spec=b"",
        priority=priority,
        due_us=_time(due),
        attempts=attempts,
        crashes=crashes,
        losses=losses,
        fence=_time(fence),
        owner=owner.decode(),
        history=transitions,
        error=error if flags & _HAS_ERROR else None,
        progress=progress if flags & _HAS_PROGRESS else None,
        key=key.decode() if flags & _HAS_KEY else None,
        tags=_tags(tags),
        slot=slot.decode(),
        retention_us=_retention(kept),
        max_crashes=max_crashes,
        parent=thread.parent,
        wait=thread.wait(fence, due) if known is State.SCHEDULED else None,
        open=thread.is_open(fence) and known is State.SCHEDULED,
        has_steps=thread.values > 0,
        has_children=thread.has_children,
    )


# instances that are added, claimed and ended together differ only in ids, specs and results
_unpack_known = lru_cache(maxsize=64)(_unpack_rest)
_latest: list[tuple[bytes, bytes, Record]] = [(b"no record", b"", cast("Record", None))]
"""Of the last record with a result: the bytes before its result and after it, and what they say."""


def _state(number: int) -> State:
    state = _STATES.get(number)
    if state is None or state is State.CREATED:
        raise ValueError(f"{number} is no state")
    return state


def _retention(value: float) -> int | None:
    if not -1 <= value < 2.0**63:
        raise ValueError(f"{value} is no retention")
    return None if value < 0 else int(value)


def _time(value: float) -> int:
    if not 0 <= value <= MAX_TIME_US or value % 1:
        raise ValueError(f"{value} is not a time")
    return int(value)


# instances that are added, claimed and ended together have equal histories
@lru_cache(maxsize=64)
def _unpack_history(raw: bytes) -> tuple[Transition, ...]:
    entries: list[Transition] = []
    position = 0
    while position < len(raw):
        number, at, count, size = _ENTRY.unpack_from(raw, position)
        state = _STATES.get(number)
        if state is None:
            raise ValueError(f"{number} is no state")
        begin = position + _ENTRY.size
        end = begin + size
        (note,), position = _texts(raw, end, 1)
        entries.append(Transition(state, _time(at), raw[begin:end].decode(), note.decode(), count))
    return tuple(entries)


def _texts(raw: bytes, position: int, count: int) -> tuple[list[bytes], int]:
    texts: list[bytes] = []
    for _ in range(count):
        begin = position + 4
        position = begin + int.from_bytes(raw[position:begin])
        texts.append(raw[begin:position])
    # a size that is cut off reads as a smaller one, and then begins after the end
    if position > len(raw):
        raise ValueError(f"{len(raw)} bytes, at least {position} expected")
    return texts, position


@lru_cache(maxsize=64)
def _tags(raw: bytes) -> tuple[str, ...]:
    tags: list[str] = []
    position = 0
    while position < len(raw):
        (tag,), position = _texts(raw, position, 1)
        if not tag.startswith(PARENT_MARK):
            tags.append(tag.decode())
    return tuple(tags)
