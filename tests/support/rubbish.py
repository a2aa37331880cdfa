"""Invalid messages: with random fields, cut short, with changed bytes, or random bytes."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from peerjob.remote.wire.rpcs import SERVICE

IDS = ["", "x", "01900000-0000-7000-8000-000000000000", "{01900000-0000-7000-8000-000000000000}"]
TEXTS = [
    *IDS,
    "sum",
    "echo",
    "mine",
    "nope",
    "ü",
    "\x00",
    "a" * 300,
    "* * * * *",
    "@every 5s",
    "0 0 31 2 *",
    "UTC",
    "5s",
]
NUMBERS = [0, 1, 2, 5, 7, 100, -1, 2**31 - 1, -(2**31), 10_001]
LARGE = [2**63 - 1, -(2**63), 10**15]
BYTES = [b"", b"\x92\x90\x80", b"\x92\x92\x01\x02\x80", b"\xc1", b"\x92" * 300, b"\xc7\x05\x01\x91\xa3sum", b"\xd9"]


def rubbish(chance: random.Random) -> tuple[str, bytes]:
    """The name of an RPC, and bytes for it."""
    method = chance.choice(SERVICE.methods)
    if chance.random() < 0.15:
        return method.name, chance.randbytes(chance.randrange(80))
    data = bytearray(_message(method.input_type, chance, 4).SerializeToString())
    if data and chance.random() < 0.3:
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.1:
        del data[chance.randrange(len(data) + 1) :]
    return method.name, bytes(data)


def _message(kind: Descriptor, chance: random.Random, depth: int) -> Any:
    message: Any = GetMessageClass(kind)()
    for field in kind.fields:
        if chance.random() < 0.5 and (field.message_type is None or depth):
            _fill(message, field, chance, depth)
    return message


def _fill(message: Any, field: FieldDescriptor, chance: random.Random, depth: int) -> None:
    for _ in range(chance.randrange(4) if field.is_repeated else 1):
        if field.message_type is not None:
            value = _message(field.message_type, chance, depth - 1)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                getattr(message, field.name).CopyFrom(value)
        elif field.is_repeated:
            getattr(message, field.name).append(_scalar(field, chance))
        else:
            setattr(message, field.name, _scalar(field, chance))


def _scalar(field: FieldDescriptor, chance: random.Random) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return chance.choice(TEXTS)
        case FieldDescriptor.TYPE_BYTES:
            return chance.choice(BYTES)
        case FieldDescriptor.TYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.TYPE_DOUBLE:
            return chance.choice([0.0, 0.5, -1.0, 1e300, float("nan"), float("inf")])
        case FieldDescriptor.TYPE_INT64:
            return chance.choice(NUMBERS + LARGE)
        case _:
            return chance.choice(NUMBERS)
