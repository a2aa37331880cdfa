"""Quantiles of durations, and the sum of the kinds."""

from datetime import UTC, datetime, timedelta

import pytest

from peerjob import Activity, Distribution, KindActivity, OptionError
from peerjob.model.activity import given_minutes

BUCKETS = len(Distribution.BOUNDS) + 1


def counted(**bounds: int) -> Distribution:
    """A distribution with counts by bucket number, as in b3=10."""
    given = {int(name[1:]): count for name, count in bounds.items()}
    return Distribution(tuple(given.get(number, 0) for number in range(BUCKETS)))


def test_an_empty_distribution_has_no_quantile() -> None:
    assert Distribution().total == 0
    assert Distribution().p50 is None
    assert Distribution().quantile(1) is None


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    durations = counted(b3=50, b6=50)  # 50 of 5 to 10 ms, 50 of 50 to 100 ms
    assert durations.quantile(0.25) == pytest.approx(0.0075)
    assert durations.p50 == pytest.approx(0.010)
    assert durations.p95 == pytest.approx(0.095)
    assert durations.quantile(0) == pytest.approx(0.005)
    assert durations.quantile(1) == pytest.approx(0.1)


def test_the_first_bucket_begins_at_zero_and_the_last_one_ends_at_the_last_bound() -> None:
    assert counted(b0=10).p50 == pytest.approx(0.0005)
    assert counted(b20=10).p50 == 3600.0


@pytest.mark.parametrize("share", [-0.1, 1.1, 95, float("nan")])
def test_a_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(OptionError, match="q: expected a share from 0 to 1"):
        Distribution().quantile(share)


@pytest.mark.parametrize("minutes", [0, 61, -1, 1.5, True, "5", None])
def test_minutes_outside_the_last_hour_are_refused(minutes: object) -> None:
    with pytest.raises(OptionError, match="minutes: expected a number from 1 to 60"):
        given_minutes(minutes)


def test_the_total_is_the_sum_of_all_kinds_and_of_the_others() -> None:
    none = (0, 0)
    activity = Activity(
        start=datetime(2026, 1, 1, tzinfo=UTC),
        step=timedelta(seconds=10),
        kinds={
            "a": KindActivity(
                started=(1, 2), completed=(1, 0), failed=none, retried=(0, 1), cancelled=none, durations=counted(b0=2)
            ),
            "b": KindActivity(started=(5, 0), completed=(4, 0), failed=(0, 1), retried=none, cancelled=none),
        },
        others=KindActivity(
            started=(7, 7), completed=none, failed=none, retried=none, cancelled=(3, 0), durations=counted(b0=1, b20=1)
        ),
    )

    assert activity.times == [activity.start, activity.start + timedelta(seconds=10)]
    total = activity.total
    assert (total.started, total.completed, total.failed) == ((13, 9), (5, 0), (0, 1))
    assert (total.retried, total.cancelled) == ((0, 1), (3, 0))
    assert total.durations == counted(b0=3, b20=1)
    assert total.waits.total == 0
