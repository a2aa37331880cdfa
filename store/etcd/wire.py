"""The parts of a transaction, encoded as protobuf does.

A transaction has hundreds of small nested messages. Their creation from dicts by protobuf was the largest cost of a
worker, so this module encodes them from the inside out, each after its size. The field numbers are those of etcd's
rpc.proto; a test compares the bytes with those of protobuf.
"""

from __future__ import annotations

from collections.abc import Iterable

from peerjob.store.kv.format.base import Compare, Op, Put, Range


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)
    return bytes(data)


_SIZES = tuple(map(_varint, range(1 << 10)))


def _size(length: int) -> bytes:
    return _SIZES[length] if length < len(_SIZES) else _varint(length)


def compare(wanted: Compare) -> bytes:
    """A compare, as a part of a transaction."""
    key = wanted.key.encode()
    if wanted.end:
        # The compare says that every key of the range has create revision 0, that is, no key exists. For an empty
        # range, the compare is true.
        end = wanted.end.encode()
        body = b"\x10\x01\x1a%b%b\x28\x00\x82\x04%b%b" % (_size(len(key)), key, _size(len(end)), end)
    elif wanted.below:
        below = wanted.below.encode()
        body = b"\x08\x02\x10\x03\x1a%b%b\x3a%b%b" % (_size(len(key)), key, _size(len(below)), below)
    else:
        body = b"\x10\x02\x1a%b%b\x30%b" % (_size(len(key)), key, _varint(wanted.mod))
    return b"\x0a%b%b" % (_size(len(body)), body)


def write(op: Op) -> bytes:
    """A write, as a part of the success branch."""
    key = op.key.encode()
    if type(op) is Put:
        body = b"\x0a%b%b" % (_size(len(key)), key)
        if op.value:
            body = b"%b\x12%b%b" % (body, _size(len(op.value)), op.value)
        if op.lease:
            body = b"%b\x18%b" % (body, _varint(op.lease))
        return _operation(b"\x12", body)
    return _operation(b"\x1a", _between(key, op.end))  # type: ignore[union-attr]


def read(wanted: Range) -> bytes:
    """A read, as a part of the success branch."""
    body = _between(wanted.start.encode(), wanted.end)
    if wanted.limit:
        body = b"%b\x18%b" % (body, _varint(wanted.limit))
    if wanted.reverse:
        body = b"%b\x28\x02" % body
    if wanted.keys_only:
        body = b"%b\x40\x01" % body
    return _operation(b"\x0a", body)


def nested(parts: Iterable[bytes], *, otherwise: bool = False) -> bytes:
    """A transaction, as a part of the success branch or, `otherwise`, of the failure branch."""
    return _operation(b"\x22", b"".join(parts), b"\x1a" if otherwise else b"\x12")


def _between(key: bytes, end: str) -> bytes:
    if not end:
        return b"\x0a%b%b" % (_size(len(key)), key)
    until = end.encode()
    return b"\x0a%b%b\x12%b%b" % (_size(len(key)), key, _size(len(until)), until)


def _operation(tag: bytes, body: bytes, branch: bytes = b"\x12") -> bytes:
    size = _size(len(body))
    return b"%b%b%b%b%b" % (branch, _size(1 + len(size) + len(body)), tag, size, body)
