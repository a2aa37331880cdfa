"""The instants that a cron text means, also on days when clocks change."""

from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from peerjob.model.clock import to_datetime, to_us
from peerjob.model.cron.engine import Cron
from peerjob.model.cron.text import CronText, read_cron
from peerjob.model.cron.zones import BLOCK
from peerjob.model.errors import ScheduleError
from peerjob.model.recurrence import Recurrence, cron_recurrence
from support.cron_specs import NIGHTLY, ODD, SPECS, WHOLE_HOUR, cronsim_times, walked_times
from support.effort import least_seconds
from support.searches import examples

# thousands of examples, also where others keep the machine busy
pytestmark = [pytest.mark.timeout(300), pytest.mark.one_python]

DECADE = st.integers(1_577_836_800, 1_924_905_600).map(lambda moment: datetime.fromtimestamp(moment, UTC))
SECOND_US, DAY_US = 1_000_000, 86_400_000_000
ALL_SPECS = st.one_of(
    SPECS,
    NIGHTLY,
    st.tuples(st.sampled_from(["0", "*", "*/7", "15,45", "59"]), SPECS).map(" ".join),
    st.sampled_from(["0 0 15W * *", "0 3 1W,L * *", "30 2 * * 5#2,L1", "0 0 22 11-2 *", "5 22-3 * * FRI-MON"]),
)
ALL_ZONES = st.sampled_from(WHOLE_HOUR + [zone for zone, _ in ODD])


def changes_of(zone: str) -> list[datetime]:
    """Noons before the days of a decade on which the zone's clocks change."""
    noons = [datetime(2020, 1, 1, 12, tzinfo=UTC) + timedelta(days=day) for day in range(4018)]
    place = ZoneInfo(zone)
    return [
        one for one, next in pairwise(noons) if one.astimezone(place).utcoffset() != next.astimezone(place).utcoffset()
    ]


CHANGES = {zone: changes_of(zone) for zone in WHOLE_HOUR}


def read(spec: str, zone: str) -> Recurrence:
    try:
        return cron_recurrence(spec, zone)
    except ScheduleError as error:
        assume("never fires" not in str(error))
        raise


def fires(spec: str, zone: str, start: str, count: int) -> list[str]:
    """The first fires after a wall time, as wall times with their offset."""
    place = ZoneInfo(zone)
    moments = cron_recurrence(spec, zone).times(
        to_us(datetime.fromisoformat(start).replace(tzinfo=place)), 4_000_000_000 * SECOND_US
    )
    return [f"{to_datetime(moment).astimezone(place):%m-%d %H:%M%z}" for moment in islice(moments, count)]


# -- against cronsim, and against a step through wall-clock times ------------------------------------------------------


@pytest.mark.search
@given(SPECS, st.sampled_from(WHOLE_HOUR), DECADE)
@settings(max_examples=examples(250))
def test_cronsim_agrees_over_a_decade(spec: str, zone: str, start: datetime) -> None:
    recurrence = read(spec, zone)
    start = start.replace(hour=12)  # cronsim is at a loss when it starts in an hour that comes twice

    expected = cronsim_times(spec, zone, start, start + timedelta(days=366 * 45), 20)

    assert expected
    assert list(islice(recurrence.times(to_us(start), expected[-1]), 20)) == expected


@pytest.mark.search
@given(st.one_of(NIGHTLY, NIGHTLY, SPECS), st.sampled_from(WHOLE_HOUR[1:]), st.data())
@settings(max_examples=examples(250))
def test_cronsim_agrees_where_clocks_change(spec: str, zone: str, data: st.DataObject) -> None:
    recurrence = read(spec, zone)
    start = data.draw(st.sampled_from(CHANGES[zone]))
    until = start + timedelta(days=1)

    expected = cronsim_times(spec, zone, start, until, 2_000)

    assert list(recurrence.times(to_us(start), to_us(until))) == expected


