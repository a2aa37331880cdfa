"""Cron texts that are read, and the words in which others are refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerjob.model.cron.text import MAX_TEXT, CronText, EveryText, read_cron
from peerjob.model.errors import ScheduleError
from support.effort import least_seconds
from support.searches import examples


def read(spec: str) -> CronText:
    text = read_cron(spec)
    assert isinstance(text, CronText)
    return text


@pytest.mark.parametrize(
    ("minute", "expected"),
    [
        ("*", list(range(60))), ("5", [5]), ("05", [5]), ("1,3,5", [1, 3, 5]), ("10-12", [10, 11, 12]),
        ("*/20", [0, 20, 40]),
        ("10-30/10", [10, 20, 30]), ("50/5", [50, 55]), ("*/90", [0]), ("59/15", [59]), ("*/20,5", [0, 5, 20, 40]),
        ("58-1", [0, 1, 58, 59]), ("5-5", [5]), ("05-5", [5]), ("7-7/2", [7]), ("*,5", list(range(60))), ("1,1,1", [1]),
    ],
)  # fmt: skip
def test_a_field_names_numbers(minute: str, expected: list[int]) -> None:
    assert read(f"{minute} * * * *").times.minutes == expected
    assert read(f"{minute} 0 0 * * *").times.seconds == expected


@pytest.mark.parametrize(
    ("weekday", "expected"),
    [
        ("0", {0}), ("7", {0}), ("SUN", {0}), ("sun", {0}), ("Mon-Fri", {1, 2, 3, 4, 5}), ("5-7", {0, 5, 6}),
        ("FRI-MON", {0, 1, 5, 6}),
        ("0-7", {0, 1, 2, 3, 4, 5, 6}), ("*/2", {0, 2, 4, 6}), ("?", {0, 1, 2, 3, 4, 5, 6}), ("TUE,THU", {2, 4}),
        ("MON-MON", {1}),
    ],
)  # fmt: skip
def test_weekdays_have_names(weekday: str, expected: set[int]) -> None:
    assert read(f"0 0 * * {weekday}").days.weekdays == expected


def test_months_have_names() -> None:
    assert read("0 0 1 jan,MAR-May,12 *").days.months == {1, 3, 4, 5, 12}
    assert read("0 0 1 NOV-FEB *").days.months == {1, 2, 11, 12}
    assert read("0 0 1 JAN-1 *").days.months == {1}
    assert read("0 0 1 DEC/3 *").days.months == {12}


def test_special_days_mix_with_others() -> None:
    days = read("0 0 1,15W,L * 1,5#2,L3,THUL").days

    assert days.last
    assert [days.days, days.nearest, days.weekdays, days.last_weekdays] == [{1}, {15}, {1}, {3, 4}]
    assert days.nth == {(5, 2)}
    assert read("0 0 * * MON-WED#1").days.nth == {(1, 1), (2, 1), (3, 1)}
    assert read("0 0 15W * *").days == read("0 0 w15 * *").days


@pytest.mark.parametrize("spec", ["0 0 * * 5", "0 0 */2 * 5", "0 0 1 * *", "0 0 1 * */2", "0 0 ? * 5", "0 0 1 * ?"])
def test_a_day_field_that_begins_with_a_star_makes_both_count(spec: str) -> None:
    assert read(spec).days.both
    assert not read("0 0 1 * 5").days.both
    assert not read("0 0 1-31 * 5").days.both


@pytest.mark.parametrize(
    ("spec", "fixed"),
    [
        ("30 2 * * *", True), ("0,30 2-4 * * *", True), ("0-59 2 * * *", True), ("*/10 30 2 * * *", True),
        ("0/15 2 * * *", True),
        ("*/30 2 * * *", False), ("30 * * * *", False), ("30 */2 * * *", False), ("* * * * *", False),
        ("@hourly", False), ("@daily", True),
    ],
)  # fmt: skip
def test_a_fixed_time_has_no_star_in_hour_and_minute(spec: str, fixed: bool) -> None:
    assert read(spec).fixed is fixed


@pytest.mark.parametrize(
    ("alias", "spec"),
    [
        ("@yearly", "0 0 1 1 *"), ("@annually", "0 0 1 1 *"), ("@monthly", "0 0 1 * *"), ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"), ("@midnight", "0 0 * * *"), ("@hourly", "0 * * * *"), ("@Daily", "0 0 * * *"),
        (" @HOURLY ", "0 * * * *"),
    ],
)  # fmt: skip
def test_an_alias_stands_for_fields(alias: str, spec: str) -> None:
    assert read(alias).fields == read(spec).fields


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        ("@every 5s", 5), ("@every 1h30m", 5400), ("@EVERY 1h30m10s", 5410), ("@every 1.5h", 5400),
        ("@every 250ms", 0.25),
        ("@every PT1H", 3600), ("@every 90", 90), ("TZ=Europe/Berlin @every 1m", 60), ("@every 1h 30m", 5400),
        ("@every 10ms", 0.01),
    ],
)  # fmt: skip
def test_every_takes_a_duration(spec: str, seconds: float) -> None:
    text = read_cron(spec)

    assert isinstance(text, EveryText)
    assert text.every_us == round(seconds * 1_000_000)


@pytest.mark.parametrize("prefix", ["TZ=Europe/Berlin ", "CRON_TZ=Europe/Berlin\t", "  cron_tz=Europe/Berlin   "])
def test_a_zone_may_stand_before_it(prefix: str) -> None:
    text = read(f"{prefix}30 2 * * *")

    assert text.zone == "Europe/Berlin"
    assert text.text == "30 2 * * *"
    assert read(" 30  2\t* * *\n").zone is None
    assert read(f"{prefix}@daily").text == "@daily"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("61 * * * *", "minute 61 is not in 0-59"),
        ("5,10,75 * * * *", "minute 75 is not in 0-59"),
        ("0-60 * * * *", "minute 60 is not in 0-59"),
        ("60 0 0 * * *", "second 60 is not in 0-59"),
        ("0 24 * * *", "hour 24 is not in 0-23"),
        ("0 0 0 * *", "day of month 0 is not in 1-31"),
        ("0 0 32W * *", "day of month 32 is not in 1-31"),
        ("0 0 1 13 *", "month 13 is not in 1-12"),
        ("0 0 1 0 *", "month 0 is not in 1-12"),
        ("0 0 * * 8", "day of week 8 is not in 0-7"),
        ("0 0 * * 8#1", "day of week 8 is not in 0-7"),
        ("0 0 * * 9L", "day of week 9 is not in 0-7"),
        ("1-99999999999 * * * *", "minute 99999999999 is not in 0-59"),
        ("*/0 * * * *", r"minute \*/0 has a step of 0"),
        ("0 0 1-5/0 * *", "day of month 1-5/0 has a step of 0"),
        ("5-5/0 * * * *", "minute 5-5/0 has a step of 0"),
        ("59/00 * * * *", "minute 59/00 has a step of 0"),
        ("x * * * *", r"minute 'X' is none of \*, numbers, ranges such as 10-20"),
        ("JAN * * * *", "minute 'JAN' is none of"),
        ("0 0 1 FOO *", "month 'FOO' is none of .* JAN to DEC"),
        ("0 0 * * JAN", "day of week 'JAN' is none of .* SUN to SAT"),
        ("0 0 LW * *", "day of month 'LW' is none of .* L .the last day.* 15W"),
        ("0 0 L-3 * *", "day of month 'L-3' is none of"),
        ("0 0 L-XY * *", "day of month 'L-XY' is none of"),
        ("0 0 L-L * *", "day of month 'L-L' is none of"),
        ("0 0 * L *", "month 'L' is none of"),
        ("0 0 * * L", "day of week 'L' is none of"),
        ("0 0 * * MON#6", "day of week 'MON#6' is none of"),
        ("0 0 * * MON#0", "day of week 'MON#0' is none of"),
        ("? * * * *", r"minute '\?' is none of"),
        ("-5 * * * *", "minute '-5' is none of"),
        ("1- * * * *", "minute '1-' is none of"),
        ("1,,2 * * * *", "minute '' is none of"),
        (", * * * *", "minute '' is none of"),
        ("5/ * * * *", "minute '5/' is none of"),
        ("1/2/3 * * * *", "minute '1/2/3' is none of"),
        ("1.5 * * * *", "minute '1.5' is none of"),
        ("+5 * * * *", r"minute '\+5' is none of"),
        ("٣ * * * *", "minute '٣' is none of"),
        ("\uff15 * * * *", "minute '\uff15' is none of"),
        ("\x00 * * * *", "minute '\\\\x00' is none of"),
        # what croniter fills in at random would differ from node to node
        ("H * * * *", "minute 'H' is none of"),
        ("R * * * *", "minute 'R' is none of"),
        ("H/5 * * * *", "minute 'H/5' is none of"),
        ("R(1-5) * * * *", r"minute 'R\(1-5\)' is none of"),
        ("", "0 fields; expected five fields .minute, hour"),
        ("* * * *", "4 fields; expected five fields"),
        ("0 0 0 1 1 * 2026", "7 fields; expected five fields"),
        ("TZ=UTC", "1 field;"),
        ("@reboot", "expected five fields"),
        ("@daily @daily", "expected five fields"),
        ("@daily 5", "expected five fields"),
        ("@", "expected five fields"),
        ("@every", 'expected a duration such as "5s"'),
        ("@every soon", 'expected a duration such as "5s"'),
        ("@every -5s", 'expected a duration such as "5s"'),
        ("@every 0s", "an interval of at least 10 ms"),
        ("@every 1ms", "an interval of at least 10 ms"),
        ("@every 1e300", 'expected a duration such as "5s"'),
        ("0 0 31 2 *", r"never fires, there is no day with day of month 31, month 2 and day of week \*"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("0 0 30,31 FEB *", "never fires"),
        ("0 0 */31 * 1#2", "never fires"),
    ],
)
def test_others_are_refused_with_the_reason(spec: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message) as caught:
        read_cron(spec)

    assert str(caught.value).startswith(f"cron={spec!r}: ")


def test_an_impossible_day_is_no_matter_where_the_weekday_is_enough() -> None:
    assert read("0 0 31 2 MON").days.ever


@pytest.mark.parametrize("given", [None, 5, b"* * * * *", ["*"], object()])
def test_it_must_be_text(given: object) -> None:
    with pytest.raises(ScheduleError, match="expected five fields"):
        read_cron(given)


@pytest.mark.parametrize(
    "spec",
    [
        "*" * 10_000, "* " * 5_000, "1," * 5_000 + " * * * *", f"{'9' * 900} * * * *", f"*/{'9' * 900} * * * *",
        "\x00" * 10_000,
        "1-" * 400 + " * * * *", "*/" * 400 + " * * * *", "L" * 900, "@every " + "1h" * 4_000,
        "TZ=" + "a" * 900 + " * * * * *",
        "MON-FRI#" * 100, "0 0 * * " + "#1" * 400, ",".join(["0-59/1"] * 130) + " * * * *", "@every " + "9" * 900,
    ],
)  # fmt: skip
def test_hostile_texts_are_dealt_with_at_once(spec: str) -> None:
    messages: set[str] = set()

    def read_or_refuse() -> None:
        try:
            read_cron(spec)
        except ScheduleError as error:
            messages.add(str(error))

    assert least_seconds(read_or_refuse) < 0.05
    assert all(len(message) < 5 * MAX_TEXT for message in messages)


@pytest.mark.search
@given(st.text(st.sampled_from("0123456789*/-,LW#?HR@ \tTZ=MONJAN\x00é٣"), max_size=60))
@settings(max_examples=examples(500))
def test_any_text_is_read_or_refused(spec: str) -> None:
    try:
        text = read_cron(spec)
    except ScheduleError:
        return
    if isinstance(text, CronText):
        assert text.days.ever
        assert text.times.total > 0


@pytest.mark.search
@given(
    st.tuples(*[st.text(st.sampled_from("0123456789*/-,LW#?FRIMOND"), min_size=1, max_size=6) for _ in range(5)]).map(
        " ".join
    )
)
@settings(max_examples=examples(500))
def test_any_fields_are_read_or_refused(spec: str) -> None:
    try:
        text = read(spec)
    except ScheduleError:
        return
    assert text.days.ever
