"""Durations in user input: seconds, timedelta, "1h30m" or ISO 8601."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from .errors import OptionError

Duration = float | int | timedelta | str
"""A length of time: seconds, a timedelta, or text such as "5s", "1h30m", "250ms" or "PT1H30M"."""

_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(us|µs|ms|s|m|h|d|w)", re.IGNORECASE)
_ISO = re.compile(
    r"P(?:(\d+(?:[.,]\d+)?)W)?(?:(\d+(?:[.,]\d+)?)D)?"
    r"(?:T(?:(\d+(?:[.,]\d+)?)H)?(?:(\d+(?:[.,]\d+)?)M)?(?:(\d+(?:[.,]\d+)?)S)?)?",
    re.IGNORECASE,
)
MAX_SECONDS = 1000 * 366 * 86400
"""Longest duration, in seconds. The limit keeps a due time at the end of the duration a valid date."""
_EXPECTED = 'a duration: seconds, a timedelta, or text like "5s", "1h30m", "PT1H30M"'


def parse_duration(text: str) -> timedelta:
    """Parse "5s", "1h30m", "-2m", plain seconds ("2.5") or ISO 8601 ("PT1H"); raises ValueError."""
    body = text.strip()
    sign = 1.0
    if body[:1] in ("+", "-"):
        sign, body = (-1.0 if body[:1] == "-" else 1.0), body[1:].lstrip()
    if body[:1] in ("+", "-"):
        raise ValueError(f"not a duration: {text!r}")
    try:
        return timedelta(seconds=sign * _seconds_of(body, text))
    except OverflowError:
        raise ValueError(f"a duration out of range: {text!r}") from None


def to_seconds(value: object, option: str = "duration", *, negative: bool = False) -> float:
    """Convert a Duration to seconds; raises OptionError for invalid text, NaN, infinity or a negative value."""
    seconds: float
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, bool):
        raise OptionError(option, value, _EXPECTED)
    elif isinstance(value, int | float):
        seconds = float(value) if abs(value) <= MAX_SECONDS else (-math.inf if value < 0 else math.inf)
    elif isinstance(value, str):
        try:
            seconds = parse_duration(value).total_seconds()
        except ValueError:
            raise OptionError(option, value, _EXPECTED) from None
    else:
        raise OptionError(option, value, _EXPECTED)
    if seconds < 0 and not negative:
        raise OptionError(option, value, "a duration of zero or more")
    if not abs(seconds) <= MAX_SECONDS:
        raise OptionError(option, value, "a finite duration of at most 1,000 years")
    return seconds


def to_micros(value: object, option: str = "duration") -> int:
    """Convert a Duration to microseconds; raises OptionError, for a negative value too."""
    return round(to_seconds(value, option) * 1_000_000)


def format_seconds(seconds: float) -> str:
    """Format seconds as short text, such as "250ms", "5s" or "1h30m"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    rest = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def _seconds_of(body: str, text: str) -> float:
    try:
        return float(body)
    except ValueError:
        pass
    if body[:1] in "Pp":
        match = _ISO.fullmatch(body)
        if match is None or not any(match.groups()):
            raise ValueError(f"not an ISO 8601 duration: {text!r}")
        sizes = (604800.0, 86400.0, 3600.0, 60.0, 1.0)
        return sum(
            float(group.replace(",", ".")) * size for group, size in zip(match.groups(), sizes, strict=True) if group
        )
    total, position = 0.0, 0
    for match in _PART.finditer(body):
        if body[position : match.start()].strip():
            raise ValueError(f"not a duration: {text!r}")
        total += float(match[1]) * _UNITS[match[2].lower()]
        position = match.end()
    if position == 0 or body[position:].strip():
        raise ValueError(f"not a duration: {text!r}")
    return total
