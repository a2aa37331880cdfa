"""The activity of a namespace in the last hour: runs per kind in steps of ten seconds, with their durations.

`activity = await manager.activity(minutes=60)`, of a node or a client, has

* `activity.start`, `activity.step`, `activity.times`: when the steps begin; 60 minutes have 360 steps of 10 s;
* `activity.total.completed`: one number for each step, the earliest first, such as `(0, 3, 12)`;
* `activity.kinds["mail.send"].failed`: the same of one kind; the other series have the same length;
* `activity.kinds["mail.send"].durations.p95`: seconds, over all steps; None if nothing ran;
* `activity.others`: the sum of the kinds that have no row of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import ClassVar

from .errors import OptionError

MAX_ACTIVITY_MINUTES = 60
"""How far back the activity reaches."""


def given_minutes(minutes: object) -> int:
    """The minutes; raises OptionError for a number of minutes that the activity does not cover."""
    if isinstance(minutes, bool) or not isinstance(minutes, int) or not 1 <= minutes <= MAX_ACTIVITY_MINUTES:
        raise OptionError("minutes", minutes, f"a number from 1 to {MAX_ACTIVITY_MINUTES}")
    return minutes


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many times were within each of some bounds, such as the durations of runs."""

    BOUNDS: ClassVar[tuple[float, ...]] = (
        *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
        *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
    )
    """Upper bounds of the buckets, in seconds. They are stored nowhere, so they must not change."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    """The number of times of each bucket; the last bucket has no upper bound."""

    @property
    def total(self) -> int:
        """The number of all times."""
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """The time in seconds that a share `q` (0 to 1) of all times does not exceed; None if there is no time.

        It is interpolated within a bucket. A time above the last bound counts as the last bound.
        """
        if not 0 <= q <= 1:
            raise OptionError("q", q, "a share from 0 to 1, such as 0.95")
        total = self.total
        if not total:
            return None
        rank, below = q * total, 0
        for count, lower, upper in zip(self.counts, (0.0, *self.BOUNDS), self.BOUNDS, strict=False):
            if count and below + count >= rank:
                return lower + (upper - lower) * (rank - below) / count
            below += count
        return self.BOUNDS[-1]

    @property
    def p50(self) -> float | None:
        """The median, in seconds; None if there is no time."""
        return self.quantile(0.5)

    @property
    def p95(self) -> float | None:
        """The time in seconds that 95 % do not exceed; None if there is no time."""
        return self.quantile(0.95)


_NONE = Distribution()


@dataclass(frozen=True, kw_only=True, slots=True)
class KindActivity:
    """What happened to the instances of one kind, or of several: a number for each step, the earliest first."""

    started: tuple[int, ...] = ()
    """Claims for a run. A claim that is handed back before its body begins counts, too."""
    completed: tuple[int, ...] = ()
    """Instances that became Completed."""
    failed: tuple[int, ...] = ()
    """Instances that became Terminated or TimedOut."""
    retried: tuple[int, ...] = ()
    """Attempts that failed, and after which the instance runs again."""
    cancelled: tuple[int, ...] = ()
    """Instances that became Cancelled."""
    durations: Distribution = _NONE
    """Run times of the bodies that ended, over all steps."""
    waits: Distribution = _NONE
    """Times from due to claimed, over all steps."""


@dataclass(frozen=True, kw_only=True)
class Activity:
    """The runs of a namespace over some minutes, as the nodes have counted them."""

    start: datetime
    """When the first step began, by the clock of the store."""
    step: timedelta
    kinds: Mapping[str, KindActivity]
    """The 200 busiest kinds, in alphabetical order; a kind of which nothing ran is absent."""
    others: KindActivity
    """The sum of all other kinds. In each step, only the 200 busiest kinds are counted one by one."""

    @property
    def times(self) -> list[datetime]:
        """When each step began."""
        return [self.start + number * self.step for number in range(len(self.others.started))]

    @cached_property
    def total(self) -> KindActivity:
        """The sum of all kinds."""
        return _sum((*self.kinds.values(), self.others))


def _sum(rows: Iterable[KindActivity]) -> KindActivity:
    rows = list(rows)
    return KindActivity(
        started=_added(row.started for row in rows),
        completed=_added(row.completed for row in rows),
        failed=_added(row.failed for row in rows),
        retried=_added(row.retried for row in rows),
        cancelled=_added(row.cancelled for row in rows),
        durations=Distribution(_added(row.durations.counts for row in rows)),
        waits=Distribution(_added(row.waits.counts for row in rows)),
    )


def _added(series: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*series, strict=True)))
