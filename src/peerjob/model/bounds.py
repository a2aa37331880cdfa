"""Limits of encoded values, and their checks before decoding.

Bytes from the store or a client may be hostile: a small encoded value can take minutes to hash or convert. So sizes and
counts are checked in the encoded form, and single values before Python creates them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

MAX_DEPTH = 100
"""Deepest nesting of containers that is accepted."""
MAX_ELEMENTS = 100_000
"""Most elements of one value, so that decoding the value blocks a node for less than 50 ms.

A container counts as `CONTAINER` elements, and a tagged leaf, such as a UUID or a time, as `LEAF`. A time in a named
zone counts as two leaves. A numeric key adds `NUMBER_KEY`; any other key adds 0.
"""
NUMBER_KEY = 8
CONTAINER = 4
LEAF = 16
MAX_DIGITS = 4_300
"""Most digits of an integer, and of a Decimal before and after its point. Python's default limit is the same."""
_TOO_LARGE = 10**MAX_DIGITS
MAX_INT_BITS = (_TOO_LARGE - 1).bit_length()
MAX_INT_BYTES = MAX_INT_BITS // 8 + 1
MAX_ZONES = 100
"""Most different time zones in one value. The limit is low because each zone is read from a file."""
MAX_EQUAL_HASHES = 32
"""Most keys of one map or set with the same hash. More equal hashes make lookups slow, and occur only in an attack."""
MAX_MOMENT = 100
"""Most bytes of a date or time as text, including its zone."""

TRIVIAL = MAX_DEPTH
"""A value with at most this many bytes or containers cannot be nested deeper than MAX_DEPTH."""
_SMALL = 4_096
"""A value with at most this many bytes is always cheap to decode, so only its nesting needs a check."""

_CONTAINERS = bytes((*range(0x80, 0xA0), 0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9), *range(0xDC, 0xE0)))
"""First bytes of MessagePack maps, arrays and tagged values: the values that can contain others."""


class BoundsError(ValueError):
    """An encoded value exceeds a limit."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The check of encoded values, for a set of tags."""

    lists: frozenset[int]
    """Tags whose content is a list."""
    pairs: int
    """The tag whose content is a list of key-value pairs."""
    wrapper: int
    """The tag that wraps exactly one value."""
    zoned: frozenset[int]
    """Tags whose content is text that can name a time zone."""
    light: frozenset[int] = frozenset()
    """Tags of leaves that count as a container does: a call can have 10,000 of them."""

    def check(self, data: bytes | memoryview) -> None:
        """Raise BoundsError for a value over a limit, and another error for invalid MessagePack.

        Small values return at once, since they cannot exceed a limit.
        """
        size = len(data)
        if size <= TRIVIAL:
            return
        flat = data if isinstance(data, bytes) else bytes(data)
        if size <= _SMALL and size - len(flat.translate(None, _CONTAINERS)) <= TRIVIAL:
            return
        _Walk(flat, self).value()


def check_json(text: str) -> None:
    """Raise BoundsError for JSON with too many elements or a number that is too long."""
    if len(text) <= _SMALL:
        return
    bare = _JSON_TEXT.sub("", text) if '"' in text and _parts(text) > MAX_ELEMENTS else text
    if _parts(bare) > MAX_ELEMENTS:
        raise BoundsError(f"more than {MAX_ELEMENTS:,} elements (a container counts {CONTAINER})")
    if _LONG_NUMBER.search(_JSON_TEXT.sub("", text)):
        raise BoundsError(f"a number of more than {MAX_DIGITS:,} digits")


def _parts(json: str) -> int:
    return 1 + json.count(",") + CONTAINER * (json.count("[") + json.count("{"))


_JSON_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_LONG_NUMBER = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")


def check_integer(value: int) -> None:
    """Raise BoundsError for an integer with too many digits."""
    if value.bit_length() >= MAX_INT_BITS and abs(value) >= _TOO_LARGE:
        raise BoundsError(f"an integer of {value.bit_length():,} bits, over the limit of {MAX_DIGITS:,} digits")


def check_decimal(value: Decimal) -> None:
    """Raise BoundsError for a Decimal with too many digits in full notation."""
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        # the exponent of NaN and infinity is a letter: neither has digits to limit
        return
    if not exponent >= -MAX_DIGITS or not -MAX_DIGITS <= value.adjusted() < MAX_DIGITS:
        raise BoundsError(f"a Decimal with an exponent of {exponent:,}, over the limit of {MAX_DIGITS:,} digits")


def check_hashes(keys: Collection[Any]) -> None:
    """Raise BoundsError if too many keys have the same hash, and TypeError for a key without a hash."""
    if len(keys) <= MAX_EQUAL_HASHES:
        return
    same = max(Counter(map(hash, keys)).values())
    if same > MAX_EQUAL_HASHES:
        raise BoundsError(f"{same:,} keys with the same hash, over the limit of {MAX_EQUAL_HASHES}")


