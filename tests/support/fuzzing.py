"""Random damage to bytes, and random bytes with a form; the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from peerjob.model.codec import encode_value
from support import hostile

SEEDS: tuple[Any, ...] = (
    [["text", 1, -1, 1.5, None, True, b"bytes"], {"key": {"deep": [[], {}, ()]}}],
    {1: (2, {3}), (1, 2): frozenset({"x"}), 2**70: -(2**70)},
    [Decimal("1.50"), UUID(int=5), 1j, "\ud800", timedelta(1, 2, 3), date(2026, 1, 2)],
    [datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))],
    ["x" * 300, list(range(300)), {str(number): number for number in range(50)}],
)


def corpus() -> list[bytes]:
    """Small encoded values, ordinary and hostile ones."""
    made = [encode_value(seed) for seed in SEEDS]
    return made + [data for make in hostile.VALUES.values() if len(data := make()) < 10_000]


def damaged(chance: random.Random, data: bytes) -> bytes:
    """With a few bytes changed, added, removed or repeated."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(found) + 1)
        match chance.randrange(6):
            case 0 if at < len(found):
                found[at] = chance.randrange(256)
            case 1 if at < len(found):
                found[at] ^= 1 << chance.randrange(8)
            case 2:
                found[at:at] = chance.randbytes(chance.randint(1, 8))
            case 3:
                del found[at : at + chance.randint(1, 8)]
            case 4:
                part = found[at : at + chance.randint(1, 64)]
                found[at:at] = part * chance.randint(1, 40)
            case _:
                found[at:at] = bytes([chance.choice(OPENINGS)]) * chance.randint(1, 4)
    return bytes(found)


OPENINGS = (0x80, 0x81, 0x8F, 0x90, 0x91, 0x9F, 0xC4, 0xC7, 0xC8, 0xC9, 0xCB, 0xCF, 0xD4, 0xD9, 0xDB, 0xDC, 0xDD, 0xDF)
"""First bytes of MessagePack's containers, numbers and tagged values."""


def crossed(chance: random.Random, parts: Sequence[bytes]) -> bytes:
    """A value with others in it."""
    chosen = [chance.choice(parts) for _ in range(chance.randint(1, 5))]
    make: list[Callable[[], bytes]] = [
        lambda: hostile.array(chosen),
        lambda: hostile.mapping([(key, b"\x01") for key in chosen]),
        lambda: hostile.tagged(chance.randrange(1, 18), hostile.array(chosen)),
        lambda: hostile.tagged(chance.randrange(1, 18), chosen[0]),
    ]
    return chance.choice(make)()


# -- messages of gRPC --------------------------------------------------------------------------------------------------

TEXTS = (
    "",
    "work",
    "x",
    "\x00",
    "é\u202e",
    "9" * 5_000,
    "* * * * *",
    "@every 1ns",
    "Europe/Berlin",
    "../../etc/passwd",
)
NUMBERS = (0, 1, -1, 2, 7, 1_000, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**32)
LIMITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def message(chance: random.Random, kind: Descriptor, parts: Sequence[bytes], depth: int = 3) -> Message:
    """A message of a kind with random fields."""
    made = GetMessageClass(kind)()
    for field in kind.fields:
        if chance.random() < 0.5:
            continue
        if field.message_type is not None and (depth == 0 or field.message_type.GetOptions().map_entry):
            continue
        for _ in range(chance.randint(1, 3) if field.is_repeated else 1):
            _fill(chance, made, field, parts, depth)
    return made


def _fill(chance: random.Random, made: Message, field: FieldDescriptor, parts: Sequence[bytes], depth: int) -> None:
    if field.message_type is not None:
        value = message(chance, field.message_type, parts, depth - 1)
        if field.is_repeated:
            getattr(made, field.name).append(value)
        else:
            getattr(made, field.name).CopyFrom(value)
        return
    value = _scalar(chance, field, parts)
    if field.is_repeated:
        getattr(made, field.name).append(value)
    else:
        setattr(made, field.name, value)


def _scalar(chance: random.Random, field: FieldDescriptor, parts: Sequence[bytes]) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return chance.choice(parts) if field.type == FieldDescriptor.TYPE_BYTES else chance.choice(TEXTS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return chance.choice((0.0, -1.0, 1e308, float("nan"), float("inf")))
        case FieldDescriptor.CPPTYPE_ENUM:
            return chance.choice((-1, 0, 1, 2, 99))
        case kind:
            least, most = LIMITS[kind]
            return chance.choice([one for one in NUMBERS if least <= one <= most])