class Once(tzinfo):
    """A zone whose clocks change once."""

    def __init__(self, change: datetime, before: timedelta, after: timedelta) -> None:
        self._change, self._before, self._after = change.replace(tzinfo=None), before, after

    def fromutc(self, dt: datetime) -> datetime:
        offset = self._before if dt.replace(tzinfo=None) < self._change else self._after
        return (dt + offset).replace(fold=offset == self._after)

    def utcoffset(self, dt: datetime | None) -> timedelta:
        assert dt is not None
        return self._after if dt.fold else self._before

    def tzname(self, dt: datetime | None) -> None: ...

    def dst(self, dt: datetime | None) -> None: ...


def agrees_with_a_walk(spec: str, zone: tzinfo, change: datetime) -> None:
    text = read_cron(spec)
    assert isinstance(text, CronText)
    # in a zone without clock changes, a wall time matches exactly if its instant does
    plain = cron_recurrence(spec, "UTC")

    def matches(wall: datetime) -> bool:
        moment = to_us(wall.replace(tzinfo=UTC))
        return plain.latest_at(moment) == moment

    start, until = change - timedelta(days=1, hours=2), change + timedelta(days=1, hours=2)
    expected = list(walked_times(matches, zone, start, until, fixed=text.fixed))
    recurrence = Cron(text, zone)

    assert list(recurrence.times(to_us(start), to_us(until))) == expected
    assert recurrence.count(to_us(start), to_us(until)) == len(expected)
    backwards: list[int] = []
    moment = recurrence.latest_at(to_us(until))
    while moment is not None and moment > to_us(start):
        backwards.append(moment)
        moment = recurrence.latest_at(moment - 1)
    assert backwards[::-1] == expected


@pytest.mark.search
@given(NIGHTLY, st.sampled_from(ODD))
@settings(max_examples=examples(200))
def test_a_walk_along_the_wall_clock_agrees_where_clocks_change_oddly(spec: str, place: tuple[str, datetime]) -> None:
    agrees_with_a_walk(spec, ZoneInfo(place[0]), place[1])


@pytest.mark.search
@given(
    NIGHTLY,
    st.integers(-180, 60),
    st.integers(-60, 240),
    st.sampled_from([-120, -90, -60, -30, -1, 1, 30, 45, 60, 120, 180, 24 * 60, -24 * 60]),
)
@example("15 0 * * *", -30, 60, -60)
@example("0 1 * * *", -1, 62, -60)
@settings(max_examples=examples(100))
def test_a_walk_agrees_at_the_edge_of_a_block(spec: str, beside: int, offset: int, shift: int) -> None:
    assume(-24 * 60 < offset + shift < 24 * 60)
    change = datetime.fromtimestamp(690 * BLOCK, UTC) + timedelta(minutes=beside)

    agrees_with_a_walk(spec, Once(change, timedelta(minutes=offset), timedelta(minutes=offset + shift)), change)


# -- laws --------------------------------------------------------------------------------------------------------------