class _Walk:
    """Counts the elements of one encoded value without decoding them."""

    def __init__(self, data: bytes, bounds: Bounds) -> None:
        self._data = data
        self._bounds = bounds
        self._elements = 0
        self._zones: set[bytes] = set()

    def value(self) -> None:
        self._values(0, 1, 0)

    def _values(self, at: int, count: int, depth: int) -> int:
        """Count `count` values at this depth, and return the position after the last one."""
        self._count(count)
        data, fixed = self._data, _FIXED
        for _ in range(count):
            first = data[at]
            at = at + size if (size := fixed[first]) else self._other(first, at, depth)
        return at

    def _other(self, first: int, at: int, depth: int) -> int:
        # first bytes in `_SIZED` begin text or bytes, which are skipped by their size
        if (sizes := _SIZED.get(first)) is not None:
            return at + 1 + sizes + self._number(at + 1, sizes)
        if first < 0x90:
            return self._map(at + 1, first & 0x0F, depth)
        if first < 0xA0:
            return self._array(at + 1, first & 0x0F, depth)
        match first:
            case 0xDC | 0xDD:
                width = 2 if first == 0xDC else 4
                return self._array(at + 1 + width, self._number(at + 1, width), depth)
            case 0xDE | 0xDF:
                width = 2 if first == 0xDE else 4
                return self._map(at + 1 + width, self._number(at + 1, width), depth)
            case 0xC7 | 0xC8 | 0xC9:
                width = 1 << (first - 0xC7)
                return self._tagged(at + 1 + width, self._number(at + 1, width), depth)
            case 0xD4 | 0xD5 | 0xD6 | 0xD7 | 0xD8:
                return self._tagged(at + 1, 1 << (first - 0xD4), depth)
            case _:
                raise ValueError(f"{first:#x} at {at} begins no value")

    def _array(self, at: int, count: int, depth: int) -> int:
        self._container(depth)
        return self._values(at, count, depth + 1)

    def _map(self, at: int, count: int, depth: int) -> int:
        self._container(depth)
        self._count(count)
        data, fixed, numbers = self._data, _FIXED, 0
        for _ in range(count):
            first = data[at]
            if size := fixed[first]:
                at += size
                # first bytes 0xA0 to 0xBF begin a short text; every other key of fixed size is a number, a bool or None
                numbers += not 0xA0 <= first <= 0xBF
            elif (sizes := _SIZED.get(first)) is not None:
                at += 1 + sizes + self._number(at + 1, sizes)
            else:
                raise BoundsError("a map with a key that is no text, bytes, number, bool or None")
            first = data[at]
            at = at + size if (size := fixed[first]) else self._other(first, at, depth + 1)
        self._count(numbers * NUMBER_KEY)
        return at

    def _tagged(self, at: int, size: int, depth: int) -> int:
        bounds, tag, start, end = self._bounds, self._data[at], at + 1, at + 1 + size
        if tag == bounds.wrapper:
            self._container(depth)
            after = self._values(start, 1, depth + 1)
        elif tag == bounds.pairs or tag in bounds.lists:
            if self._data[start] not in _ARRAYS:
                raise ValueError(f"tag {tag} at {at} is not followed by a list")
            # a map stored as a list of pairs counts as one level, like a plain map, so subtract the level of the list
            after = self._values(start, 1, depth - 1 if tag == bounds.pairs else depth)
        else:
            self._count((CONTAINER if tag in bounds.light else LEAF) - 1)
            after = end
            if tag in bounds.zoned and (zone := self._data[start:end].partition(b"[")[2]):
                self._zones.add(zone)
                self._count(LEAF)
                if len(self._zones) > MAX_ZONES:
                    raise BoundsError(f"more than {MAX_ZONES} different time zones")
        if after != end:
            raise ValueError(f"the value of tag {tag} at {at} has not the size that the tag says")
        return end

    def _container(self, depth: int) -> None:
        self._count(CONTAINER - 1)
        if depth >= MAX_DEPTH:
            raise BoundsError(f"nested deeper than {MAX_DEPTH} levels")

    def _count(self, more: int) -> None:
        self._elements += more
        if self._elements > MAX_ELEMENTS:
            raise BoundsError(
                f"more than {MAX_ELEMENTS:,} elements (a container counts {CONTAINER}, a time, UUID, Decimal {LEAF})"
            )

    def _number(self, at: int, width: int) -> int:
        if at + width > len(self._data):
            raise ValueError("the value is cut off")
        return int.from_bytes(self._data[at : at + width], "big")


_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""For each first byte of text or bytes: the number of bytes that hold the size."""


_ARRAYS = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))


def _fixed_sizes() -> list[int]:
    """Return, for each first byte, the size of the value; 0 if the first byte does not determine the size."""
    sizes = [0] * 256
    for first in (*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3):
        sizes[first] = 1
    for first in range(0xA0, 0xC0):
        sizes[first] = 1 + (first & 0x1F)
    for first, width in zip((0xCA, 0xCB, *range(0xCC, 0xD4)), (4, 8, 1, 2, 4, 8, 1, 2, 4, 8), strict=True):
        sizes[first] = 1 + width
    return sizes


_FIXED = _fixed_sizes()
