"""Decoders of stored records: whatever is wrong with the bytes becomes a DecodeError, and no other record is hurt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from .bounds import TRIVIAL, Bounds
from .errors import DecodeError

T = TypeVar("T")

_bounds = Bounds(lists=frozenset(), pairs=-1, wrapper=-1, zoned=frozenset())


def reader(kind: type[T], what: str, *, open: bool = False) -> Callable[[bytes], T]:
    """A decoder of one kind of record, which errors call `what`.

    `open` is for records that hold values of any type, which are checked against the bounds first.
    """
    decode = msgspec.msgpack.Decoder(kind, ext_hook=_refused).decode

    def read(data: bytes) -> T:
        try:
            if open and len(data) > TRIVIAL:
                _bounds.check(data)
            return decode(data)
        # besides its own errors, msgspec raises UnicodeDecodeError, OverflowError, RecursionError and others
        except Exception as error:
            raise DecodeError(f"{what} cannot be read: {error}") from error

    return read


def _refused(code: int, data: memoryview) -> Any:
    raise ValueError(f"tag {code} of {len(data):,} bytes, where records have no tags")
