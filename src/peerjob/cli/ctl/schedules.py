"""`jobctl schedules …`: manages schedules."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from msgspec import structs

from peerjob.handles.schedule import Backfill
from peerjob.model.clock import to_datetime
from peerjob.model.errors import OptionError, UnknownScheduleError
from peerjob.model.explain import Explanation, explain
from peerjob.model.ids import id_time_us

from . import tables
from .commands import ClientSession, ListingGroup, group, verb
from .errors import CommandError
from .lookups import ScheduleName, get_schedule, list_schedules
from .output import Column, TableView, to_stderr
from .query_options import Limit, given_time, time_of
from .repeats import RequestId, repeatable

BACKFILLS: TableView[Backfill] = TableView(
    columns=(
        Column(title="TIMES", text=lambda counts: str(counts.times), right=True),
        Column(title="MADE", text=lambda counts: str(counts.made), right=True),
        Column(title="KNOWN", text=lambda counts: str(counts.known), right=True),
        Column(title="TRIMMED", text=lambda counts: str(counts.trimmed), right=True),
        Column(title="SKIPPED", text=lambda counts: str(counts.skipped), right=True),
    ),
    name=lambda counts: str(counts.made),
    plain=structs.asdict,
)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to jobctl."""
    verbs = group(app, "schedules", "Show and change schedules.", cls=ListingGroup)
    verb(verbs, "list")(list_schedules)
    verb(verbs, "get")(get_schedule)
    for function in (pause, resume, trigger, remove, backfill, fires):
        verb(verbs, function.__name__)(function)
    verb(verbs, "explain")(explain_schedule)


async def pause(
    session: ClientSession,
    name: ScheduleName,
    why: Annotated[str, typer.Option("--note", show_default="none", help="The reason, for other users.")] = "",
) -> None:
    """Pause a schedule until it is resumed. Running instances continue."""
    async with session.client() as client:
        session.out.row(await client.pause_schedule(name, why), tables.schedules(session.now))


async def resume(session: ClientSession, name: ScheduleName) -> None:
    """Resume a paused schedule, from its next time on."""
    async with session.client() as client:
        session.out.row(await client.resume_schedule(name), tables.schedules(session.now))


async def trigger(session: ClientSession, name: ScheduleName, request: RequestId = None) -> None:
    """Create one instance of a schedule now, even while it is paused.

    The exit status is 1 if an earlier instance prevents it.
    """
    async with session.client() as client:
        with repeatable(client.clock, request) as id:
            instance = await client.trigger_schedule(name, id=id)
        if instance is None:
            at = to_datetime(id_time_us(id))
            records = await client.fires(name, after=at, before=at + timedelta(microseconds=1), limit=1)
            why = records[0].reason if records else ""
            raise CommandError(f"no instance was created{': ' if why else ''}{why}")
        session.out.row(instance, tables.instances(session.now))


async def remove(session: ClientSession, name: ScheduleName) -> None:
    """Remove a schedule with its ledger. Its instances stay.

    If the job's definition has a recurrence, the next start of a node adds the schedule again. Pause it instead.
    """
    async with session.client() as client:
        if not await client.remove_schedule(name):
            raise UnknownScheduleError(name)
    to_stderr(f"removed schedule {name}")


async def backfill(
    session: ClientSession,
    name: ScheduleName,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="The start, inclusive.", show_default=False)],
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="The end, exclusive.", show_default=False)],
) -> None:
    """Create an instance for each time in a range that had none. Repeat the command to continue."""
    first, last = given_time("from", start), given_time("to", end)
    if last <= first:
        raise OptionError("--to", end, "a time after --from")
    async with session.client() as client:
        session.out.row(await client.backfill(name, first, last), BACKFILLS)


async def fires(
    session: ClientSession,
    name: ScheduleName,
    after: Annotated[
        str | None, typer.Option(metavar="TIME", show_default="no bound", help="At this time or after it.")
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="TIME", show_default="no bound", help="Before this time.")
    ] = None,
    limit: Limit = 20,
) -> None:
    """Show the outcome of each time of a schedule, the latest first."""
    async with session.client() as client:
        page = await client.fires(name, after=time_of("after", after), before=time_of("before", before), limit=limit)
    session.out.many(page, tables.FIRES)


async def explain_schedule(
    session: ClientSession,
    what: Annotated[
        str, typer.Argument(metavar="NAME|CRON", help="A schedule, or a cron text in quotes.", show_default=False)
    ],
    timezone: Annotated[
        str | None, typer.Option(show_default="the schedule's, else UTC", help="The time zone.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, max=1_000, help="The number of next times.")] = 5,
) -> None:
    """Explain a schedule or a cron text: in words, its next times, and the days when clocks change.

    The explanation of a cron text needs no node.
    """
    if " " in what.strip() or what.startswith("@"):
        _show(session, explain(what, timezone or "UTC", count=count))
        return
    async with session.client() as client:
        schedule = await client.lookup_schedule(what)
        cron = schedule.cron
        if cron is not None:
            _show(session, explain(cron, timezone or schedule.timezone, count=count))
        elif schedule.every is None:
            raise CommandError(f"this release cannot read the recurrence of schedule {what}")
        else:
            if count < 1:
                raise OptionError("--count", count, "1 or more for a schedule with an interval")
            words = tables.recurrence_text(None, schedule.every, None)
            next_times = await client.next_fires(schedule, count)
            _show(session, Explanation(spec=what, timezone="UTC", words=words, fires=tuple(next_times), changes=()))


def _show(session: ClientSession, explanation: Explanation) -> None:
    session.out.text(
        str(explanation),
        {
            "spec": explanation.spec,
            "timezone": explanation.timezone,
            "words": explanation.words,
            "fires": [fire.isoformat() for fire in explanation.fires],
            "changes": [
                {"at": change.at.isoformat(), "shift": change.shift.total_seconds(), "effect": change.effect}
                for change in explanation.changes
            ],
        },
    )
