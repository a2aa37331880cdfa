"""The ledger of one schedule: a calendar of its outcomes, a table, and CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo

from starlette.responses import Response

from peerjob.handles.schedule import FireEntry
from peerjob.web.page import page
from peerjob.web.visit import Shown, Visit

from .schedules import class_of, zone_of

ROWS = 100
CALENDAR = 1_000
"""Records of the ledger that the calendar counts, which are all records by default."""
MAX_CSV = 10_000
"""Records of one file."""
DAYS = 31
"""Days of the calendar."""
WORST = ("missed", "late", "skipped", "coalesced", "paused", "backfilled", "triggered", "fired")
"""The classes of outcomes; a cell of the calendar has the colour of the first one that it contains."""
COLUMNS = ("nominal", "until", "count", "outcome", "recorded_at", "late_seconds", "instance", "reason", "node")


@dataclass(kw_only=True)
class Cell:
    """One hour of one day."""

    begin: datetime
    counts: Counter[str] = field(default_factory=Counter[str])
    level: int = 0
    """1 to 4 by the number of nominal times; 0 for none."""

    @property
    def worst(self) -> str:
        """The class that decides the colour; "" for an hour without nominal times."""
        return next((outcome for outcome in WORST if self.counts[outcome]), "")

    @property
    def words(self) -> str:
        """The counts for people."""
        return ", ".join(f"{count:,} {name}" for name in WORST if (count := self.counts[name])) or "none"


@dataclass(frozen=True, kw_only=True)
class Day:
    """One row of the calendar: 24 hours."""

    day: date
    cells: Sequence[Cell]


def calendar(fires: Iterable[FireEntry], zone: tzinfo, now: datetime) -> list[Day]:
    """The days with nominal times, the latest first; hours are those of the zone."""
    oldest = (now - timedelta(days=DAYS)).astimezone(zone).replace(minute=0, second=0, microsecond=0)
    cells: dict[tuple[date, int], Cell] = {}
    for fire in fires:
        for begin, count in _hours(fire, zone, oldest):
            cell = cells.setdefault((begin.date(), begin.hour), Cell(begin=begin))
            cell.counts[class_of(fire)] += count
    most = max((sum(cell.counts.values()) for cell in cells.values()), default=0)
    for cell in cells.values():
        cell.level = 1 + min(3, 4 * sum(cell.counts.values()) // (most + 1))
    return [
        Day(day=day, cells=[cells.get((day, hour)) or Cell(begin=_at(day, hour, zone)) for hour in range(24)])
        for day in sorted({day for day, _ in cells}, reverse=True)
    ]


def _at(day: date, hour: int, zone: tzinfo) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=zone)


def _hours(fire: FireEntry, zone: tzinfo, oldest: datetime) -> Iterator[tuple[datetime, int]]:
    """The hours of a fire with the nominal times in each; those of a stretch are spread evenly over all its hours."""
    first = fire.nominal.astimezone(zone).replace(minute=0, second=0, microsecond=0)
    if fire.until is None:
        if first >= oldest:
            yield first, fire.count
        return
    # in UTC, where each hour follows the one before also when the clocks of the zone change
    begin, hour = first.astimezone(UTC), timedelta(hours=1)
    hours = max(1, int((fire.until - begin) / hour) + 1)
    for number in range(max(0, -((begin - oldest) // hour)), hours):
        share = fire.count * (number + 1) // hours - fire.count * number // hours
        if share:
            yield (begin + number * hour).astimezone(zone), share


async def fires(visit: Visit) -> Shown:
    """The ledger of one schedule, page by page."""
    schedule = await visit.manager.lookup_schedule(visit.path_value("name"))
    zone = zone_of(schedule)
    cursor = visit.param("cursor") or None
    table = await schedule.fires(limit=ROWS, cursor=cursor)
    days: list[Day] = []
    if cursor is None:
        counted = table if table.cursor is None else await schedule.fires(limit=CALENDAR)
        days = calendar(counted, zone, visit.now)
    return Shown(
        "fires.html", schedule=schedule, rows=table, cursor=table.cursor, days=days, zone=str(zone), class_of=class_of
    )


async def fires_csv(visit: Visit) -> Response:
    """The ledger of one schedule as a file."""
    schedule = await visit.manager.lookup_schedule(visit.path_value("name"))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for fire in await schedule.fires(limit=MAX_CSV):
        plain = fire.to_dict() | {"late_seconds": fire.late.total_seconds()}
        writer.writerow([_cell(plain[name]) for name in COLUMNS])
    headers = {"Content-Disposition": 'attachment; filename="fires.csv"'}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _cell(value: object) -> object:
    """A value for a spreadsheet, which would run a text that begins like a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return "" if value is None else value


ROUTES = (
    page("/fires/{name:path}", fires),
    page("/fires.csv/{name:path}", fires_csv),
)
