"""`jobctl workers …`, `drain`, `undrain`, `leader`, `stats`: the cluster and its nodes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from peerjob.handles.manager import Stats
from peerjob.model.ages import moment
from peerjob.model.firing import Leader
from peerjob.model.printable import counted
from peerjob.model.state import SINGLE, State
from peerjob.model.worker import Worker

from . import completion
from .commands import ClientSession, group, verb
from .errors import CommandError
from .output import Column, TableView, note

LEADERS: TableView[Leader] = TableView(
    columns=(
        Column(title="LEADER", text=lambda one: one.name),
        Column(title="TERM", text=lambda one: str(one.term.number), right=True),
        Column(title="SINCE", text=lambda one: moment(one.since)),
        Column(title="COORDINATOR", text=lambda one: one.term.coordinator),
        Column(title="INCARNATION", text=lambda one: one.incarnation, wide=True),
    ),
    name=lambda one: one.name,
    plain=lambda one: {
        "name": one.name,
        "incarnation": one.incarnation,
        "term": one.term.number,
        "coordinator": one.term.coordinator,
        "since": None if one.since is None else one.since.isoformat(),
    },
)

WORKERS: TableView[Worker] = TableView(
    columns=(
        Column(title="WORKER", text=lambda one: str(one.number), right=True),
        Column(title="NODE", text=lambda one: one.node),
        Column(title="RUNS", text=lambda one: f"{one.instance or '-'}{' (stuck)' if one.stuck else ''}"),
        Column(title="KIND", text=lambda one: one.kind or "-"),
    ),
    name=lambda one: str(one.number),
    plain=asdict,
    nothing="the node that answers has no workers",
)

Tallies = tuple[str, dict[State, int], int]
"""A kind, its instances by state, and how many of them wait although no live node can run them."""

COUNTED = tuple(state for state in SINGLE if state is not State.CREATED)


def _counted(state: State) -> Column[Tallies]:
    return Column(title=str(state).upper(), text=lambda row: str(row[1].get(state, 0)), right=True)


KINDS: TableView[Tallies] = TableView(
    columns=(
        Column(title="KIND", text=lambda row: row[0], whole=True),
        *map(_counted, COUNTED),
        Column(title="UNSERVED", text=lambda row: str(row[2]), right=True),
    ),
    name=lambda row: row[0],
    plain=lambda row: row[0],
    nothing="no instances",
)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to jobctl."""
    verbs = group(app, "workers", "Show the workers of the node that answers, and resize those of a node.")
    verb(verbs, "list")(list_workers)
    verb(verbs, "resize")(resize_workers)
    verb(app, "drain")(drain)
    verb(app, "undrain")(undrain)
    verb(app, "leader")(leader)
    verb(app, "stats")(stats)


async def list_workers(session: ClientSession) -> None:
    """List the workers of the node that answers, each with the instance that it runs."""
    async with session.client() as client:
        session.out.many(await client.workers(), WORKERS)


async def resize_workers(
    session: ClientSession,
    count: Annotated[int, typer.Argument(metavar="N", min=1, help="The new number of workers.", show_default=False)],
    node: Annotated[
        str | None,
        typer.Option(
            metavar="NODE",
            help="The name or incarnation of a live node.",
            show_default="the node that answers",
            autocompletion=completion.nodes,
        ),
    ] = None,
) -> None:
    """Change the number of workers of a node. Running jobs continue."""
    async with session.client() as client:
        name = await client.resize_workers(count, node=node)
    note(f"{_subject(node, name)} has {counted(count, 'worker')} now")


NodeName = Annotated[
    str | None,
    typer.Argument(
        metavar="[NODE]",
        help="The name or incarnation of a live node.",
        show_default="the node that answers",
        autocompletion=completion.nodes,
    ),
]


async def drain(
    session: ClientSession,
    node: NodeName = None,
    within: Annotated[
        str | None, typer.Option(metavar="DURATION", show_default="no limit", help="The time limit.")
    ] = None,
) -> None:
    """Let a node claim nothing more, and wait until nothing runs there.

    The node stays in the cluster and continues to answer, until undrain lets it take work again. If jobs still run when
    the time is over, the exit status is 6, and the node still drains.
    """
    async with session.client() as client:
        name = await client.drain(within, node=node)
    note(f"{_subject(node, name)} is drained")


async def undrain(session: ClientSession, node: NodeName = None) -> None:
    """Let a node take work again that drains or is drained."""
    async with session.client() as client:
        name = await client.undrain(node=node)
    note(f"{_subject(node, name)} takes work")


def _subject(given: str | None, name: str) -> str:
    """The node of a message: its name, or what the user gave to a node of a release that tells no name."""
    return f"node {name or given}" if name or given else "the node"


async def leader(session: ClientSession) -> None:
    """Show the leader, which fires the schedules. The exit status is 1 if no leader is known."""
    async with session.client() as client:
        found = await client.leader()
    if found is None:
        raise CommandError("no leader is known: schedules do not fire until there is one")
    session.out.row(found, LEADERS)


async def stats(session: ClientSession) -> None:
    """Show the numbers of instances, by kind and state."""
    async with session.client() as client:
        found = await client.stats()
    session.out.summary(_plain(found), tallies(found), KINDS)


def tallies(found: Stats) -> list[Tallies]:
    """A row for each kind with instances, and one for all kinds if there are several."""
    kinds = sorted(kind for kind in found.counts if found.total(kind=kind))
    rows: list[Tallies] = [(kind, found.counts[kind], found.unserved.get(kind, 0)) for kind in kinds]
    if len(rows) > 1:
        rows.append(("(all)", {state: found.total(state) for state in COUNTED}, sum(found.unserved.values())))
    return rows


def _plain(found: Stats) -> dict[str, Any]:
    return {
        "nodes": found.nodes,
        "delayed": found.delayed,
        "undecodable": found.undecodable,
        "unserved": found.unserved,
        "counts": {
            kind: {str(state): count for state, count in counts.items()} for kind, counts in found.counts.items()
        },
    }