@pytest.mark.search
@given(ALL_SPECS, ALL_ZONES, DECADE)
@settings(max_examples=examples(400))
def test_each_time_is_after_the_one_before_and_is_found_from_both_sides(spec: str, zone: str, start: datetime) -> None:
    recurrence = read(spec, zone)
    before = to_us(start)
    first = recurrence.next_after(before)

    for _ in range(5):
        moment = recurrence.next_after(before)
        assert moment is not None
        assert moment > before
        assert moment % SECOND_US == 0
        assert recurrence.latest_at(moment) == moment
        assert recurrence.latest_at(moment + SECOND_US // 2) in (moment, None)
        assert recurrence.next_after(moment - 1) == moment
        latest = recurrence.latest_at(moment - 1)
        assert latest is None or latest <= before or recurrence.next_after(latest) == moment
        before = moment
    assert first is not None
    assert recurrence.count(to_us(start), before) == 5
    assert next(recurrence.times(to_us(start), before)) == first


@pytest.mark.search
@given(ALL_SPECS, ALL_ZONES, DECADE, st.integers(0, 3 * DAY_US), st.integers(0, 3 * DAY_US))
@settings(max_examples=examples(250))
def test_times_are_counted_as_they_come(spec: str, zone: str, start: datetime, length: int, more: int) -> None:
    recurrence = read(spec, zone)
    one, two, three = to_us(start), to_us(start) + length, to_us(start) + length + more
    assume(recurrence.count(one, three) < 6_000)

    times = list(recurrence.times(one, two))

    assert recurrence.count(one, two) == len(times)
    assert times == sorted(set(times))
    assert recurrence.count(one, three) == len(times) + recurrence.count(two, three)
    latest = recurrence.latest_at(two)
    assert latest == times[-1] if times else latest is None or latest <= one


@pytest.mark.search
@given(NIGHTLY, st.sampled_from(WHOLE_HOUR[1:]), st.data(), st.integers(0, 24 * 60), st.integers(0, 24 * 60))
@settings(max_examples=examples(250))
def test_times_are_counted_up_to_any_minute_of_a_change(
    spec: str, zone: str, data: st.DataObject, from_minute: int, minutes: int
) -> None:
    recurrence = cron_recurrence(spec, zone)
    start = to_us(data.draw(st.sampled_from(CHANGES[zone]))) + from_minute * 60 * SECOND_US
    until = start + minutes * 60 * SECOND_US

    assert recurrence.count(start, until) == len(list(recurrence.times(start, until)))


def test_an_hour_that_comes_twice_is_counted_once_from_its_middle() -> None:
    recurrence = cron_recurrence("30 2 * * *", "Europe/Berlin")
    second_ten_past_two = to_us(datetime(2026, 10, 25, 1, 10, tzinfo=UTC))

    assert recurrence.count(second_ten_past_two - DAY_US, second_ten_past_two) == 1
    assert recurrence.count(second_ten_past_two, second_ten_past_two + DAY_US) == 0
    assert recurrence.count(second_ten_past_two - SECOND_US, second_ten_past_two) == 0


def test_nothing_lies_in_an_empty_or_backward_stretch() -> None:
    recurrence = cron_recurrence("* * * * *")

    assert recurrence.count(60 * SECOND_US, 60 * SECOND_US) == 0
    assert recurrence.count(120 * SECOND_US, 60 * SECOND_US) == 0
    assert list(recurrence.times(120 * SECOND_US, 60 * SECOND_US)) == []


# -- days when clocks change, by hand ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "start", "expected"),
    [
        ("30 2 * * *", "2026-03-28 12:00", ["03-29 03:00+0200", "03-30 02:30+0200"]),
        ("30 2 * * *", "2026-10-24 12:00", ["10-25 02:30+0200", "10-26 02:30+0100"]),
        ("*/30 * * * *", "2026-03-29 01:00", ["03-29 01:30+0100", "03-29 03:00+0200", "03-29 03:30+0200"]),
        (
            "*/30 * * * *", "2026-10-25 01:30",
            ["10-25 02:00+0200", "10-25 02:30+0200", "10-25 02:00+0100", "10-25 02:30+0100", "10-25 03:00+0100"],
        ),
        # several wall times that are skipped, and one right after them, are one
        ("0,30 2,3 * * *", "2026-03-28 12:00", ["03-29 03:00+0200", "03-29 03:30+0200", "03-30 02:00+0200"]),
        ("0,30 2 * * *", "2026-10-24 12:00", ["10-25 02:00+0200", "10-25 02:30+0200", "10-26 02:00+0100"]),
        # an hour that begins with * goes with the clock
        ("30 */2 * * *", "2026-03-29 00:00", ["03-29 00:30+0100", "03-29 04:30+0200"]),
        ("*/30 2 * * *", "2026-03-28 12:00", ["03-30 02:00+0200", "03-30 02:30+0200"]),
        ("0 3 * * SUN", "2026-03-28 12:00", ["03-29 03:00+0200", "04-05 03:00+0200"]),
        ("@daily", "2026-03-28 12:00", ["03-29 00:00+0100", "03-30 00:00+0200"]),
        ("@hourly", "2026-10-25 01:30", ["10-25 02:00+0200", "10-25 02:00+0100", "10-25 03:00+0100"]),
    ],
)  # fmt: skip
def test_where_the_clocks_of_berlin_change(spec: str, start: str, expected: list[str]) -> None:
    assert fires(spec, "Europe/Berlin", start, len(expected)) == expected


