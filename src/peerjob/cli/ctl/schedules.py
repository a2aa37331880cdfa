"""`jobctl schedules …`: what recurs."""

from __future__ import annotations

from typing import Annotated

import typer

from peerjob.handles.schedule import Backfill
from peerjob.model.errors import OptionError, UnknownScheduleError
from peerjob.model.explain import Explanation, explain

from . import tables
from .commands import ClientSession, group, verb
from .errors import CommandError
from .lookups import ScheduleName, get_schedule, list_schedules
from .output import Column, TableView, note
from .query_options import Limit, given_time, time_of

BACKFILLS: TableView[Backfill] = TableView(
    columns=(
        Column(title="TIMES", text=lambda one: str(one.times), right=True),
        Column(title="MADE", text=lambda one: str(one.made), right=True),
        Column(title="KNOWN", text=lambda one: str(one.known), right=True),
        Column(title="TRIMMED", text=lambda one: str(one.trimmed), right=True),
        Column(title="SKIPPED", text=lambda one: str(one.skipped), right=True),
    ),
    name=lambda one: str(one.made),
    plain=lambda one: {
        "times": one.times,
        "made": one.made,
        "known": one.known,
        "trimmed": one.trimmed,
        "skipped": one.skipped,
    },
)


def add_to(app: typer.Typer) -> None:
    """Add these verbs."""
    verbs = group(app, "schedules", "Show schedules, and act on them.")
    verb(verbs, "list")(list_schedules)
    verb(verbs, "get")(get_schedule)
    for function in (pause, resume, trigger, remove, backfill, fires):
        verb(verbs, function.__name__)(function)
    verb(verbs, "explain")(explain_schedule)


async def pause(
    session: ClientSession,
    name: ScheduleName,
    why: Annotated[str, typer.Option("--note", show_default="none", help="Why, for others to read.")] = "",
) -> None:
    """Let a schedule fire no more until it is resumed; what runs goes on."""
    async with session.client() as client:
        session.out.row(await client.pause_schedule(name, why), tables.schedules(session.now))


async def resume(session: ClientSession, name: ScheduleName) -> None:
    """Let a paused schedule fire again, from its next time on."""
    async with session.client() as client:
        session.out.row(await client.resume_schedule(name), tables.schedules(session.now))


async def trigger(session: ClientSession, name: ScheduleName) -> None:
    """Make one instance of a schedule now, also while it is paused; status 1 when one is in the way."""
    async with session.client() as client:
        instance = await client.trigger_schedule(name)
        if instance is None:
            last = await client.fires(name, limit=1)
            why = last[0].reason if last else ""
            raise CommandError(f"nothing was made{': ' if why else ''}{why}")
        session.out.row(instance, tables.instances(session.now))


async def remove(session: ClientSession, name: ScheduleName) -> None:
    """Remove a schedule with its ledger; its instances stay.

    That of a job that is defined with a recurrence comes back with the next start of a node: rather pause it.
    """
    async with session.client() as client:
        if not await client.remove_schedule(name):
            raise UnknownScheduleError(name)
    note(f"schedule {name} is removed")


async def backfill(
    session: ClientSession,
    name: ScheduleName,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="The first time.", show_default=False)],
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="Where to end, exclusive.", show_default=False)],
) -> None:
    """Make an instance for each time in a range that never had one; may be called again to go on."""
    first, last = given_time("from", start), given_time("to", end)
    async with session.client() as client:
        session.out.row(await client.backfill(name, first, last), BACKFILLS)


async def fires(
    session: ClientSession,
    name: ScheduleName,
    after: Annotated[str | None, typer.Option(metavar="TIME", show_default="no bound", help="From this time.")] = None,
    before: Annotated[
        str | None, typer.Option(metavar="TIME", show_default="no bound", help="Before this time.")
    ] = None,
    limit: Limit = 20,
) -> None:
    """Show what became of each time of a schedule, the latest first."""
    async with session.client() as client:
        page = await client.fires(name, after=time_of("after", after), before=time_of("before", before), limit=limit)
    session.out.many(page, tables.FIRES)


async def explain_schedule(
    session: ClientSession,
    what: Annotated[
        str, typer.Argument(metavar="NAME|CRON", help="A schedule, or a cron text in quotes.", show_default=False)
    ],
    timezone: Annotated[str | None, typer.Option(show_default="the schedule's, else UTC", help="In this zone.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, max=1_000, help="How many times to show.")] = 5,
) -> None:
    """Tell what a schedule or a cron text means: in words, by its next times, and on days when clocks change.

    A cron text is explained without asking a node.
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
            raise CommandError(f"schedule {what} has no recurrence that can be read here")
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
                {"at": one.at.isoformat(), "shift": one.shift.total_seconds(), "effect": one.effect}
                for one in explanation.changes
            ],
        },
    )
