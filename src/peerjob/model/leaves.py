"""Reads stored values that contain no others: times, numbers and references. Their sizes are checked first."""

from __future__ import annotations

from datetime import datetime, time, timedelta, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec

from .bounds import MAX_DIGITS, MAX_INT_BYTES, MAX_MOMENT, BoundsError, check_decimal
from .outputs import Ref


def read_moment(data: memoryview) -> datetime:
    """A datetime, in its zone."""
    text, zone = _zone_of(data)
    moment = datetime.fromisoformat(text)
    if zone is None:
        return moment
    # when the clocks go back, one wall-clock time occurs twice: the stored offset selects which of the two is meant
    for fold in (0, 1):
        local = moment.replace(tzinfo=zone, fold=fold)
        if local.utcoffset() == moment.utcoffset():
            return local
    return moment.astimezone(zone)


def read_time(data: memoryview) -> time:
    """A time of day, in its zone."""
    text, zone = _zone_of(data)
    daytime = time.fromisoformat(text)
    return daytime if zone is None else daytime.replace(tzinfo=zone)


def _zone_of(data: memoryview) -> tuple[str, tzinfo | None]:
    text, _, zone = short(data).partition("[")
    return text, ZoneInfo(zone.removesuffix("]")) if zone else None


def short(data: memoryview, most: int = MAX_MOMENT) -> str:
    """Read text of a limited size. The limit keeps errors short, since errors quote the text."""
    if len(data) > most:
        raise BoundsError(f"{len(data):,} bytes where at most {most:,} are expected")
    return str(data, "utf-8")


def read_decimal(data: memoryview) -> Decimal:
    """A Decimal of a limited number of digits."""
    value = Decimal(short(data, _DECIMAL_BYTES))
    check_decimal(value)
    return value


_DECIMAL_BYTES = 2 * MAX_DIGITS + 20
"""Most bytes of a Decimal as text, including sign, point and exponent."""


def read_integer(data: memoryview) -> int:
    """An integer over 64 bits."""
    if len(data) > MAX_INT_BYTES:
        raise BoundsError(f"an integer of {len(data):,} bytes, over the limit of {MAX_DIGITS:,} digits")
    return int.from_bytes(data, "big", signed=True)


def read_timedelta(data: memoryview) -> timedelta:
    """A timedelta of days, seconds and microseconds."""
    return timedelta(*_timedelta_parts(data))


def read_ref(data: memoryview) -> Ref:
    """A reference to a member of a flow."""
    number = _ref_number(data)
    return Ref(number >> 1, bool(number & 1))


_ref_number = msgspec.msgpack.Decoder(int).decode
_timedelta_parts = msgspec.msgpack.Decoder(tuple[int, int, int]).decode
