"""Schedules: the list with the last outcomes, and one schedule with its coming times and its forms."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

from peerjob.handles.schedule import FireEntry, Schedule
from peerjob.model.clock import to_datetime, to_us
from peerjob.model.cron.zones import zone_named
from peerjob.model.durations import format_seconds
from peerjob.model.errors import DecodeError, OptionError, ScheduleError
from peerjob.model.explain import ClockChange, explain
from peerjob.model.firing import FireOutcome
from peerjob.model.ids import id_time_us
from peerjob.model.json_text import to_json
from peerjob.model.recurrence import recurrence_of
from peerjob.model.rights import Role
from peerjob.web.page import action, page
from peerjob.web.visit import Done, Shown, Visit

PAGE = 25
"""Schedules of one page. Each of them needs a read of its ledger."""
STRIP = 30
"""Fires in the strip of a schedule."""
COMING = 10
MAX_BACKFILL = 10_000
"""Nominal times of one backfill through this page, which must answer in time."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The last outcomes of a schedule, the earliest first, and counts of them."""

    fires: Sequence[FireEntry] = ()
    counts: Counter[str] = field(default_factory=Counter[str])
    """Nominal times by class, as `class_of` tells."""

    @classmethod
    def of(cls, fires: Iterable[FireEntry]) -> Tally:
        latest = [*fires][:STRIP]
        counts = Counter[str]()
        for fire in latest:
            counts[class_of(fire)] += fire.count
        return cls(fires=latest[::-1], counts=counts)


def class_of(fire: FireEntry) -> str:
    """The class of an outcome: its name, or "late" for a fire with a reason why it is late."""
    return "late" if fire.outcome is FireOutcome.FIRED and fire.reason else str(fire.outcome)


# -- the list --------------------------------------------------------------------------------------------------------


async def schedules(visit: Visit) -> Shown:
    """The schedules, filtered by text and state."""
    everything = await visit.manager.schedules()
    text, state = visit.param("q").casefold(), visit.param("state")
    matches = [
        schedule for schedule in everything if text in schedule.name.casefold() or text in schedule.kind.casefold()
    ]
    if state in ("active", "paused"):
        matches = [schedule for schedule in matches if schedule.paused == (state == "paused")]
    begin = visit.offset(len(matches), PAGE)
    rows = matches[begin : begin + PAGE]
    tallies = await asyncio.gather(*(_tally(schedule) for schedule in rows))
    return Shown(
        "schedules.html",
        rows=[(schedule, recurrence_words(schedule), tally) for schedule, tally in zip(rows, tallies, strict=True)],
        total=len(matches),
        everything=len(everything),
        begin=begin,
        page=PAGE,
        paused=sum(schedule.paused for schedule in everything),
    )


async def _tally(schedule: Schedule) -> Tally:
    return Tally.of(await schedule.fires(limit=STRIP))


def recurrence_words(schedule: Schedule) -> str:
    """The recurrence in a few words; a definition that this release cannot read is told as such."""
    try:
        if schedule.every is not None:
            return f"every {format_seconds(schedule.every.total_seconds())}"
        return f"{schedule.cron} ({schedule.timezone})"
    except DecodeError:
        return "of another release"


# -- one schedule ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What the definition of a schedule says."""

    words: str = ""
    changes: Sequence[ClockChange] = ()
    arguments: str = ""
    problem: str = ""
    """Why this release cannot read the definition; "" if it can."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a backfill of a range would do."""

    start: datetime
    end: datetime
    times: int = 0
    known: int = 0
    """Nominal times that have an instance already."""
    problem: str = ""

    @property
    def open(self) -> int:
        return max(0, self.times - self.known)


async def schedule(visit: Visit) -> Shown:
    """One schedule."""
    schedule = await visit.manager.lookup_schedule(visit.path_value("name"))
    meaning = _meaning(schedule, visit.now)
    coming: list[datetime] = []
    if not meaning.problem:
        coming = await schedule.next_fires(COMING)
    preview = None
    if visit.param("start") or visit.param("end"):
        preview = await _preview(schedule, visit)
    return Shown(
        "schedule.html",
        schedule=schedule,
        meaning=meaning,
        coming=[time.astimezone(zone_of(schedule)) for time in coming],
        tally=await _tally(schedule),
        zone=_zone_name(schedule),
        preview=preview,
        start=visit.param("start"),
        end=visit.param("end"),
    )


def _meaning(schedule: Schedule, now: datetime) -> Meaning:
    try:
        arguments = to_json([*schedule.args, schedule.kwargs] if schedule.kwargs else list(schedule.args))
        if schedule.cron is None:
            return Meaning(words=recurrence_words(schedule), arguments=arguments)
        told = explain(schedule.cron, schedule.timezone, start=now, count=0)
        return Meaning(words=told.words, changes=told.changes, arguments=arguments)
    except (DecodeError, ScheduleError) as error:
        return Meaning(problem=str(error))


def zone_of(schedule: Schedule) -> tzinfo:
    """The zone of a schedule; UTC if it is unknown here."""
    try:
        return zone_named(schedule.timezone)
    except (DecodeError, ScheduleError):
        return UTC


