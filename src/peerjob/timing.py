"""When a job runs: at a time, after a delay, or again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .clock import to_us
from .durations import to_seconds
from .errors import ScheduleError


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One run, now (the default), `at` a time or `after` a delay; or a recurrence by `cron` or `every`."""

    at_us: int | None = None
    after_us: int | None = None
    cron: str | None = None
    every_us: int | None = None
    timezone: str = "UTC"
    jitter_us: int = 0
    overlap: Literal["allow", "skip", "queue", "replace"] = "skip"
    misfire: Literal["skip", "run_once", "run_all"] = "run_once"
    start_deadline_us: int | None = None

    @property
    def recurs(self) -> bool:
        """Whether it fires again and again, and so belongs to the cluster rather than to one instance."""
        return self.cron is not None or self.every_us is not None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Timing:
        """The timing in a job's options; raises ScheduleError for a bad time, zone or combination."""
        given = [name for name in ("at", "after", "cron", "every") if options.get(name) is not None]
        if len(given) > 1:
            raise ScheduleError(f"{' and '.join(f'{name}=' for name in given)} exclude one another")
        if not given and "timezone" not in options:
            return NOW
        zone = _zone(options["timezone"]) if "timezone" in options else None
        timezone = options.get("timezone", "UTC")
        if options.get("at") is not None:
            return cls(at_us=to_us(_aware(options["at"], zone)), timezone=timezone)
        if options.get("after") is not None:
            return cls(after_us=_positive_us("after", options["after"], zero=True), timezone=timezone)
        if options.get("cron") is not None and not isinstance(options["cron"], str):
            raise ScheduleError(f"cron={options['cron']!r}: expected text such as '*/5 * * * *'")
        return cls(
            cron=options.get("cron"),
            every_us=None if options.get("every") is None else _positive_us("every", options["every"]),
            timezone=timezone,
            jitter_us=0 if "jitter" not in options else _positive_us("jitter", options["jitter"], zero=True),
            overlap=_one_of("overlap", options.get("overlap", "skip"), ("allow", "skip", "queue", "replace")),
            misfire=_one_of("misfire", options.get("misfire", "run_once"), ("skip", "run_once", "run_all")),
            start_deadline_us=(
                None
                if options.get("start_deadline") is None
                else _positive_us("start_deadline", options["start_deadline"])
            ),
        )


NOW = Timing()


def _aware(given: object, zone: ZoneInfo | None) -> datetime:
    moment = given
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise ScheduleError(f"at={given!r}: expected an ISO 8601 time such as 2026-12-24T18:00:00+01:00") from None
    if not isinstance(moment, datetime):
        raise ScheduleError(f"at={given!r}: expected a datetime")
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


def _zone(name: object) -> ZoneInfo:
    try:
        return ZoneInfo(cast(str, name))
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise ScheduleError(f"timezone={name!r}: no such time zone (expected a name such as Europe/Berlin)") from None


def _positive_us(option: str, value: object, *, zero: bool = False) -> int:
    try:
        seconds = to_seconds(value, option)
    except ValueError as error:
        raise ScheduleError(str(error)) from None
    if seconds == 0 and not zero:
        raise ScheduleError(f"{option}={value!r}: expected a duration over zero")
    return round(seconds * 1_000_000)


def _one_of(option: str, value: Any, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise ScheduleError(f"{option}={value!r}: expected one of {', '.join(map(repr, allowed))}")
    return value
