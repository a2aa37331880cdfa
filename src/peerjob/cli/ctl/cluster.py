"""`jobctl workers …`, `drain`, `undrain`, `leader`, `stats`: the cluster and its nodes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from peerjob.handles.stats import Stats
from peerjob.model.ages import moment
from peerjob.model.firing import Leader
from peerjob.model.printable import counted
from peerjob.model.state import SINGLE, State
from peerjob.model.worker import Worker

from . import completion
from .commands import ClientSession, ListingGroup, group, verb
from .errors import CommandError
from .output import Column, TableView, to_stderr
from .query_options import Within

LEADERS: TableView[Leader] = TableView(
    columns=(
        Column(title="LEADER", text=lambda leader: leader.name),
        Column(title="TERM", text=lambda leader: str(leader.term.number), right=True),
        Column(title="SINCE", text=lambda leader: moment(leader.since), whole=True),
        Column(title="COORDINATOR", text=lambda leader: leader.term.coordinator),
        Column(title="INCARNATION", text=lambda leader: leader.incarnation, wide=True),
    ),
    name=lambda leader: leader.name,
    plain=lambda leader: {
        "name": leader.name,
        "incarnation": leader.incarnation,
        "term": leader.term.number,
        "coordinator": leader.term.coordinator,
        "since": None if leader.since is None else leader.since.isoformat(),
    },
)

WORKERS: TableView[Worker] = TableView(
    columns=(
        Column(title="WORKER", text=lambda worker: str(worker.number), right=True),
        Column(title="NODE", text=lambda worker: worker.node),
        Column(
            title="RUNS",
            text=lambda worker: f"{worker.instance or '-'}{' (stuck)' if worker.stuck else ''}",
            whole=True,
        ),
        Column(title="KIND", text=lambda worker: worker.kind or "-"),
    ),
    name=lambda worker: str(worker.number),
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
        Column(title="KIND", text=lambda row: row[0]),
        *map(_counted, COUNTED),
        Column(title="UNSERVED", text=lambda row: str(row[2]), right=True),
    ),
    name=lambda row: row[0],
    plain=lambda row: row[0],
    nothing="no instances",
    empty="0",
)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to jobctl."""
    verbs = group(
        app, "workers", "Show the workers of the node that answers, and resize those of a node.", cls=ListingGroup
    )
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
    to_stderr(f"{_subject(node, name)} has {counted(count, 'worker')} now")


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
    within: Within = None,
) -> None:
    """Let a node claim nothing more, and wait until nothing runs there.

    The node stays in the cluster and continues to answer, until undrain lets it take work again. If jobs still run when
    the time is over, the exit status is 6, and the node still drains.
    """
    async with session.client() as client:
        name = await client.drain(within, node=node)
    to_stderr(f"{_subject(node, name)} is drained")


async def undrain(session: ClientSession, node: NodeName = None) -> None:
    """Let a node take work again that drains or is drained."""
    async with session.client() as client:
        name = await client.undrain(node=node)
    to_stderr(f"{_subject(node, name)} takes work")


def _subject(given: str | None, name: str) -> str:
    """The node of a message: its name, or what the user gave to a node of a release that tells no name."""
    return f"node {name or given}" if name or given else "the node"


async def leader(session: ClientSession) -> None:
    """Show the leader, which fires the schedules. The exit status is 1 if no leader is known."""
    async with session.client() as client:
        leader = await client.leader()
    if leader is None:
        raise CommandError("no leader is known: schedules do not fire until there is one")
    session.out.row(leader, LEADERS)


async def stats(session: ClientSession) -> None:
    """Show the numbers of instances, by kind and state."""
    async with session.client() as client:
        stats = await client.stats()
    session.out.summary(_plain(stats), tallies(stats), KINDS)


def tallies(stats: Stats) -> list[Tallies]:
    """A row for each kind with instances, and one for all kinds if there are several."""
    kinds = sorted(kind for kind in stats.counts if stats.total(kind=kind))
    rows: list[Tallies] = [(kind, stats.counts[kind], stats.unserved.get(kind, 0)) for kind in kinds]
    if len(rows) > 1:
        rows.append(("(all)", {state: stats.total(state) for state in COUNTED}, sum(stats.unserved.values())))
    return rows


def _plain(stats: Stats) -> dict[str, Any]:
    return {
        "nodes": stats.nodes,
        "delayed": stats.delayed,
        "undecodable": stats.undecodable,
        "settling": stats.settling,
        "unserved": stats.unserved,
        "counts": {
            kind: {str(state): count for state, count in counts.items()} for kind, counts in stats.counts.items()
        },
    }
