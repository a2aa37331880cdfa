"""The frames that a node and the process of a body exchange: MessagePack after four bytes of length."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import msgspec

from peerjob.handles.context import Reason
from peerjob.model.spec import ErrorInfo, reader

MAX_FRAME = 64 << 20
"""Most bytes in one frame; a reader refuses a longer frame."""
_LENGTH = struct.Struct(">I")

T = TypeVar("T")


class Start(msgspec.Struct, tag=True, frozen=True):
    """Node: run this body."""

    path: str
    """The function of the body, as `module:qualname`."""
    kind: str
    data: bytes
    """The encoded arguments, as the store has them."""
    id: str
    fence: int
    attempt: int
    deadline_us: int | None
    worker: tuple[int, str] | None
    """The worker that runs the body: its number, and the name of its node."""
    log_level: int
    """The level of the node's root logger, which the process sets on its own root logger."""
    sent_ns: int
    """Monotonic time of sending; the process adds the time until the body begins to `deadline_us`."""
    now_us: int
    """Time of sending by the node's clock, from which the process counts on."""
    schedule: str | None = None
    nominal_us: int = 0


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """Node: end the body now, before the node kills the process."""

    reason: Reason


class Owner(msgspec.Struct, tag=True, frozen=True):
    """Node: whether the claim is still held; answers the `AskOwner` of this number."""

    number: int
    held: bool
    trouble: Raised | None = None
    """The error that prevented an answer; None if `held` is the answer."""


class Started(msgspec.Struct, tag=True, frozen=True):
    """Process: the body begins, and can have effects from now on."""


class Line(msgspec.Struct, tag=True, frozen=True):
    """Process: a log line."""

    level: int
    message: str
    fields: dict[str, Any] | None = None


class ProgressReport(msgspec.Struct, tag=True, frozen=True):
    """Process: the progress of the body."""

    fraction: float
    message: str


class AskOwner(msgspec.Struct, tag=True, frozen=True):
    """Process: asks whether the claim is still held."""

    number: int


class Returned(msgspec.Struct, tag=True, frozen=True):
    """Process: the body returned this value, encoded; None for None."""

    result: bytes | None
    finished: bool = False
    """Whether the body returned `Finished`."""


class Raised(msgspec.Struct, tag=True, frozen=True):
    """Process: the body raised."""

    info: ErrorInfo
    packed: bytes | None
    """The error, encoded by `pack_error`; None for an error that cannot be encoded."""


class Snoozed(msgspec.Struct, tag=True, frozen=True):
    """Process: the body wants to run again later."""

    seconds: float


FromNode = Start | Cancel | Owner
Ending = Returned | Raised | Snoozed
FromProcess = Started | Line | ProgressReport | AskOwner | Ending

_encode = msgspec.msgpack.Encoder().encode
decode_from_node: Callable[[bytes], FromNode] = reader(cast("type[FromNode]", FromNode), "frame of a node")
decode_from_process: Callable[[bytes], FromProcess] = reader(
    cast("type[FromProcess]", FromProcess), "frame of a process", open=True
)


def pack(frame: FromNode | FromProcess) -> bytes:
    """Encode a frame as it is sent."""
    data = _encode(frame)
    return _LENGTH.pack(len(data)) + data


class Unpacker:
    """Takes bytes as they arrive, and returns the frames that are complete."""

    def __init__(self, decode: Callable[[bytes], T]) -> None:
        self._decode = decode
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Yield the frames that end within these bytes; raises ValueError for bytes that are no frame."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length:,} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield self._decode(frame)
