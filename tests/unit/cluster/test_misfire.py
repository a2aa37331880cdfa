"""The outcome of nominal times that no leader fired in time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from peerjob.cluster.misfire import MAX_TOLERANCE_US, MIN_TOLERANCE_US, MisfireStep, next_step
from peerjob.model.definition import Definition
from peerjob.model.firing import FireOutcome
from peerjob.model.recurrence import recurrence_of
from support.leaders import Misfire

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
START = 1_782_864_000 * SECOND  # 2026-07-01 00:00 UTC

DEFINITIONS = st.builds(
    Definition,
    kind=st.just("k"),
    spec=st.just(b""),
    cron=st.sampled_from(["* * * * * *", "*/10 * * * * *", "* * * * *", "0,1 * * * *", "30 2 * * *", "0 0 29 2 *"]),
    timezone=st.sampled_from(["UTC", "Europe/Berlin"]),
    misfire=st.sampled_from(["skip", "run_once", "run_all"]),
    misfire_limit=st.integers(1, 20),
    start_deadline_us=st.none() | st.integers(1, 2 * HOUR),
) | st.builds(
    Definition,
    kind=st.just("k"),
    spec=st.just(b""),
    every_us=st.integers(100_000, 3 * HOUR),
    anchor_us=st.integers(START - HOUR, START),
    misfire=st.sampled_from(["skip", "run_once", "run_all"]),
    misfire_limit=st.integers(1, 20),
    start_deadline_us=st.none() | st.integers(1, 2 * HOUR),
)


def every(seconds: int, misfire: Misfire = "run_once", limit: int = 100, deadline: int | None = None) -> Definition:
    return Definition(
        kind="k",
        spec=b"",
        every_us=seconds * SECOND,
        anchor_us=START,
        misfire=misfire,
        misfire_limit=limit,
        start_deadline_us=None if deadline is None else deadline * SECOND,
    )


def steps_of(definition: Definition, next_us: int, now_us: int, slow_us: int = 0) -> list[MisfireStep]:
    """All that happens until everything that is due is accounted for; each step takes some time."""
    recurrence = recurrence_of(definition)
    steps: list[MisfireStep] = []
    at: int | None = next_us
    while at is not None and (step := next_step(definition, recurrence, at, now_us)) is not None:
        steps.append(step)
        at, now_us = step.next_us, now_us + slow_us
    return steps


def summary(steps: list[MisfireStep]) -> list[str]:
    """Steps as text: seconds since the start, and what became of them."""
    stretches = [((step.nominal_us - START) // SECOND, (step.until_us - START) // SECOND) for step in steps]
    return [
        f"{first}-{last} {step.outcome} {step.reason}".strip()
        for (first, last), step in zip(stretches, steps, strict=True)
    ]


@given(
    definition=DEFINITIONS,
    outage_us=st.integers(0, HOUR),
    slow_us=st.sampled_from([0, 7_000]),
)
def test_each_nominal_time_belongs_to_one_step(definition: Definition, outage_us: int, slow_us: int) -> None:
    recurrence = recurrence_of(definition)
    next_us = recurrence.next_after(START)
    assert next_us is not None
    steps = steps_of(definition, next_us, next_us + outage_us, slow_us)

    accounted = [time for step in steps for time in recurrence.times(step.nominal_us - 1, step.until_us)]
    last = steps[-1]
    assert accounted == list(recurrence.times(START, last.until_us))
    assert last.until_us <= next_us + outage_us + slow_us * len(steps)
    assert last.next_us is None or last.next_us > next_us + outage_us
    for step in steps:
        assert step.count == recurrence.count(step.nominal_us - 1, step.until_us)
        assert step.next_us == recurrence.next_after(step.until_us)
        assert (step.outcome is FireOutcome.FIRED) <= (step.count == 1)


@given(definition=DEFINITIONS, outage_us=st.integers(0, HOUR))
def test_policies_say_how_much_is_made_up_for(definition: Definition, outage_us: int) -> None:
    next_us = recurrence_of(definition).next_after(START)
    assert next_us is not None
    now_us = next_us + outage_us
    steps = steps_of(definition, next_us, now_us)

    fired = [step.nominal_us for step in steps if step.outcome is FireOutcome.FIRED]
    late = [time for time in fired if now_us - time > MIN_TOLERANCE_US]
    if definition.start_deadline_us is not None:
        assert all(now_us - time <= definition.start_deadline_us for time in fired)
    if definition.misfire == "skip":
        # only where times lie far apart
        assert all(now_us - time <= MAX_TOLERANCE_US for time in late)
        assert len(late) <= 1
    if definition.misfire == "run_once":
        assert len(late) <= 1
    if definition.misfire == "run_all":
        assert len(late) <= definition.misfire_limit + 1
    if definition.misfire != "skip" and definition.start_deadline_us is None:
        assert fired


@given(definition=DEFINITIONS, odd_us=st.integers(0, HOUR), outage_us=st.integers(0, 2 * HOUR))
def test_each_step_continues_from_the_stored_time(definition: Definition, odd_us: int, outage_us: int) -> None:
    """As after an update of the time zones: the stored next time need be no nominal time here."""
    recurrence = recurrence_of(definition)
    at, now_us = START + odd_us, START + odd_us + outage_us
    for step in steps_of(definition, at, now_us):
        assert step.nominal_us == at
        assert step.nominal_us <= step.until_us <= now_us
        assert step.count == 1 + recurrence.count(step.nominal_us, step.until_us)
        assert step.next_us == recurrence.next_after(step.until_us)
        at = step.next_us or 0
    assert at == 0 or at > now_us


@given(definition=DEFINITIONS, slow_us=st.integers(0, MIN_TOLERANCE_US))
def test_a_leader_that_is_a_little_slow_misses_nothing(definition: Definition, slow_us: int) -> None:
    recurrence = recurrence_of(definition)
    next_us = recurrence.next_after(START)
    assert next_us is not None
    if definition.start_deadline_us is None or slow_us <= definition.start_deadline_us:
        step = next_step(definition, recurrence, next_us, next_us + slow_us)
        assert step is not None
        assert (step.outcome, step.nominal_us, step.count) == (FireOutcome.FIRED, next_us, 1)


@given(definition=DEFINITIONS, early_us=st.integers(1, HOUR))
def test_nothing_is_done_before_its_time(definition: Definition, early_us: int) -> None:
    assert next_step(definition, recurrence_of(definition), START, START - early_us) is None


@pytest.mark.parametrize(
    ("definition", "now", "expected"),
    [
        # every 10 s and 35 s after the first time: 40 is half a second old, the others are late
        (every(10, "skip"), 40.5, ["10-30 missed misfire skip", "40-40 fired"]),
        (every(10, "run_once"), 40.5, ["10-30 coalesced", "40-40 fired"]),
        (every(10, "run_all"), 40.5, ["10-10 fired", "20-20 fired", "30-30 fired", "40-40 fired"]),
        (every(10, "run_all", 2), 40.5, ["10-10 missed misfire limit", "20-20 fired", "30-30 fired", "40-40 fired"]),
        # 40 is late, too
        (every(10, "skip"), 46, ["10-40 missed misfire skip"]),
        (every(10, "run_once"), 46, ["10-30 coalesced", "40-40 fired"]),
        (every(10, "run_all", 1), 46, ["10-30 missed misfire limit", "40-40 fired"]),
        # a deadline comes before the policy
        (every(10, "run_once", deadline=20), 46, ["10-20 missed start deadline", "30-30 coalesced", "40-40 fired"]),
        (every(10, "run_all", deadline=20), 46, ["10-20 missed start deadline", "30-30 fired", "40-40 fired"]),
        (every(10, "run_all", deadline=1), 46, ["10-40 missed start deadline"]),
        (every(10, "run_once", deadline=20), 40, ["10-10 missed start deadline", "20-30 coalesced", "40-40 fired"]),
    ],
)
def test_an_outage_by_policy(definition: Definition, now: float, expected: list[str]) -> None:
    steps = steps_of(definition, START + 10 * SECOND, START + round(now * SECOND))
    assert summary(steps) == expected


@pytest.mark.parametrize("late", [6, 59])
def test_an_hourly_job_is_on_time_for_as_long_as_a_failover_takes(late: int) -> None:
    steps = steps_of(every(3600, "skip"), START + HOUR, START + HOUR + late * SECOND)
    assert summary(steps) == ["3600-3600 fired"]


def test_an_hourly_job_is_late_after_a_minute() -> None:
    steps = steps_of(every(3600, "skip"), START + HOUR, START + HOUR + MINUTE + 1)
    assert summary(steps) == ["3600-3600 missed misfire skip"]


def test_a_time_that_the_recurrence_no_longer_knows_is_accounted_for() -> None:
    """As after an update of the time zones: the stored next time is no nominal time here."""
    odd_us = START + 13 * SECOND
    assert summary(steps_of(every(10), odd_us, odd_us)) == ["13-13 fired"]
    assert summary(steps_of(every(10), odd_us, START + 41 * SECOND)) == ["13-30 coalesced", "40-40 fired"]
    assert summary(steps_of(every(10), odd_us, START + 18 * SECOND)) == ["13-13 fired"]
    (step,) = steps_of(every(10, "skip"), odd_us, START + 37 * SECOND)
    assert (step.count, step.until_us) == (3, START + 30 * SECOND)


@pytest.mark.parametrize(("misfire", "outcome"), [("skip", FireOutcome.MISSED), ("run_once", FireOutcome.COALESCED)])
def test_all_times_of_the_last_second_are_on_time(misfire: Misfire, outcome: FireOutcome) -> None:
    tenth = SECOND // 10
    definition = structs.replace(every(1, misfire), every_us=tenth)
    step = next_step(definition, recurrence_of(definition), START, START + 5 * SECOND)
    assert step is not None
    first_timely = START + 5 * SECOND - MIN_TOLERANCE_US
    assert (step.outcome, step.until_us, step.next_us) == (outcome, first_timely - tenth, first_timely)
    assert step.count == (first_timely - START) // tenth
