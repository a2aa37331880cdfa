"""Intervals, what a definition recurs by, and jitter."""

from datetime import UTC, datetime
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerjob.model.clock import to_us
from peerjob.model.definition import Definition
from peerjob.model.errors import ScheduleError
from peerjob.model.recurrence import Interval, cron_recurrence, jitter_us, recurrence_of

MINUTE_US = 60_000_000


def definition(**fields: object) -> Definition:
    return Definition(kind="report", spec=b"", **fields)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@given(st.integers(10_000, 10**15), st.integers(0, 2 * 10**15), st.integers(-(10**15), 4 * 10**15), st.integers(0, 200))
def test_an_interval_keeps_its_grid(every: int, anchor: int, moment: int, number: int) -> None:
    recurrence = Interval(every, anchor)

    following = recurrence.next_after(moment)
    assert following is not None
    latest = recurrence.latest_at(moment)
    until = following + number * every

    assert following > moment
    assert (following - anchor) % every == 0
    assert following > anchor
    assert latest is None or (anchor < latest <= moment and latest + every == following)
    assert (latest is None) == (moment < anchor + every)
    assert recurrence.latest_at(following) == following
    assert list(recurrence.times(moment, until)) == [following + step * every for step in range(number + 1)]
    assert recurrence.count(moment, until) == number + 1
    assert recurrence.count(until, moment) == 0


def test_an_interval_ends_with_the_year_9999() -> None:
    thousand_years = 365_000 * 24 * 60 * MINUTE_US
    recurrence = Interval(thousand_years, to_us(datetime(2026, 12, 1, tzinfo=UTC)))
    far = to_us(datetime.max.replace(tzinfo=UTC))

    times = list(recurrence.times(0, 2 * far))

    assert len(times) == recurrence.count(0, 2 * far) == 7
    assert recurrence.next_after(times[-2]) == times[-1] < far
    assert recurrence.next_after(times[-1]) is None


def test_an_anchor_is_no_nominal_time_itself() -> None:
    recurrence = Interval(10 * MINUTE_US, 1_000)

    assert recurrence.latest_at(1_000) is None
    assert recurrence.next_after(0) == recurrence.next_after(1_000) == 10 * MINUTE_US + 1_000
    assert recurrence.count(0, 1_000) == 0


def test_a_definition_recurs_by_cron_in_its_zone() -> None:
    recurrence = recurrence_of(definition(cron="30 2 * * *", timezone="Asia/Tokyo"))

    assert recurrence.next_after(0) == (24 + 2 - 9) * 60 * MINUTE_US + 30 * MINUTE_US
    assert recurrence is recurrence_of(definition(cron="30 2 * * *", timezone="Asia/Tokyo"))


def test_a_definition_recurs_by_an_interval_from_its_anchor() -> None:
    recurrence = recurrence_of(definition(every_us=MINUTE_US, anchor_us=5))

    assert recurrence.next_after(0) == MINUTE_US + 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "expected cron or every"),
        ({"every_us": 0}, "expected cron or every"),
        ({"cron": "61 * * * *"}, "minute 61"),
        ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "no such time zone"),
    ],
)
def test_a_definition_that_cannot_be_used_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        recurrence_of(definition(**fields))


def test_a_zone_in_the_text_counts() -> None:
    prefixed = cron_recurrence("TZ=Asia/Tokyo 30 2 * * *", "Europe/Berlin")

    assert prefixed.next_after(0) == cron_recurrence("30 2 * * *", "Asia/Tokyo").next_after(0)
    with pytest.raises(ScheduleError, match="no such time zone"):
        cron_recurrence("TZ=Mars/Olympus * * * * *")


def test_every_as_cron_text_is_an_interval() -> None:
    assert list(islice(cron_recurrence("@every 90s").times(0, 10**10), 2)) == [90_000_000, 180_000_000]


# -- jitter ------------------------------------------------------------------------------------------------------------


def test_without_jitter_a_fire_is_due_at_its_time() -> None:
    assert jitter_us(definition(), "report", 0) == 0


@given(st.integers(1, 10**12), st.integers(0, 2**60))
def test_random_jitter_stays_within_its_limit(limit: int, nominal_us: int) -> None:
    assert 0 <= jitter_us(definition(jitter_us=limit), "report", nominal_us) <= limit


def test_random_jitter_differs_between_fires_and_is_the_same_on_each_node() -> None:
    def drawn() -> list[int]:
        return [jitter_us(definition(jitter_us=10**9), "report", nominal_us) for nominal_us in range(100)]

    assert len(set(drawn())) == 100
    assert drawn() == drawn()


@given(st.integers(1, 10**12), st.text(max_size=50))
def test_hashed_jitter_is_the_name_s_alone(limit: int, name: str) -> None:
    one = definition(jitter_us=limit, hashed=True)

    drawn = jitter_us(one, name, 0)

    assert 0 <= drawn <= limit
    assert jitter_us(one, name, MINUTE_US) == drawn


def test_hashed_jitter_is_the_same_in_every_release() -> None:
    one = definition(jitter_us=5 * MINUTE_US, hashed=True)

    assert [jitter_us(one, name, 0) for name in ("report", "cleaner")] == [166_436_194, 116_868_778]


def test_hashed_jitter_spreads_a_fleet_evenly() -> None:
    one = definition(jitter_us=60_000_000 - 1, hashed=True)
    drawn = [jitter_us(one, f"tenant-{number}", 0) for number in range(6_000)]

    per_second = [0] * 60
    for jitter in drawn:
        per_second[jitter // 1_000_000] += 1

    # 100 each are expected; five standard deviations off would be one in a million
    assert min(per_second) > 50
    assert max(per_second) < 150


def test_the_epoch_is_a_time_like_others() -> None:
    assert cron_recurrence("0 0 1 1 *").latest_at(1) == 0
    assert cron_recurrence("0 0 1 1 *").latest_at(-1) == to_us(datetime(1969, 1, 1, tzinfo=UTC))
