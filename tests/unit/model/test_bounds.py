"""Limits of encoded values, at the limit and one over, when encoding and when decoding."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from peerjob.model.bounds import CONTAINER, LEAF, MAX_DEPTH, MAX_DIGITS, MAX_ELEMENTS, MAX_EQUAL_HASHES, MAX_ZONES
from peerjob.model.codec import decode_kept, decode_shown, decode_value, encode_value, has_secret
from peerjob.model.errors import DecodeError, EncodeError
from peerjob.model.json_text import to_json
from support import hostile

MAX_SECONDS = 0.05
"""Seconds that one value may keep a thread busy."""
PRIME = 2**61 - 1
"""Python hashes numbers modulo this one."""


def round_trip(value: Any) -> None:
    found = decode_value(encode_value(value))
    assert found == value
    assert found.__class__ is value.__class__


@pytest.mark.parametrize(
    ("most", "over"),
    [
        (10**MAX_DIGITS - 1, 2 * 10**MAX_DIGITS),
        (1 - 10**MAX_DIGITS, -2 * 10**MAX_DIGITS),
        (Decimal(f"1E{MAX_DIGITS - 1}"), Decimal(f"1E{MAX_DIGITS}")),
        (Decimal(f"1E-{MAX_DIGITS}"), Decimal(f"1E-{MAX_DIGITS + 1}")),
        (Decimal(f"0E-{MAX_DIGITS}"), Decimal("0E-99999999")),
        (Decimal("9" * MAX_DIGITS + "." + "9" * MAX_DIGITS), Decimal("9" * (MAX_DIGITS + 1))),
    ],
    ids=["integer", "negative", "large", "small", "zero", "digits"],
)
def test_digits_are_bounded(most: Any, over: Any) -> None:
    round_trip([most])
    with pytest.raises(EncodeError, match=rf"^value\['n'\]\[0\]: .* over the limit of {MAX_DIGITS:,} digits"):
        encode_value({"n": [over]})


def test_elements_are_bounded() -> None:
    round_trip([1] * (MAX_ELEMENTS - CONTAINER))
    with pytest.raises(EncodeError, match=f"more than {MAX_ELEMENTS:,} elements"):
        encode_value([1] * (MAX_ELEMENTS - CONTAINER + 1))
    with pytest.raises(DecodeError, match=f"more than {MAX_ELEMENTS:,} elements"):
        decode_value(msgspec.msgpack.encode([1] * (MAX_ELEMENTS - CONTAINER + 1)))


@pytest.mark.parametrize(
    ("item", "counts"),
    [
        ([], CONTAINER),
        ({}, CONTAINER),
        ((), CONTAINER + 1),
        ({"a": 1}, CONTAINER + 1),
        (UUID(int=1), LEAF),
        ("x" * 40, 1),
    ],
)
def test_parts_have_their_weight(item: Any, counts: int) -> None:
    most = (MAX_ELEMENTS - CONTAINER) // counts
    round_trip([item] * most)
    with pytest.raises(EncodeError, match="elements"):
        encode_value([item] * (most + 1))


def test_keys_with_the_same_hash_are_bounded() -> None:
    def colliding(count: int) -> list[int]:
        return [(number + 2**20) * PRIME for number in range(count)]

    make: list[Callable[[list[int]], Any]] = [set, frozenset, dict.fromkeys, lambda keys: {(key, 1) for key in keys}]
    for made in make:
        round_trip([made(colliding(MAX_EQUAL_HASHES))])
        with pytest.raises(EncodeError, match=r"^value\[0\]: .* the same hash"):
            encode_value([made(colliding(MAX_EQUAL_HASHES + 1))])


def test_ordinary_keys_are_not_bounded_by_number() -> None:
    """As whole numbers, pairs with both -1 and -2 (which have one hash), UUIDs, dates and long integers are."""
    round_trip(set(range(20_000)))
    round_trip({(x, y) for x in range(-50, 50) for y in range(-50, 50)})
    round_trip({UUID(int=number) for number in range(6_000)})
    round_trip({date.fromordinal(number): number for number in range(1, 4_500)})
    round_trip({2**64 + number for number in range(6_000)})


def test_zones_are_bounded() -> None:
    moments = [hostile.tagged(5, f"2026-01-01[{zone}]".encode()) for zone in hostile.zones()]
    filler = hostile.text("x" * 5_000)  # small values are not looked into
    decode_value(hostile.array([*moments[:MAX_ZONES], filler]))
    with pytest.raises(DecodeError, match=f"more than {MAX_ZONES} different time zones"):
        decode_value(hostile.array([*moments[: MAX_ZONES + 1], filler]))


OPENINGS = [
    *(bytes([0x90 + count]) + b"\x01" * (count - 1) for count in range(1, 16)),
    *(bytes([0x80 + count]) + b"\xa0\x01" * (count - 1) + b"\xa0" for count in range(1, 16)),
    b"\x81\x01",
    b"\xdc\x00\x01",
    b"\xdd\x00\x00\x00\x01",
    b"\xde\x00\x01\xa0",
    b"\xdf\x00\x00\x00\x01\xa0",
]
"""Each way to begin a list or a map whose last value is the next level."""


@pytest.mark.parametrize("opening", OPENINGS, ids=bytes.hex)
def test_depth_is_bounded_when_decoding(opening: bytes) -> None:
    decode_value(opening * MAX_DEPTH + b"\x01")
    with pytest.raises(DecodeError, match=f"nested deeper than {MAX_DEPTH} levels"):
        decode_value(opening * (MAX_DEPTH + 1) + b"\x01")


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_depth_of_tagged_values_is_bounded(width: int) -> None:
    def nested(depth: int) -> bytes:
        data = b"\x01"
        for _ in range(depth):
            # the size of a long value needs two bytes
            size = max(width, 1 + (len(data) > 0xFF))
            head = 0xC6 + size.bit_length()
            data = bytes([head]) + len(data).to_bytes(size, "big") + bytes([hostile.SECRET]) + data
        return data

    decode_value(nested(MAX_DEPTH))
    with pytest.raises(DecodeError, match=f"nested deeper than {MAX_DEPTH} levels"):
        decode_value(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize("name", hostile.VALUES)
def test_no_hostile_value_takes_long(name: str) -> None:
    """Reading it takes less than 50 ms of CPU, and ends in a value or a DecodeError; a view of it never fails."""
    data = hostile.VALUES[name]()
    value: Any = None
    spent = math.inf
    for _ in range(3):  # the first time may load modules, and others share the machine
        before = time.thread_time()
        try:
            value = decode_value(data)
        except DecodeError as error:
            value = str(error)
        spent = time.thread_time() - before
        if spent < MAX_SECONDS:
            break
    assert spent < MAX_SECONDS
    msgspec.json.decode(to_json(value))
    assert not isinstance(value, str) or len(value) < 1_000


@pytest.mark.parametrize("read", [decode_value, decode_shown, decode_kept, has_secret])
@pytest.mark.parametrize("name", ["a decimal with an exponent", "a map of secrets", "deep lists"])
def test_each_reader_has_the_bounds(read: Callable[[bytes], Any], name: str) -> None:
    with pytest.raises(DecodeError):
        read(hostile.array([hostile.tagged(hostile.SECRET, b"\x01"), hostile.VALUES[name]()]))


def test_a_view_of_an_integer_of_any_size() -> None:
    huge = 10**5000
    values: list[Any] = [huge, -huge, [huge], {huge: 1}, {"a": (huge, math.nan)}, {"a": {"b": {huge}}}]
    for value in values:
        assert "an integer of 16," in to_json(value)


def test_a_view_of_what_cannot_be_shown() -> None:
    class Odd:
        def __str__(self) -> str:
            raise ZeroDivisionError

    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    assert to_json(deep) == '"<list that cannot be shown: RecursionError>"'
    assert to_json([Odd()]) == '"<list that cannot be shown: ZeroDivisionError>"'


def test_small_values_are_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of a small value is one comparison; a test of cost, without a clock."""
    monkeypatch.setattr("peerjob.model.bounds._Walk", None)
    assert decode_value(encode_value([[1, "x", {"a": (1, 2)}], {}])) == [[1, "x", {"a": (1, 2)}], {}]
    assert decode_value(encode_value(["x" * 500] * 8)) == ["x" * 500] * 8


def test_keys_that_are_numbers_count_as_several_elements() -> None:
    """They come from other languages alone: a map of ours with such keys is a list of pairs."""
    many = 12_000
    assert decode_value(msgspec.msgpack.encode({str(number): None for number in range(many)}))
    with pytest.raises(DecodeError, match="elements"):
        decode_value(msgspec.msgpack.encode(dict.fromkeys(range(many))))
