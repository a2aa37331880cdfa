"""`jobctl logs`, `history` and `watch`: past and present events of instances."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.live import Live

from peerjob.cli.console import ExitStatus
from peerjob.handles.entries import HistoryEntry, LogEntry
from peerjob.handles.instance import Event, Instance
from peerjob.model.ages import moment
from peerjob.model.printable import printable
from peerjob.model.query import Query
from peerjob.model.state import State
from peerjob.remote.client.client import Client

from . import tables
from .commands import ClientSession, verb
from .errors import CommandError
from .live_table import LiveTable
from .output import Column, Format, Printer, TableView, to_stderr
from .query_options import InstanceSelection, Kind, Limit, States, Tag, Uuid, level_of

MAX_FIRST = 100
"""The number of instances that a live watch shows at its start: the latest ones."""

ENTRIES: TableView[HistoryEntry] = TableView(
    columns=(
        Column(title="TIME", text=lambda entry: f"{entry.timestamp:%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z", whole=True),
        Column(title="STATE", text=lambda entry: str(entry.state), whole=True),
        Column(title="TIMES", text=lambda entry: str(entry.count), wide=True, right=True),
        Column(title="NODE", text=lambda entry: entry.node or "-"),
        Column(title="NOTE", text=lambda entry: entry.note or "-"),
    ),
    name=lambda entry: str(entry.state),
    plain=lambda entry: entry.to_dict(),
)
CHANGES: TableView[HistoryEntry] = TableView(
    columns=(
        Column(title="UUID", text=lambda entry: entry.instance_id, whole=True),
        # to the second: with more digits, 80 columns have no room for the kind
        Column(title="TIME", text=lambda entry: moment(entry.timestamp), whole=True),
        ENTRIES.columns[1],
        Column(title="KIND", text=lambda entry: entry.kind),
        *ENTRIES.columns[2:],
    ),
    name=lambda entry: entry.instance_id,
    plain=ENTRIES.plain,
    nothing="no instance matches",
)
Levels = Annotated[
    list[str] | None,
    typer.Option("--level", "-l", show_default="all", help="info, error, warn or debug; may be repeated."),
]


def add_to(app: typer.Typer) -> None:
    """Add these verbs to jobctl."""
    verb(app, "logs")(logs)
    verb(app, "history")(history)
    verb(app, "watch")(watch)


async def logs(
    session: ClientSession,
    uuid: Uuid,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue until the instance is final, on any node.")
    ] = False,
    level: Levels = None,
) -> None:
    """Show the log lines of an instance; with -o json, one JSON object a line."""
    wanted = level_of(level)
    async with session.client() as client:
        kind, shown = (await client.lookup_instance(uuid)).kind, False
        async for line in client.iter_logs(uuid, follow=follow):
            if wanted is None or wanted & line.level:
                shown = True
                entry = LogEntry(uuid, kind, line)
                session.out.event(entry.to_dict, log_text(entry, session.out), entry.message)
    if not shown:
        _report_no_line(session.out)


def log_text(entry: LogEntry, out: Printer) -> str:
    """A log line for people."""
    where = f" {entry.node}/{entry.attempt}" if out.format is Format.WIDE else ""
    fields = f" {tables.json_text(entry.fields)}" if entry.fields else ""
    message = f"{printable(entry.message, lines=True)}{printable(fields)}"
    return f"{moment(entry.timestamp)} {entry.level.name:<5}{where} {message}"


async def history(session: ClientSession, uuid: Uuid) -> None:
    """Show the states of an instance: when, on which node and why."""
    async with session.client() as client:
        session.out.many(await (await client.lookup_instance(uuid)).history(), ENTRIES)


async def list_logs(
    session: ClientSession,
    chosen: InstanceSelection,
    level: Levels = None,
    limit: Limit = 100,
) -> None:
    """Show the log lines of several instances, the latest instance first."""
    query = replace(chosen.query(limit=limit, newest=True), level=level_of(level))
    async with session.client() as client:
        lines = await client.lookup_logs(query)
    for line in lines:
        text = f"{line.instance_id} {printable(line.kind)} {log_text(line, session.out)}"
        session.out.event(line.to_dict, text, line.message)
    if not lines:
        _report_no_line(session.out)


def _report_no_line(out: Printer) -> None:
    if out.format in (Format.TABLE, Format.WIDE):
        to_stderr("no line matches")


async def list_history(
    session: ClientSession,
    chosen: InstanceSelection,
    limit: Limit = 100,
) -> None:
    """Show the states of several instances, the latest instance first; --state selects states."""
    query = chosen.query(limit=limit, newest=True)
    async with session.client() as client:
        session.out.many(await client.lookup_history(query), CHANGES)


async def watch(
    session: ClientSession,
    uuid: Annotated[
        str | None,
        typer.Argument(metavar="[UUID]", help="Watch one instance until it is final.", show_default="by the options"),
    ] = None,
    kind: Kind = None,
    state: States = None,
    tag: Tag = None,
    lines: Annotated[bool, typer.Option("--lines", help="A line for each event, also in a terminal.")] = False,
) -> None:
    """Watch instances: a live table in a terminal, else a line for each state, log line and progress.

    Ends with Ctrl-C, or when the only watched instance is final.
    """
    if uuid is not None and (kind is not None or state or tag is not None):
        raise CommandError("give either a UUID or --kind, --state and --tag", ExitStatus.USAGE)
    query = Query(uuid=uuid) if uuid is not None else InstanceSelection(kind=kind, state=state, tag=tag).query()
    live = sys.stdout.isatty() and not lines and session.out.format in (Format.TABLE, Format.WIDE)
    async with session.client() as client:
        if live:
            await _show_live(session, client, query)
            return
        async for event in client.watch(query) if query.id is None else client.watch_instance(query.id):
            session.out.event(event.to_dict, _text(event), event.instance.id)


async def _show_live(session: ClientSession, client: Client, query: Query) -> None:
    live_table = LiveTable(session.out)
    if query.id is not None:
        # before the table, of which the error about an unknown id would leave the header
        live_table.update(await client.lookup_instance(query.id))
    with Live(console=session.out.console, refresh_per_second=4, get_renderable=lambda: live_table.table(session.now)):

        async def begin() -> None:
            for instance in await _present(client, query):
                live_table.update(instance)

        events = client.watch(query, on_begin=begin) if query.id is None else client.watch_instance(query.id)
        async for event in events:
            live_table.update(event.instance, "" if event.log is None else event.log.message)


async def _present(client: Client, query: Query) -> list[Instance[Any]]:
    """The instances at the start of a watch, the oldest first."""
    states = State.ACTIVE if query.state is None else query.states
    latest = Query(kind=query.kind, tag=query.tag, state=states, limit=MAX_FIRST, order="desc")
    return list(await client.lookup_instances(latest))[::-1]


def _text(event: Event) -> str:
    instance, progress = event.instance, event.instance.progress
    if event.entry is not None:
        entry = event.entry
        what = " ".join(filter(None, (str(entry.state), entry.node and f"on {entry.node}", entry.note)))
        at = entry.timestamp
    elif event.log is not None:
        what, at = f"{event.log.level.name} {event.log.message}", event.log.timestamp
    else:
        what, at = "progress" if progress is None else f"{progress.fraction:.0%} {progress.message}".rstrip(), None
    return f"{moment(at):<20} {instance.id} {printable(instance.kind)} {printable(what)}"
