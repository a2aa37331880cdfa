"""Cron texts, explained in words."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings

from peerjob import Explanation, OptionError, ScheduleError, explain
from support.cron_specs import SPECS
from support.searches import examples

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_nightly_job() -> None:
    explained = explain("30 2 * * *", "Europe/Berlin", start=NEW_YEAR, count=2)

    assert str(explained).splitlines() == [
        "30 2 * * *  (Europe/Berlin)",
        "  at 02:30, every day",
        "",
        "next",
        "  Thu 2026-01-01 02:30:00+01:00",
        "  Fri 2026-01-02 02:30:00+01:00",
        "",
        "clock changes",
        "  2026-03-29  02:00 → 03:00  02:30 does not exist: runs once, at 03:00",
        "  2026-10-25  03:00 → 02:00  02:30 happens twice: runs at the first only",
    ]
    assert explained.fires[0] == datetime(2026, 1, 1, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    assert [(change.shift, change.at.astimezone(UTC)) for change in explained.changes] == [
        (timedelta(hours=1), datetime(2026, 3, 29, 1, tzinfo=UTC)),
        (timedelta(hours=-1), datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ]


@pytest.mark.parametrize(
    ("spec", "spring", "autumn"),
    [
        ("0 9 * * *", "runs as usual", "runs as usual"),
        ("30 2 * * MON", "runs as usual", "runs as usual"),
        ("0 3 * * *", "runs as usual", "runs as usual"),
        (
            "0,30 2 * * *",
            "02:00, 02:30 do not exist: runs once, at 03:00",
            "02:00, 02:30 happen twice: runs at the first only",
        ),
        (
            "0/10 2 * * *",
            "02:00, 02:10, 02:20, … do not exist: runs once, at 03:00",
            "02:00, 02:10, 02:20, … happen twice: runs at the first only",
        ),
        (
            "15 30 2 * * *",
            "02:30:15 does not exist: runs once, at 03:00",
            "02:30:15 happens twice: runs at the first only",
        ),
        (
            "*/30 * * * *",
            "02:00 to 03:00 does not exist: nothing runs for it",
            "02:00 to 03:00 happens twice: runs in both",
        ),
        ("*/30 4 * * *", "runs as usual", "runs as usual"),
    ],
)
def test_days_on_which_clocks_change(spec: str, spring: str, autumn: str) -> None:
    explained = explain(spec, "Europe/Berlin", start=NEW_YEAR)

    assert [change.effect for change in explained.changes] == [spring, autumn]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("* * * * *", "every minute, every day"),
        ("*/15 * * * *", "every 15 minutes, every hour, every day"),
        ("*/15 9-17 * * MON-FRI", "every 15 minutes, hours 9 to 17, on Monday to Friday"),
        ("0,30 * * * *", "minutes 0 and 30, every hour, every day"),
        ("5/10 * * * *", "minutes 5, 15 … 55, every hour, every day"),
        ("5 */2 * * *", "minute 5, every 2 hours, every day"),
        ("0 3,15 * * *", "at 03:00 and 15:00, every day"),
        ("*/10 30 2 * * *", "every 10 seconds, minute 30, hour 2, every day"),
        ("15 30 2 * * *", "at 02:30:15, every day"),
        ("@daily", "at 00:00, every day"),
        ("0 0 1 JAN,MAR *", "at 00:00, on day 1 of the month, in January and March"),
        ("0 0 1-5,9 * *", "at 00:00, on days 1 to 5 and 9 of the month"),
        ("0 0 1,15 * *", "at 00:00, on days 1 and 15 of the month"),
        ("0 0 13 * FRI", "at 00:00, on day 13 of the month, or on Friday"),
        ("0 0 */2 * MON", "at 00:00, on days 1, 3 … 31 of the month if it is Monday"),
        ("0 0 L * *", "at 00:00, on the last day of the month"),
        ("0 0 15W * ?", "at 00:00, on the working day nearest to day 15 of the month"),
        ("0 0 ? * FRI#2", "at 00:00, on the second Friday of the month"),
        ("0 0 * * L1", "at 00:00, on the last Monday of the month"),
        ("0 0 1-31 * FRI", "at 00:00, every day"),
        ("@every 1h30m", "every 1h30m, counted from its start"),
    ],
)  # fmt: skip
def test_words(spec: str, words: str) -> None:
    assert explain(spec, start=NEW_YEAR).words == words


def test_an_interval_goes_on_from_its_start() -> None:
    explained = explain("@every 90m", "Europe/Berlin", start=NEW_YEAR, count=2)

    assert [fire.isoformat() for fire in explained.fires] == ["2026-01-01T02:30:00+01:00", "2026-01-01T04:00:00+01:00"]
    assert explained.changes == ()
    assert "clock changes" not in str(explained)


def test_a_zone_in_the_text_counts() -> None:
    explained = explain("TZ=Asia/Tokyo 30 2 * * *", "Europe/Berlin", start=NEW_YEAR)

    assert explained.timezone == "Asia/Tokyo"
    assert explained.fires[0].isoformat() == "2026-01-02T02:30:00+09:00"
    assert explained.changes == ()


def test_it_begins_now_by_default() -> None:
    before = datetime.now(UTC)

    explained = explain("* * * * *", count=1)

    assert before < explained.fires[0] <= datetime.now(UTC) + timedelta(minutes=1)
    assert len(explain("* * * * *").fires) == 5
    assert explain("* * * * *", count=0).fires == ()


def test_at_the_end_of_time_there_is_nothing_more() -> None:
    assert explain("0 0 1 1 *", start=datetime(9999, 12, 1, tzinfo=UTC)).fires == ()


@pytest.mark.search
@given(SPECS)
@settings(max_examples=examples(200))
def test_any_text_fits_the_page(spec: str) -> None:
    try:
        explained = explain(spec, "America/New_York", start=NEW_YEAR)
    except ScheduleError:
        return

    assert isinstance(explained, Explanation)
    assert max(map(len, str(explained).splitlines())) <= 80
    assert len(explained.changes) == 2
    assert list(explained.fires) == sorted(explained.fires)


def test_what_cannot_be_explained_is_refused() -> None:
    with pytest.raises(ScheduleError, match="minute 61 is not in 0-59"):
        explain("61 * * * *")
    with pytest.raises(ScheduleError, match="no such time zone"):
        explain("* * * * *", "Mars/Olympus")
    with pytest.raises(ScheduleError, match="no time zone"):
        explain("* * * * *", start=datetime(2026, 1, 1))  # noqa: DTZ001  # that is the point
    with pytest.raises(OptionError, match="count"):
        explain("* * * * *", count=-1)
    with pytest.raises(OptionError, match="count"):
        explain("* * * * *", count=10**9)
