"""How an instruction to a node is stored."""

from __future__ import annotations

import msgspec

from .errors import DecodeError
from .record import Instruction
from .spec import reader

_read = reader(Instruction, "instruction of a node")
encode_instruction = msgspec.msgpack.Encoder().encode


def instruction_of(data: bytes | None) -> Instruction | None:
    """Decode an instruction; None if there is none or it is unreadable, so that no renewal of a lease fails by it."""
    if not data:
        return None
    try:
        return _read(data)
    except DecodeError:
        return None
