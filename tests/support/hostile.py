"""Values and bytes that an attacker would send, made by hand: our encoder refuses to write them."""

from __future__ import annotations

import struct
import zoneinfo
from collections.abc import Callable, Sequence

PRIME = 2**61 - 1
TUPLE, SET, FROZENSET, MAPPING, DATETIME, TIME, TIMEDELTA, DECIMAL, INT, TEXT, SECRET = (
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    10,
    11,
    13,
    15,
)


def tagged(tag: int, data: bytes) -> bytes:
    """A value with a tag."""
    return b"\xc9" + len(data).to_bytes(4, "big") + bytes([tag]) + data


def array(items: Sequence[bytes]) -> bytes:
    """A list of encoded values."""
    return b"\xdd" + len(items).to_bytes(4, "big") + b"".join(items)


def mapping(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A map of encoded keys and values."""
    return b"\xdf" + len(pairs).to_bytes(4, "big") + b"".join(key + value for key, value in pairs)


def text(value: str) -> bytes:
    """Encoded text."""
    data = value.encode()
    return b"\xdb" + len(data).to_bytes(4, "big") + data


def integer(value: int) -> bytes:
    """An integer with the tag of large ones."""
    return tagged(INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def number(value: float) -> bytes:
    """An encoded float."""
    return b"\xcb" + struct.pack(">d", value)


def colliding(count: int) -> list[bytes]:
    """Integers with one hash."""
    return [integer((one + 2**20) * PRIME) for one in range(count)]


def nested(opening: bytes, levels: int) -> bytes:
    """Values in values."""
    return opening * levels + b"\x01"


def nested_tags(tag: int, opening: bytes, levels: int) -> bytes:
    """Tagged containers in tagged containers."""
    data = b"\x01"
    for _ in range(levels):
        data = tagged(tag, opening + data)
    return data


def zones() -> list[str]:
    """Names of time zones, the same on each machine in order."""
    return sorted(zoneinfo.available_timezones())


def _as_map(keys: Sequence[bytes]) -> bytes:
    return mapping([(key, b"\x01") for key in keys])


def _as_set(keys: Sequence[bytes]) -> bytes:
    return tagged(SET, array(keys))


def _as_pairs(keys: Sequence[bytes]) -> bytes:
    return tagged(MAPPING, array([b"\x92" + key + b"\x01" for key in keys]))


def _floats() -> list[bytes]:
    return [number(float(base) * 2.0**power) for base in range(1, 1300, 2) for power in range(0, 1000, 61)]


VALUES: dict[str, Callable[[], bytes]] = {
    "a decimal with an exponent": lambda: tagged(DECIMAL, b"1E30000000"),
    "a zero with an exponent": lambda: tagged(DECIMAL, b"0E-99999999"),
    "a signalling NaN": lambda: tagged(DECIMAL, b"sNaN"),
    "a decimal of a million digits": lambda: tagged(DECIMAL, b"9" * 1_000_000),
    "an integer of a million bytes": lambda: tagged(INT, b"\x7f" * 1_000_000),
    "an integer of 5,000 digits": lambda: integer(10**5000),
    "at most an integer of 4,300 digits": lambda: integer(10**4299),
    "a map of integers with one hash": lambda: _as_map(colliding(20_000)),
    "a set of integers with one hash": lambda: _as_set(colliding(6_000)),
    "a tagged map of integers with one hash": lambda: _as_pairs(colliding(6_000)),
    "a small map of integers with one hash": lambda: _as_map(colliding(220)),
    "a small set of integers with one hash": lambda: _as_set(colliding(220)),
    "many small sets": lambda: array([_as_set(colliding(32)) for _ in range(185)]),
    "a set of decimals with one hash": lambda: _as_set(
        [tagged(DECIMAL, str((one + 1) * PRIME).encode()) for one in range(6_000)]
    ),
    "a map of tuples": lambda: _as_map([array([key, b"\x01"]) for key in colliding(2_000)]),
    "a set of tuples of tuples": lambda: _as_set(
        [tagged(TUPLE, array([tagged(TUPLE, array([key]))])) for key in colliding(2_000)]
    ),
    "a map of native lists": lambda: _as_map([array([number(one * 1.0)]) for one in range(9_000)]),
    "at most a map of floats with few hashes": lambda: _as_map(_floats()),
    "a map of secrets": lambda: _as_map([tagged(SECRET, key) for key in colliding(2_000)]),
    "a million numbers": lambda: array([b"\x01"] * 1_000_000),
    "a million lists": lambda: array([b"\x90"] * 1_000_000),
    "a million claimed": lambda: b"\xdd\x7f\xff\xff\xff" + b"\x01" * 10_000,
    "a map that claims a million": lambda: b"\xdf\x7f\xff\xff\xff" + b"\x01" * 10_000,
    "at most numbers": lambda: array([b"\x01"] * 99_996),
    "at most lists": lambda: array([b"\x90"] * 24_999),
    "at most maps": lambda: array([b"\x80"] * 24_999),
    "at most floats": lambda: array([number(1.5)] * 99_996),
    "at most times": lambda: array([tagged(DATETIME, b"2026-11-25T01:02:03.000004+01:00[Europe/Berlin]")] * 3_123),
    "at most durations": lambda: array([tagged(TIMEDELTA, b"\x93\x01\x01\x01")] * 6_248),
    "at most secrets": lambda: array([tagged(SECRET, b"\x01")] * 19_999),
    "many zones": lambda: array([tagged(DATETIME, f"2026-01-01[{zone}]".encode()) for zone in zones()]),
    "few zones": lambda: array([tagged(DATETIME, f"2026-01-01[{zone}]".encode()) for zone in zones()[:120]]),
    "a zone of a million letters": lambda: tagged(DATETIME, b"2026-01-01[" + b"A" * 1_000_000 + b"]"),
    "a zone that is a path": lambda: tagged(TIME, b"01:00[../../../../etc/passwd]"),
    "a zone that is a folder": lambda: tagged(TIME, b"01:00[America]"),
    "a date of a million letters": lambda: tagged(DATETIME, b"2" * 1_000_000),
    "a duration that is deep": lambda: tagged(TIMEDELTA, nested(b"\x91", 100_000)),
    "a duration of ages": lambda: tagged(TIMEDELTA, b"\x93\xcf\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00"),
    "deep lists": lambda: nested(b"\x91", 200_000),
    "deep maps": lambda: nested(b"\x81\xa0", 200_000),
    "deep tuples": lambda: nested_tags(TUPLE, b"\x91", 2_000),
    "deep secrets": lambda: nested_tags(SECRET, b"", 2_000),
    "deep sets": lambda: nested_tags(FROZENSET, b"\x91", 2_000),
    "a tuple of text": lambda: tagged(TUPLE, text("x" * 1_000_000)),
    "half a surrogate": lambda: tagged(TEXT, b"\xed\xa0\x80"),
    "text that is no UTF-8": lambda: b"\xdb\x00\x00\x00\x02\xff\xfe",
    "a timestamp of MessagePack": lambda: b"\xd6\xff\xff\xff\xff\xff",
    "an unknown tag": lambda: tagged(99, b"x"),
    "nothing": lambda: b"",
}
"""By name, what it is; those that begin with "at most" are accepted."""