def test_seconds_follow_the_same_rules() -> None:
    zone = "Europe/Berlin"
    spring, autumn = to_us(datetime(2026, 3, 29, tzinfo=UTC)), to_us(datetime(2026, 10, 25, tzinfo=UTC))
    fixed, wild = cron_recurrence("*/20 30 2 * * *", zone), cron_recurrence("*/20 30 * * * *", zone)

    # three wall times are skipped, and made up for once, at 03:00
    assert list(fixed.times(spring, spring + DAY_US // 2)) == [spring + 3600 * SECOND_US]
    assert [moment - autumn for moment in fixed.times(autumn, autumn + DAY_US // 2)] == [
        (1800 + second) * SECOND_US for second in (0, 20, 40)
    ]
    hours = 12
    assert wild.count(spring, spring + hours * 3600 * SECOND_US) == 3 * hours
    assert wild.count(autumn, autumn + hours * 3600 * SECOND_US) == 3 * hours


@pytest.mark.parametrize(
    ("spec", "zone", "start", "expected"),
    [
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03 12:00", ["10-04 02:30+1100", "10-05 02:15+1100"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04 12:00", ["04-05 01:45+1100", "04-06 01:45+1030"]),
        ("30 0 * * *", "America/Sao_Paulo", "2018-11-03 12:00", ["11-04 01:00-0200", "11-05 00:30-0200"]),
        ("*/30 0 * * *", "America/Sao_Paulo", "2018-11-03 12:00", ["11-05 00:00-0200", "11-05 00:30-0200"]),
        ("30 23 * * *", "America/Sao_Paulo", "2019-02-16 12:00", ["02-16 23:30-0200", "02-17 23:30-0300"]),
        # there was no 30 December
        (
            "0 12 * * *",
            "Pacific/Apia",
            "2011-12-29 00:00",
            ["12-29 12:00-1000", "12-31 00:00+1400", "12-31 12:00+1400"],
        ),
        ("0 0 30 12 *", "Pacific/Apia", "2011-12-01 00:00", ["12-31 00:00+1400", "12-30 00:00+1400"]),
        ("0 */12 * * *", "Pacific/Apia", "2011-12-29 06:00", ["12-29 12:00-1000", "12-31 00:00+1400"]),
    ],
)
def test_where_clocks_change_oddly(spec: str, zone: str, start: str, expected: list[str]) -> None:
    assert fires(spec, zone, start, len(expected)) == expected


# -- days --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("0 0 29 2 *", ["2028-02-29", "2032-02-29", "2036-02-29"]),
        ("0 0 L 2 *", ["2026-02-28", "2027-02-28", "2028-02-29"]),
        ("0 0 L * *", ["2026-01-31", "2026-02-28", "2026-03-31"]),
        ("0 0 15W * *", ["2026-01-15", "2026-02-16", "2026-03-16"]),
        ("0 0 W1 8 *", ["2026-08-03", "2027-08-02", "2028-08-01"]),
        ("0 0 31W 5 *", ["2026-05-29", "2027-05-31", "2028-05-31"]),
        ("0 0 31W 2 *", ["2026-02-27", "2027-02-26", "2028-02-29"]),
        ("0 0 1,15W * *", ["2026-01-15", "2026-02-01", "2026-02-16"]),
        ("0 0 * * 5#2", ["2026-01-09", "2026-02-13", "2026-03-13"]),
        ("0 0 * * MON#5", ["2026-03-30", "2026-06-29", "2026-08-31"]),
        ("0 0 * * L5", ["2026-01-30", "2026-02-27", "2026-03-27"]),
        ("0 0 * * FRIL", ["2026-01-30", "2026-02-27", "2026-03-27"]),
        ("0 0 * * MON#1,5", ["2026-01-02", "2026-01-05", "2026-01-09"]),
        ("0 0 13 * 5", ["2026-01-02", "2026-01-09", "2026-01-13"]),
        ("0 0 13 * ?", ["2026-01-13", "2026-02-13", "2026-03-13"]),
        ("0 0 ? * TUE", ["2026-01-06", "2026-01-13", "2026-01-20"]),
        # a day field that begins with * makes both count
        ("0 0 */13 * FRI", ["2026-02-27", "2026-03-27", "2026-05-01"]),
        ("0 0 1 NOV-FEB *", ["2026-02-01", "2026-11-01", "2026-12-01"]),
        ("0 0 * 1 6-1", ["2026-01-03", "2026-01-04", "2026-01-05"]),
        ("0 0 1 12/3 *", ["2026-12-01", "2027-12-01", "2028-12-01"]),
        ("0 0 1-1 * *", ["2026-02-01", "2026-03-01", "2026-04-01"]),
        ("@yearly", ["2027-01-01", "2028-01-01", "2029-01-01"]),
        ("@weekly", ["2026-01-04", "2026-01-11", "2026-01-18"]),
        ("@monthly", ["2026-02-01", "2026-03-01", "2026-04-01"]),
    ],
)
def test_days_of_midnights(spec: str, expected: list[str]) -> None:
    start = to_us(datetime(2026, 1, 1, 1, tzinfo=UTC))

    times = islice(cron_recurrence(spec).times(start, start + 20 * 366 * DAY_US), len(expected))

    assert [f"{to_datetime(moment):%Y-%m-%d}" for moment in times] == expected


