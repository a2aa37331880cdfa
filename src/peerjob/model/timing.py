"""Options for the time of a run: at a time, after a delay, or with a recurrence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast
from zoneinfo import ZoneInfo

from .arguments import check_fields, whole_number
from .clock import to_us
from .cron.text import MIN_EVERY_US, CronText, EveryText, read_cron
from .cron.zones import zone_named
from .definition import DEFAULT_MISFIRE_LIMIT, DEFAULT_QUEUE_LIMIT
from .durations import MAX_SECONDS, Duration, to_seconds
from .errors import ScheduleError
from .firing import Overlap
from .printable import shown

MAX_QUEUE_LIMIT = 100
MAX_MISFIRE_LIMIT = 10_000


@dataclass(frozen=True)
class Jitter:
    """Delay of fires after their nominal times. Make it with `hashed` or `random`."""

    limit_us: int
    """Longest jitter in microseconds. The shortest is 0."""
    by_name: bool
    """Whether a hash of the schedule's name gives the jitter. If False, the jitter is random."""

    def __post_init__(self) -> None:
        check_fields(self, Jitter)
        whole_number("limit_us", self.limit_us, 0, MAX_SECONDS * 1_000_000)

    @classmethod
    def hashed(cls, limit: Duration) -> Jitter:
        """A fixed delay per schedule, by a hash of its name, so that many schedules of one cron text spread evenly.

        Raises ScheduleError for an invalid duration.
        """
        return cls(_positive_us("jitter", limit, zero=True), by_name=True)

    @classmethod
    def random(cls, limit: Duration) -> Jitter:
        """A new random delay for each fire. A plain Duration as `jitter=` means the same.

        Raises ScheduleError for an invalid duration.
        """
        return cls(_positive_us("jitter", limit, zero=True), by_name=False)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One run: now (the default), `at` a time or `after` a delay. Or a recurrence: `cron` or `every`.

    Options of a recurrence are kept even without one, since a variant of the job may add it.
    """

    at_us: int | None = None
    after_us: int | None = None
    cron: str | None = None
    """The cron text without its zone, which `timezone` holds. For `@every`, `every_us` holds the interval instead."""
    every_us: int | None = None
    timezone: str | None = None
    """Name of the time zone; None: the node's time zone."""
    jitter_us: int = 0
    hashed: bool = False
    draw_jitter: Callable[[], Duration] | None = None
    """A function that returns the jitter of one run, used instead of `jitter_us`."""
    overlap: Overlap = Overlap.SKIP
    queue_limit: int = DEFAULT_QUEUE_LIMIT
    misfire: Literal["skip", "run_once", "run_all"] = "run_once"
    misfire_limit: int = DEFAULT_MISFIRE_LIMIT
    start_deadline_us: int | None = None

    @property
    def recurs(self) -> bool:
        """Whether this is a recurrence, which makes a schedule and not one instance."""
        return self.cron is not None or self.every_us is not None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Timing:
        """Read the timing from a job's options; raises ScheduleError for a bad value or combination."""
        given = [name for name in ("at", "after", "cron", "every") if options.get(name) is not None]
        if len(given) > 1:
            raise ScheduleError(f"{' and '.join(f'{name}=' for name in given)} exclude one another")
        if not options.keys() & TIMING_OPTIONS:
            return NOW
        timezone = options.get("timezone")
        zone = None if "timezone" not in options else zone_named(timezone)
        read = read_cron(options["cron"]) if options.get("cron") is not None else None
        if isinstance(read, CronText) and read.zone is not None:
            timezone = _one_zone(options["cron"], read.zone, timezone)
        draw, jitter = _jitter(options.get("jitter", 0))
        return cls(
            at_us=None if options.get("at") is None else to_us(_aware(options["at"], zone)),
            after_us=None if options.get("after") is None else _positive_us("after", options["after"], zero=True),
            cron=read.text if isinstance(read, CronText) else None,
            every_us=_every_us(read, options.get("every")),
            timezone=timezone,
            jitter_us=jitter.limit_us,
            hashed=jitter.by_name,
            draw_jitter=draw,
            overlap=Overlap(_one_of("overlap", options.get("overlap", "skip"), ("allow", "skip", "queue", "replace"))),
            queue_limit=_limit("queue_limit", options.get("queue_limit", DEFAULT_QUEUE_LIMIT), MAX_QUEUE_LIMIT),
            misfire=_one_of("misfire", options.get("misfire", "run_once"), ("skip", "run_once", "run_all")),
            misfire_limit=_limit(
                "misfire_limit", options.get("misfire_limit", DEFAULT_MISFIRE_LIMIT), MAX_MISFIRE_LIMIT
            ),
            start_deadline_us=(
                None
                if options.get("start_deadline") is None
                else _positive_us("start_deadline", options["start_deadline"])
            ),
        )


NOW = Timing()
TIMING_OPTIONS = frozenset(
    {"at", "after", "cron", "every", "timezone", "jitter", "overlap", "queue_limit"}
    | {"misfire", "misfire_limit", "start_deadline"}
)


def _one_zone(cron: str, prefix: str, timezone: str | None) -> str:
    zone_named(prefix, f"cron={cron!r}: TZ")
    if timezone is not None and timezone != prefix:
        raise ScheduleError(f"cron={cron!r}: TZ={prefix} and timezone={timezone!r} differ; give one of them")
    return prefix


def _every_us(read: CronText | EveryText | None, given: object) -> int | None:
    if isinstance(read, EveryText):
        return read.every_us
    if given is None:
        return None
    every = _positive_us("every", given)
    if every < MIN_EVERY_US:
        raise ScheduleError(f"every={shown(given)}: expected an interval of at least {MIN_EVERY_US // 1000} ms")
    return every


def _jitter(given: Any) -> tuple[Callable[[], Duration] | None, Jitter]:
    if isinstance(given, Jitter):
        return None, given
    if callable(given):
        return cast("Callable[[], Duration]", given), Jitter(0, by_name=False)
    return None, Jitter.random(given)


def _aware(given: object, zone: ZoneInfo | None) -> datetime:
    moment = given
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise ScheduleError(
                f"at={shown(given)}: expected an ISO 8601 time such as 2026-12-24T18:00:00+01:00"
            ) from None
    if not isinstance(moment, datetime):
        raise ScheduleError(f"at={shown(given)}: expected a datetime")
    if moment.tzinfo is None:
        if zone is None:
            raise ScheduleError(
                f"at={moment.isoformat()} has no time zone; pass an aware datetime, or timezone= beside it"
            )
        moment = moment.replace(tzinfo=zone)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ScheduleError(f"at={moment.isoformat()}: no such time in UTC") from None


def _positive_us(option: str, value: object, *, zero: bool = False) -> int:
    try:
        seconds = to_seconds(value, option)
    except ValueError as error:
        raise ScheduleError(str(error)) from None
    if seconds == 0 and not zero:
        raise ScheduleError(f"{option}={shown(value)}: expected a duration over zero")
    return round(seconds * 1_000_000)


def _one_of(option: str, value: Any, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise ScheduleError(f"{option}={shown(value)}: expected one of {', '.join(map(repr, allowed))}")
    return value


def _limit(option: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ScheduleError(f"{option}={shown(value)}: expected a whole number from 1 to {most:,}")
    return value
