"""The parts of a transaction, encoded as protobuf does.

A transaction has hundreds of small nested messages. Their creation from dicts by protobuf was the largest cost of a
worker, so this module encodes them from the inside out, each after its size. The field numbers are those of etcd's
rpc.proto; a test compares the bytes with those of protobuf.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from peerjob.store.kv.format.base import Compare, Op, Put, Range


@lru_cache(256)
def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)
    return bytes(data)


class _Heads(dict[int, bytes]):
    """What stands before a field, by the length of the field: the tag of the field and its length.

    With `around`, the field is the only one of another field, whose tag and length come first.
    """

    def __init__(self, tag: bytes, around: bytes = b"") -> None:
        super().__init__()
        self._tag = tag
        self._around = around

    def __missing__(self, length: int) -> bytes:
        head = self._tag + _varint(length)
        if self._around:
            head = self._around + _varint(len(head) + length) + head
        if length < _KEPT:
            self[length] = head
        return head


_KEPT = 512
"""Heads are kept for fields below this length."""
_SUCCESS, _FAILURE = b"\x12", b"\x1a"
"""The tags of the operations of a transaction."""
_READ, _PUT, _DELETE = _Heads(b"\x0a", _SUCCESS), _Heads(b"\x12", _SUCCESS), _Heads(b"\x1a", _SUCCESS)
_NESTED, _OTHERWISE = _Heads(b"\x22", _SUCCESS), _Heads(b"\x22", _FAILURE)
_COMPARE = _Heads(b"\x0a")
_COMPARED, _BELOW, _COMPARED_END = _Heads(b"\x1a"), _Heads(b"\x3a"), _Heads(b"\x82\x04")
_KEY, _SECOND = _Heads(b"\x0a"), _Heads(b"\x12")
"""The key of an operation, and the field after it: the end of its range, or the value to write."""


def compare(wanted: Compare) -> bytes:
    """A compare, as a part of a transaction."""
    key = wanted.key.encode()
    key = _COMPARED[len(key)] + key
    if wanted.end:
        # The compare says that every key of the range has create revision 0, that is, no key exists. For an empty
        # range, the compare is true.
        end = wanted.end.encode()
        body = b"\x10\x01" + key + b"\x28\x00" + _COMPARED_END[len(end)] + end
    elif wanted.below:
        below = wanted.below.encode()
        body = b"\x08\x02\x10\x03" + key + _BELOW[len(below)] + below
    else:
        body = b"\x10\x02" + key + b"\x30" + _varint(wanted.mod)
    return _COMPARE[len(body)] + body


def write(op: Op) -> bytes:
    """A write, as a part of the success branch."""
    key = op.key.encode()
    body = _KEY[len(key)] + key
    if type(op) is Put:
        if op.value:
            body += _SECOND[len(op.value)] + op.value
        if op.lease:
            body += b"\x18" + _varint(op.lease)
        return _PUT[len(body)] + body
    if op.end:  # type: ignore[union-attr]
        body += _second(op.end)  # type: ignore[union-attr]
    return _DELETE[len(body)] + body


def read(wanted: Range) -> bytes:
    """A read, as a part of the success branch."""
    key = wanted.start.encode()
    body = _KEY[len(key)] + key
    if wanted.end:
        body += _second(wanted.end)
    if wanted.limit:
        body += b"\x18" + _varint(wanted.limit)
    if wanted.reverse:
        body += b"\x28\x02"
    if wanted.keys_only:
        body += b"\x40\x01"
    return _READ[len(body)] + body


def nested(parts: Iterable[bytes], *, otherwise: bool = False) -> bytes:
    """A transaction, as a part of the success branch or, `otherwise`, of the failure branch."""
    body = b"".join(parts)
    return (_OTHERWISE if otherwise else _NESTED)[len(body)] + body


def _second(end: str) -> bytes:
    until = end.encode()
    return _SECOND[len(until)] + until
