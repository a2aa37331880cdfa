"""Durations in every spelling."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerjob.model.durations import format_seconds, parse_duration, to_micros, to_seconds
from peerjob.model.errors import OptionError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5), ("2.5", 2.5), ("0", 0), (" 7 ", 7), ("1e3", 1000), ("-2.5", -2.5), ("+4", 4),
        ("5s", 5), ("250ms", 0.25), ("10us", 1e-5), ("10µs", 1e-5), ("2m", 120), ("1h", 3600), ("1d", 86_400),
        ("1w", 604_800), ("1h30m", 5400), ("1h 30m", 5400), ("1.5h", 5400), ("1H30M", 5400), ("-2m", -120),
        ("- 2m", -120), ("1d2h3m4s5ms", 93_784.005), ("2m2m", 240),
        ("PT1H30M", 5400), ("pt1h", 3600), ("P1D", 86_400), ("P1DT12H", 129_600), ("P2W", 1_209_600),
        ("PT0.5S", 0.5), ("PT0,5S", 0.5), ("-PT5M", -300),
    ],
)  # fmt: skip
def test_text_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "s", "5x", "5 5s", "1h,30m", "abc", "1h30", "P", "PT", "P1H", "PT1D", "P1Y", "1:30", "nan", "5s!", "--"],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the text differs, the caller words it anew
        parse_duration(text)
    with pytest.raises(OptionError, match="delay: expected a duration"):
        to_seconds(text, "delay")


@pytest.mark.parametrize("value", [None, True, False, [], b"5s", object(), 1j])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(OptionError, match="expected a duration"):
        to_seconds(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), "infinity", "1e300", "-infinity"])
def test_what_never_ends_is_refused(value: object) -> None:
    with pytest.raises(OptionError):
        to_seconds(value, negative=True)


@pytest.mark.parametrize("value", [-1, -0.5, "-1s", "-PT1S", timedelta(seconds=-1)])
def test_a_negative_duration_must_be_allowed(value: object) -> None:
    with pytest.raises(OptionError, match="zero or more"):
        to_seconds(value)
    assert to_seconds(value, negative=True) < 0


@given(st.integers(0, 10**12))
def test_every_spelling_means_the_same(millis: int) -> None:
    seconds = millis / 1000
    for spelling in (seconds, timedelta(milliseconds=millis), f"{seconds!r}s", f"{millis}ms", f"PT{seconds!r}S"):
        assert to_seconds(spelling) == pytest.approx(seconds, abs=1e-6)
        assert to_micros(spelling) == millis * 1000


@given(st.integers(0, 6), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_parts_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    wanted = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == wanted
    assert parse_duration(f"{seconds}s {minutes}m {hours}h {days}d") == wanted
    assert parse_duration(f"P{days}DT{hours}H{minutes}M{seconds}S") == wanted


@given(st.floats(1, 10**8))
def test_short_text_can_be_read_again(seconds: float) -> None:
    again = to_seconds(format_seconds(seconds))
    assert seconds * 0.95 <= again <= seconds * 1.01


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"), (0.25, "250ms"), (1, "1s"), (5.25, "5.25s"), (60, "1m"), (90, "1m30s"), (3600, "1h"),
        (5400, "1h30m"), (86_400, "1d"), (93_784, "1d2h"),
    ],
)  # fmt: skip
def test_short_text_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize("text", ["--5", "+-5", "-+5", "++5", "- -5", "--5s"])
def test_a_duration_has_one_sign(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)