def _zone_name(schedule: Schedule) -> str:
    try:
        return schedule.timezone
    except DecodeError:
        return "UTC"


def _moment(name: str, text: str, zone: tzinfo) -> datetime:
    """A time of a form, in the zone of the schedule unless it names one; raises OptionError."""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
        to_us(moment)
    except (ValueError, OverflowError):
        raise OptionError(name, text, "a time such as 2026-01-31T08:00") from None
    return moment


def _range(schedule: Schedule, start: str, end: str) -> tuple[datetime, datetime]:
    zone = zone_of(schedule)
    first, last = _moment("from", start, zone), _moment("to", end, zone)
    if not first < last:
        raise OptionError("to", end, f"a time after {start}")
    return first, last


async def _preview(schedule: Schedule, visit: Visit) -> Preview:
    """Count what a backfill would make. A backfill ends before the next time that the leader fires."""
    try:
        start, end = _range(schedule, visit.param("start"), visit.param("end"))
        recurrence = recurrence_of(schedule.definition)
    except (OptionError, DecodeError, ScheduleError) as error:
        return Preview(start=visit.now, end=visit.now, problem=str(error))
    over = (
        to_us(visit.now) + 1 if schedule.paused or schedule.next_at is None else to_us(min(visit.now, schedule.next_at))
    )
    after, until = max(to_us(start), 0) - 1, min(to_us(end), over) - 1
    times = recurrence.count(after, until) if after < until else 0
    known = 0
    if 0 < times <= MAX_BACKFILL:
        page_of_fires = await schedule.fires(after=start, before=end, limit=MAX_BACKFILL)
        known = sum(fire.instance_id is not None and fire.outcome.advances for fire in page_of_fires)
        known += sum(fire.outcome is FireOutcome.BACKFILLED for fire in page_of_fires)
    return Preview(
        start=start,
        end=end,
        times=times,
        known=min(known, times),
        problem=f"at most {MAX_BACKFILL:,} nominal times a backfill; divide the range" if times > MAX_BACKFILL else "",
    )


# -- forms -------------------------------------------------------------------------------------------------------------


async def _named(visit: Visit) -> Schedule:
    """The schedule of a form; raises AuthError for a kind that the sender must not use."""
    schedule = await visit.manager.lookup_schedule(visit.given("name"))
    await visit.check_runs(schedule.kind)
    visit.act.criteria = f"name={schedule.name}"
    return schedule


async def pause(visit: Visit) -> Done:
    """Pause a schedule."""
    schedule = await _named(visit)
    await schedule.pause(visit.given("note").strip())
    visit.act.count = 1
    return _back(visit, schedule, "The schedule is paused.")


async def resume(visit: Visit) -> Done:
    """Resume a schedule."""
    schedule = await _named(visit)
    await schedule.resume()
    visit.act.count = 1
    return _back(visit, schedule, "The schedule fires again, from its next time on.")


async def trigger(visit: Visit) -> Done:
    """Make one instance of a schedule now."""
    schedule = await _named(visit)
    id = await visit.repeat_id()
    made = await schedule.trigger(id=id)
    visit.act.count = int(made is not None)
    if made is not None:
        return Done(to=visit.url(f"/instances/{made.id}"), notice="The schedule made this instance.")
    at = None if id is None else to_datetime(id_time_us(id))
    records = await schedule.fires(after=at, before=None if at is None else at + timedelta(microseconds=1), limit=1)
    reason = records[0].reason if records else ""
    return _back(visit, schedule, f"No instance was made{': ' if reason else ''}{reason}.")


async def backfill(visit: Visit) -> Done:
    """Make the instances of past nominal times."""
    schedule = await _named(visit)
    start, end = _range(schedule, visit.need("start"), visit.need("end"))
    visit.act.criteria += f" start={start.isoformat()} end={end.isoformat()}"
    recurrence = recurrence_of(schedule.definition)
    if recurrence.count(max(to_us(start), 0) - 1, min(to_us(end), to_us(visit.now)) - 1) > MAX_BACKFILL:
        raise OptionError("to", visit.given("end"), f"a range of at most {MAX_BACKFILL:,} nominal times")
    counts = await schedule.backfill(start, end)
    visit.act.count = counts.made
    notice = f"Backfill: {counts.made:,} made, {counts.known:,} had an instance, {counts.skipped:,} skipped"
    if counts.trimmed:
        notice += f", {counts.trimmed:,} older than the ledger"
    return _back(visit, schedule, f"{notice}.")


def _back(visit: Visit, schedule: Schedule, notice: str) -> Done:
    return Done(to=visit.url(f"/schedules/{visit.part(schedule.name)}"), notice=notice)


ROUTES = (
    page("/schedules", schedules, title="Schedules"),
    page("/schedules/{name:path}", schedule),
    action("/schedules/pause", pause, role=Role.OPERATOR, verb="PauseSchedule"),
    action("/schedules/resume", resume, role=Role.OPERATOR, verb="ResumeSchedule"),
    action("/schedules/trigger", trigger, role=Role.OPERATOR, verb="TriggerSchedule", adds=True),
    action("/schedules/backfill", backfill, role=Role.OPERATOR, verb="Backfill"),
)
