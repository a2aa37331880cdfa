"""`jobctl get …`, `list …` and `count`."""

from __future__ import annotations

from typing import Annotated

import typer

from peerjob.version import __version__

from . import completion, tables
from .commands import ClientSession, group, verb
from .events import list_history, list_logs
from .output import Column, Format, TableView, to_stderr
from .query_options import InstanceSelection, Limit, Uuid

ScheduleName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="The name of the schedule.", show_default=False, autocompletion=completion.schedules
    ),
]

VERSIONS: TableView[dict[str, str]] = TableView(
    columns=(
        Column(title="JOBCTL", text=lambda row: row["jobctl"]),
        Column(title="NODE", text=lambda row: row["node"]),
    ),
    name=lambda row: row["node"],
    plain=lambda row: row,
)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to jobctl."""
    get = group(app, "get", "Show one object.")
    verb(get, "version")(get_version)
    verb(get, "instance")(get_instance)
    verb(get, "schedule")(get_schedule)
    listing = group(app, "list", "List objects.")
    verb(listing, "jobs")(list_jobs)
    verb(listing, "instances")(list_instances)
    verb(listing, "schedules")(list_schedules)
    verb(listing, "nodes")(list_nodes)
    verb(listing, "logs")(list_logs)
    verb(listing, "history")(list_history)
    verb(app, "count")(count)


async def get_version(session: ClientSession) -> None:
    """Show the release of this command and of the node that answers."""
    async with session.client() as client:
        session.out.one({"jobctl": __version__, "node": await client.version()}, VERSIONS)


async def get_instance(session: ClientSession, uuid: Uuid) -> None:
    """Show all fields of one instance."""
    async with session.client() as client:
        session.out.one(await client.lookup_instance(uuid), tables.instances(session.now))


async def get_schedule(session: ClientSession, name: ScheduleName) -> None:
    """Show all fields of one schedule."""
    async with session.client() as client:
        session.out.one(await client.lookup_schedule(name), tables.schedules(session.now))


async def list_jobs(session: ClientSession) -> None:
    """List the jobs of the live nodes."""
    async with session.client() as client:
        schemas = session.out.format in (Format.JSON, Format.YAML)
        session.out.many(await client.registered_jobs(schemas=schemas), tables.JOBS)


async def list_instances(
    session: ClientSession,
    chosen: InstanceSelection,
    limit: Limit = 100,
    oldest: Annotated[bool, typer.Option("--oldest", help="The oldest first.")] = False,
) -> None:
    """List instances, the latest first."""
    query = chosen.query(limit=limit, newest=not oldest)
    async with session.client() as client:
        page = await client.lookup_instances(query)
    session.out.many(page, tables.instances(session.now))
    if page.cursor is not None and session.out.format in (Format.TABLE, Format.WIDE):
        to_stderr(f"there may be more than these {len(page)}; --limit shows up to 10,000")


async def count(
    session: ClientSession,
    chosen: InstanceSelection,
) -> None:
    """Print the number of instances."""
    query = chosen.query()
    async with session.client() as client:
        count = await client.count(query)
    session.out.text(str(count), {"count": count})


async def list_schedules(session: ClientSession) -> None:
    """List the schedules of the cluster."""
    async with session.client() as client:
        session.out.many(await client.schedules(), tables.schedules(session.now))


async def list_nodes(session: ClientSession) -> None:
    """List the live nodes of the cluster."""
    async with session.client() as client:
        session.out.many(await client.nodes(), tables.NODES)
