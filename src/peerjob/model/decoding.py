"""Decoders of stored records. Any error in the bytes becomes a DecodeError, so other records stay readable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from .bounds import TRIVIAL, Bounds
from .errors import DecodeError

T = TypeVar("T")

_bounds = Bounds(lists=frozenset(), pairs=-1, wrapper=-1, zoned=frozenset())


def reader(kind: type[T], what: str, *, open: bool = False) -> Callable[[bytes], T]:
    """Make a decoder of one kind of record. `what` names it in errors.

    With `open`, the record can hold values of any type, so the bounds are checked first.
    """
    decode = msgspec.msgpack.Decoder(kind, ext_hook=_refused).decode

    def read(data: bytes) -> T:
        try:
            if open and len(data) > TRIVIAL:
                _bounds.check(data)
            return decode(data)
        # damaged data makes msgspec raise UnicodeDecodeError, OverflowError, RecursionError and errors of other classes
        except Exception as error:
            raise DecodeError(f"{what} cannot be read: {error}") from error

    return read


def _refused(code: int, data: memoryview) -> Any:
    raise ValueError(f"tag {code} of {len(data):,} bytes, where records have no tags")
