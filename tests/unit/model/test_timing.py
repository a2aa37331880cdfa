"""The options of a job that say when it runs."""

from datetime import timedelta
from typing import Any

import pytest

from peerjob import Jitter, Job, OptionError, ScheduleError
from peerjob.model.firing import Overlap
from peerjob.model.timing import NOW, Timing


def timing(**options: Any) -> Timing:
    return Job("report", lambda: None, **options).timing


def test_a_recurrence_has_defaults() -> None:
    assert timing(cron="30 2 * * *") == Timing(
        cron="30 2 * * *",
        every_us=None,
        timezone=None,
        jitter_us=0,
        hashed=False,
        overlap=Overlap.SKIP,
        queue_limit=1,
        misfire="run_once",
        misfire_limit=100,
        start_deadline_us=None,
    )
    assert timing(cron="30 2 * * *").recurs
    assert timing(every="5s").recurs
    assert timing() is NOW
    assert not NOW.recurs


def test_every_option_is_taken() -> None:
    assert timing(
        every="1h30m", timezone="Europe/Berlin", jitter="5m", overlap="queue", queue_limit=7,
        misfire="run_all", misfire_limit=50, start_deadline=timedelta(hours=1),
    ) == Timing(
        every_us=5_400_000_000, timezone="Europe/Berlin", jitter_us=300_000_000, overlap=Overlap.QUEUE, queue_limit=7,
        misfire="run_all", misfire_limit=50, start_deadline_us=3_600_000_000,
    )  # fmt: skip


@pytest.mark.parametrize("spec", ["@every 5s", "@EVERY 5s", "TZ=Europe/Berlin @every 5s"])
def test_every_as_cron_text_is_an_interval(spec: str) -> None:
    one = timing(cron=spec)

    assert (one.cron, one.every_us) == (None, 5_000_000)


def test_a_zone_before_the_text_is_the_zone() -> None:
    assert timing(cron="CRON_TZ=Europe/Berlin @daily") == Timing(cron="@daily", timezone="Europe/Berlin")
    assert timing(cron="TZ=Europe/Berlin @daily", timezone="Europe/Berlin").timezone == "Europe/Berlin"


def test_jitter_is_random_or_hashed() -> None:
    assert (timing(every=60, jitter=2.5).jitter_us, timing(every=60, jitter=2.5).hashed) == (2_500_000, False)
    assert timing(every=60, jitter=Jitter.random("5m")) == timing(every=60, jitter="5m")
    assert timing(every=60, jitter=Jitter.hashed("5m")) == Timing(
        every_us=60_000_000, jitter_us=300_000_000, hashed=True
    )
    assert Jitter.hashed("5m") == Jitter.hashed(300) != Jitter.random(300)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cron": "61 * * * *"}, "cron='61 . . . .': minute 61 is not in 0-59"),
        ({"cron": "0 0 31 2 *"}, "never fires"),
        ({"cron": ""}, "expected five fields"),
        ({"cron": 5}, "expected five fields"),
        ({"cron": "* * * * *", "every": 5}, "cron= and every= exclude one another"),
        ({"cron": "* * * * *", "after": 5}, "after= and cron= exclude one another"),
        ({"cron": "@daily", "timezone": "Mars/Olympus"}, "timezone='Mars/Olympus': no such time zone"),
        ({"cron": "TZ=Mars/Olympus @daily"}, "cron='TZ=Mars/Olympus @daily': TZ='Mars/Olympus': no such time zone"),
        ({"cron": "TZ=Europe/Berlin @daily", "timezone": "UTC"}, "TZ=Europe/Berlin and timezone='UTC' differ"),
        ({"every": 0}, "every=0: expected a duration over zero"),
        ({"every": "5ms"}, "every='5ms': expected an interval of at least 10 ms"),
        ({"every": -1}, "every: expected a duration of zero or more"),
        ({"cron": "@every 5ms"}, "cron='@every 5ms': expected an interval of at least 10 ms"),
        ({"every": 5, "jitter": -1}, "jitter: expected a duration of zero or more"),
        ({"every": 5, "jitter": "soon"}, "jitter: expected a duration"),
        ({"every": 5, "overlap": "wait"}, "overlap='wait': expected one of 'allow', 'skip', 'queue', 'replace'"),
        ({"every": 5, "misfire": "all"}, "misfire='all': expected one of 'skip', 'run_once', 'run_all'"),
        ({"every": 5, "queue_limit": 0}, "queue_limit=0: expected a whole number from 1 to 100"),
        ({"every": 5, "queue_limit": 101}, "queue_limit=101: expected a whole number from 1 to 100"),
        ({"every": 5, "queue_limit": True}, "queue_limit=True: expected a whole number"),
        ({"every": 5, "misfire_limit": 0}, "misfire_limit=0: expected a whole number from 1 to 10,000"),
        ({"every": 5, "misfire_limit": 1.5}, "misfire_limit=1.5: expected a whole number"),
        ({"every": 5, "start_deadline": 0}, "start_deadline=0: expected a duration over zero"),
    ],
)
def test_what_cannot_be_used_is_refused_where_it_is_given(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Job("report", lambda: None, **options)
    with pytest.raises(ScheduleError, match=message):
        Job("report", lambda: None).with_options(**options)


@pytest.mark.parametrize("limit", [-1, "soon", None])
def test_jitter_must_be_a_duration(limit: Any) -> None:
    with pytest.raises(ScheduleError, match="jitter"):
        Jitter.hashed(limit)
    with pytest.raises(ScheduleError, match="jitter"):
        Jitter.random(limit)


def test_jitter_may_be_longer_than_the_interval() -> None:
    assert timing(every="1s", jitter="1h").jitter_us == 3_600_000_000


def test_options_of_a_recurrence_may_stand_without_one() -> None:
    job = Job("report", lambda: None, overlap="queue", queue_limit=3, misfire="skip", jitter=Jitter.hashed(5))
    variant = job.with_options(cron="0 2 * * *")

    assert not job.timing.recurs
    assert variant.timing == Timing(
        cron="0 2 * * *", overlap=Overlap.QUEUE, queue_limit=3, misfire="skip", jitter_us=5_000_000, hashed=True
    )
    with pytest.raises(ScheduleError, match="overlap"):
        timing(overlap="wait")


def test_a_variant_gets_another_recurrence() -> None:
    job = Job("report", lambda: None, cron="0 2 * * *", timezone="Europe/Berlin")

    assert job.with_options(every=5).timing == Timing(every_us=5_000_000, timezone="Europe/Berlin")
    assert job.with_options(cron="0 3 * * *").timing.cron == "0 3 * * *"
    with pytest.raises(ScheduleError, match="TZ=UTC and timezone='Europe/Berlin' differ"):
        job.with_options(cron="TZ=UTC 0 3 * * *")


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(OptionError, match="misfire_limt"):
        timing(misfire_limt=5)