def test_a_leap_day_is_waited_for_over_a_century_without_one() -> None:
    leap_days = cron_recurrence("0 12 29 2 *", "America/New_York")

    moment = leap_days.next_after(to_us(datetime(2096, 3, 1, tzinfo=UTC)))

    assert moment is not None
    assert moment == to_us(datetime(2104, 2, 29, 17, tzinfo=UTC))
    assert leap_days.latest_at(moment - 1) == to_us(datetime(2096, 2, 29, 17, tzinfo=UTC))
    assert leap_days.count(to_us(datetime(2001, 1, 1, tzinfo=UTC)), moment) == 25


def test_time_ends_with_the_year_9999() -> None:
    daily = cron_recurrence("0 0 * * *", "Europe/Berlin")
    end = to_us(datetime(9999, 12, 31, tzinfo=UTC))

    assert daily.next_after(end) is None
    assert daily.next_after(10**30) is None
    assert daily.latest_at(-(10**30)) is None
    assert daily.next_after(-(10**30)) is not None
    assert daily.latest_at(10**30) is not None


# -- cost --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["* * * * *", "*/5 * * * * *", "30 2 * * *", "0 9 * * MON-FRI", "0 0 1 * *", "0 0 29 2 *", "0 0 31 12 *"]
)
def test_the_next_time_is_found_fast(spec: str) -> None:
    recurrence = cron_recurrence(spec, "Europe/Berlin")
    moments = [to_us(datetime(2026, 1, 1, tzinfo=UTC)) + number * 3_600 * SECOND_US for number in range(2_000)]

    assert least_seconds(lambda: [recurrence.next_after(moment) for moment in moments]) / len(moments) < 50e-6


def test_a_month_of_seconds_is_counted_fast() -> None:
    recurrence = cron_recurrence("* * * * * *", "Europe/Berlin")
    start = to_us(datetime(2026, 3, 1, tzinfo=UTC))

    assert recurrence.count(start, start + 31 * DAY_US) == 31 * 86_400
    assert least_seconds(lambda: recurrence.count(start, start + 31 * DAY_US)) < 0.01


def test_a_day_that_is_years_away_is_found() -> None:
    """A fifth Friday in February comes with the leap years of one kind alone."""
    rare = cron_recurrence("0 0 * 2 5#5")
    first, second = (int(datetime(year, 2, 29, tzinfo=UTC).timestamp()) * 1_000_000 for year in (2008, 2036))
    assert rare.next_after(first) == second
    assert rare.latest_at(second - 1) == first
