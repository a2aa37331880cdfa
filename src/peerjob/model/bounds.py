"""Limits of encoded values, and the checks that hold them before anything is decoded.

Bytes from the store or from a client may be hostile: a small value can decode into one that takes minutes to hash or
to convert. So sizes and counts are checked in the encoded form, and single values before Python makes them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

MAX_DEPTH = 100
"""How deep containers may be nested."""
MAX_ELEMENTS = 100_000
"""How many parts a value may have. A container counts `CONTAINER`, a leaf with a tag (a UUID, a time) `LEAF`, a time
in a named zone twice that, a key that is a number `NUMBER_KEY`, and another key 0.

So decoding takes less than 50 ms, which is the longest that one value may hold up everything else on a node.
"""
NUMBER_KEY = 8
CONTAINER = 4
LEAF = 16
MAX_DIGITS = 4_300
"""Digits of an integer, and of a Decimal before and after its point: what Python converts to text by default."""
_TOO_LARGE = 10**MAX_DIGITS
MAX_INT_BITS = (_TOO_LARGE - 1).bit_length()
MAX_INT_BYTES = MAX_INT_BITS // 8 + 1
MAX_ZONES = 100
"""Different time zones in one value: each is read from a file."""
MAX_EQUAL_HASHES = 32
"""Keys of one map or set with the same hash. More make every look-up slow, and only an attack has them."""
MAX_MOMENT = 100
"""Bytes of a date or a time as text, its zone included."""

TRIVIAL = MAX_DEPTH
"""A value of so few bytes, or with so few containers, cannot be too deep."""
_SMALL = 4_096
"""A value of so few bytes is cheap to decode, whatever its parts and keys are."""

_CONTAINERS = bytes((*range(0x80, 0xA0), 0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9), *range(0xDC, 0xE0)))
"""First bytes of maps, arrays and tagged values."""


class BoundsError(ValueError):
    """An encoded value is over a limit."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The check of encoded values, for a set of tags."""

    lists: frozenset[int]
    """Tags of a list of values."""
    pairs: int
    """The tag of a list of pairs."""
    wrapper: int
    """The tag of one value."""
    zoned: frozenset[int]
    """Tags of text that may name a time zone."""

    def check(self, data: bytes | memoryview) -> None:
        """Raise BoundsError for a value over a limit, or another error for bytes that are no MessagePack.

        Small values return at once: they cannot be over a limit.
        """
        size = len(data)
        if size <= TRIVIAL:
            return
        flat = data if isinstance(data, bytes) else bytes(data)
        if size <= _SMALL and size - len(flat.translate(None, _CONTAINERS)) <= TRIVIAL:
            return
        _Walk(flat, self).value()


def check_json(text: str) -> None:
    """Raise BoundsError for JSON with more parts, or a longer number, than a value may have."""
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
    """Raise BoundsError for a Decimal with too many digits when written out in full."""
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        return  # NaN and infinity
    if not exponent >= -MAX_DIGITS or not -MAX_DIGITS <= value.adjusted() < MAX_DIGITS:
        raise BoundsError(f"a Decimal with an exponent of {exponent:,}, over the limit of {MAX_DIGITS:,} digits")


def check_hashes(keys: Collection[Any]) -> None:
    """Raise BoundsError for keys of which many have the same hash; TypeError for one without a hash."""
    if len(keys) <= MAX_EQUAL_HASHES:
        return
    same = max(Counter(map(hash, keys)).values())
    if same > MAX_EQUAL_HASHES:
        raise BoundsError(f"{same:,} keys with the same hash, over the limit of {MAX_EQUAL_HASHES}")


class _Walk:
    """Counts the parts of one encoded value, without making any of them."""

    def __init__(self, data: bytes, bounds: Bounds) -> None:
        self._data = data
        self._bounds = bounds
        self._elements = 0
        self._zones: set[bytes] = set()

    def value(self) -> None:
        self._values(0, 1, 0)

    def _values(self, at: int, count: int, depth: int) -> int:
        """Pass `count` values at this depth; where the next one starts."""
        self._count(count)
        data, fixed = self._data, _FIXED
        for _ in range(count):
            first = data[at]
            at = at + size if (size := fixed[first]) else self._other(first, at, depth)
        return at

    def _other(self, first: int, at: int, depth: int) -> int:
        if (found := _SIZED.get(first)) is not None:  # text or bytes
            return at + 1 + found + self._number(at + 1, found)
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
                numbers += not 0xA0 <= first <= 0xBF  # a short text is none
            elif (found := _SIZED.get(first)) is not None:
                at += 1 + found + self._number(at + 1, found)
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
            found = self._values(start, 1, depth + 1)
        elif tag == bounds.pairs or tag in bounds.lists:
            if self._data[start] not in _ARRAYS:
                raise ValueError(f"tag {tag} at {at} is not followed by a list")
            # a map is one level, and its list of pairs two
            found = self._values(start, 1, depth - 1 if tag == bounds.pairs else depth)
        else:
            self._count(LEAF - 1)
            found = end
            if tag in bounds.zoned and (zone := self._data[start:end].partition(b"[")[2]):
                self._zones.add(zone)
                self._count(LEAF)
                if len(self._zones) > MAX_ZONES:
                    raise BoundsError(f"more than {MAX_ZONES} different time zones")
        if found != end:
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
"""First bytes of text and bytes whose size follows, in so many bytes."""


_ARRAYS = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))


def _fixed_sizes() -> list[int]:
    """Size of a value by its first byte; 0 where that does not tell."""
    sizes = [0] * 256
    for first in (*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3):
        sizes[first] = 1
    for first in range(0xA0, 0xC0):
        sizes[first] = 1 + (first & 0x1F)
    for first, width in zip((0xCA, 0xCB, *range(0xCC, 0xD4)), (4, 8, 1, 2, 4, 8, 1, 2, 4, 8), strict=True):
        sizes[first] = 1 + width
    return sizes


_FIXED = _fixed_sizes()
