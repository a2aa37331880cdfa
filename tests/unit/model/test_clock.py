"""Times on the wire, and the machine's clock."""

import threading
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerjob.model.clock import TOLD_CHANGE_US, Clock, CorrectedTime, SystemClock, to_datetime, to_us

any_moment = st.datetimes(
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-11)), timezone(timedelta(hours=5, minutes=45))])
)


@given(any_moment)
def test_a_moment_survives_the_wire(moment: datetime) -> None:
    us = to_us(moment)
    assert us == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if moment.astimezone(UTC).year > 1:
        assert to_datetime(us) == moment
        assert to_datetime(us).tzinfo is UTC


@given(st.integers(-(10**16), 10**17))
def test_no_microsecond_is_lost(us: int) -> None:
    assert to_us(to_datetime(us)) == us


def test_the_order_of_moments_is_kept() -> None:
    late = datetime(2200, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC)
    assert to_us(late + timedelta(microseconds=1)) - to_us(late) == 1


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        to_us(datetime(2026, 1, 1))  # noqa: DTZ001  # that is the point


def test_the_system_clock_tells_the_time() -> None:
    clock: Clock = SystemClock()
    before = time.time_ns() // 1000
    assert before <= clock.time_us() <= time.time_ns() // 1000
    assert not clock.virtual


def test_elapsed_time_goes_on_and_never_back() -> None:
    clock = SystemClock()
    samples = [clock.elapsed() for _ in range(1000)]
    assert samples == sorted(samples)
    before = time.monotonic()
    began = clock.elapsed()
    threading.Event().wait(0.02)
    assert 0.015 < clock.elapsed() - began < time.monotonic() - before + 0.001


def test_the_system_clock_does_not_wait() -> None:
    clock = SystemClock()
    with clock.outside():
        assert clock.time_us() > 0


def test_two_clocks_do_not_draw_the_same() -> None:
    assert SystemClock().random.getrandbits(128) != SystemClock().random.getrandbits(128)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_change_of_the_lead_is_news_in_both_directions(sign: int) -> None:
    time = CorrectedTime(SystemClock())
    time.correct(sign * TOLD_CHANGE_US)
    assert (time.take_news(), time.told_ahead_us) == (False, 0)
    time.correct(sign * (TOLD_CHANGE_US + 1))
    assert (time.take_news(), time.take_news(), time.told_ahead_us) == (True, False, sign * (TOLD_CHANGE_US + 1))
    time.correct(0)
    assert (time.take_news(), time.told_ahead_us) == (True, 0)
