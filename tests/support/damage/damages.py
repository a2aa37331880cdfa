"""The kinds of damage: what replaces a value."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec

from .values import Holder, Redis, Value

Damage = Callable[[Holder], None]
"""Applies the damage to the store."""

_encode = msgspec.msgpack.encode
_OUT_OF_RANGE: dict[type, tuple[Any, ...]] = {
    int: (2**62, -1),
    str: ("", "\0/x"),
    list: ([],),
    bytes: (b"\xff\xfe",),
    float: (1e300,),
    dict: ({},),
}
_RECORD = struct.Struct(">BBBHidddIIIIdII")
"""The numbers at the beginning of a record on Redis."""
_NUMBERS: tuple[tuple[int, float], ...] = (
    *((1, 255), (1, 64), (3, 65535), (4, -(2**31))),
    *((5, float("inf")), (5, 2.0**60), (6, float("nan")), (6, 1e300), (7, float("nan")), (7, 2.0**53)),
    *((8, 2**32 - 1), (9, 2**32 - 1), (10, 2**32 - 1), (11, 2**32 - 1), (11, 0)),
    *((12, float("nan")), (12, 1e300), (13, 2**32 - 1), (14, 2**32 - 1)),
)
"""Places in the record, with numbers that no product writes there."""


def damages_of(value: Value) -> dict[str, Damage]:
    """What can happen to a value, by name."""
    found = {name: partial(_put, value, data) for name, data in _bytes(value) if data != value.data}
    return {**found, **_of_server(value)}


def _put(value: Value, data: bytes, holder: Holder) -> None:
    holder.put(value, data)


def _bytes(value: Value) -> Iterator[tuple[str, bytes]]:
    data = value.data
    middle = len(data) // 2
    yield "truncated", data[:middle]
    yield "empty", b""
    yield "no UTF-8", b"\xff\xfe" + data[2:]
    yield "flipped byte", data[:middle] + bytes([(data[middle] if data else 0) ^ 0xD5]) + data[middle + 1 :]
    yield "many digits", b"9" * 400
    yield "huge number", b"\xcf" + b"\xff" * 8
    yield "negative text", b"-5"
    yield "another array", b"\x93\x02\xa3abc\xcc\x80"
    yield "text", b"hello world"
    yield from _fields(data)
    if value.key.rpartition("}")[2].startswith(":i:") and len(data) > _RECORD.size and data[0] == 1:
        yield from _numbers(data)


def _fields(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The value with one field out of its range, if the value is a MessagePack array or map."""
    try:
        decoded = msgspec.msgpack.decode(data)
    except Exception:  # noqa: BLE001  # damaged data makes msgspec raise errors of many classes
        return
    if isinstance(decoded, list):
        items: list[Any] = decoded
        for at, item in enumerate(items):
            for bad in _out_of_range(item):
                yield f"field {at} is {bad!r:.12}", _encode([*items[:at], bad, *items[at + 1 :]])
            if isinstance(item, str) and item:
                yield f"field {at} has no UTF-8", _with_bad_text(items, at)
    elif isinstance(decoded, dict):
        fields: dict[Any, Any] = decoded
        for name, item in fields.items():
            for bad in _out_of_range(item):
                yield f"field {name} is {bad!r:.12}", _encode({**fields, name: bad})


def _out_of_range(item: Any) -> tuple[Any, ...]:
    if isinstance(item, bool):
        return ("yes",)
    bad = (-1, "") if item is None else _OUT_OF_RANGE.get(type(item), (-1,))
    return tuple(one for one in bad if one != item)


def _with_bad_text(items: list[Any], at: int) -> bytes:
    """An array whose text at one place begins with a byte that is no UTF-8."""
    before, text = _encode(items[:at])[_header(at) :], bytearray(_encode(items[at]))
    text[-len(items[at].encode())] = 0x80
    after = _encode(items[at + 1 :])[_header(len(items) - at - 1) :]
    return _encode(items)[: _header(len(items))] + before + bytes(text) + after


def _header(count: int) -> int:
    """The bytes of the header of an array."""
    return 1 if count < 16 else 3


def _numbers(data: bytes) -> Iterator[tuple[str, bytes]]:
    for place, bad in _NUMBERS:
        numbers = list(_RECORD.unpack_from(data))
        numbers[place] = bad
        yield f"number {place} is {bad:g}", _RECORD.pack(*numbers) + data[_RECORD.size :]


def _of_server(value: Value) -> dict[str, Damage]:
    """What else can happen to a key of Redis."""
    if "}" not in value.key:
        return {}
    found: dict[str, Damage] = {}
    if value.kind == "string":
        # another type of a key with many values loses all of them, and the server then refuses each command on it
        found["another type of key"] = partial(_retype, value)
    if value.kind == "hash":
        found["field name without UTF-8"] = partial(_rename, value, b"\xff" + value.part[1:])
    if value.kind == "zset":
        for score in (1e300, -1e300, 2.0**53):
            found[f"score {score:g}"] = partial(_rescore, value, score)
    return found


def _retype(value: Value, holder: Holder) -> None:
    _redis(holder).put_type(value)


def _rename(value: Value, field: bytes, holder: Holder) -> None:
    _redis(holder).put_field(value, field)


def _rescore(value: Value, score: float, holder: Holder) -> None:
    _redis(holder).put_score(value, score)


def _redis(holder: Holder) -> Redis:
    assert isinstance(holder, Redis)
    return holder
