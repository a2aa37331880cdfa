"""`jobctl show`, `signal` and `retry-flow`: steps, signals, children and flows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer

from peerjob.handles.instance import Instance
from peerjob.model.errors import NodeStateError
from peerjob.model.json_text import json_value
from peerjob.model.query import Query
from peerjob.remote.client.client import Client

from . import tables
from .commands import ClientSession, verb
from .errors import CommandError
from .output import to_stderr
from .query_options import Uuid
from .repeats import RequestId, repeatable

MAX_LINES = 1_000
"""The most instances that a tree shows."""


def add_to(app: typer.Typer) -> None:
    """Add these verbs to jobctl."""
    verb(app, "show")(show)
    verb(app, "signal")(signal)
    verb(app, "retry-flow")(retry_flow)


async def show(
    session: ClientSession,
    uuid: Uuid,
    tree: Annotated[bool, typer.Option("--tree", help="Its children and theirs, below each other.")] = False,
) -> None:
    """Show an instance with its steps and signals, or with --tree the instances below it."""
    async with session.client() as client:
        instance = await client.lookup_instance(uuid)
        if not tree:
            steps = await client.steps(instance)
            table = tables.instances(session.now)
            session.out.one(instance, replace(table, plain=partial(_with_steps, steps)))
            return
        rows = [row async for row in _rows(client, instance)]
    if len(rows) >= MAX_LINES:
        to_stderr(f"there may be more than these {MAX_LINES:,}: jobctl list instances --parent UUID shows all of one")
    text = "\n".join(f"{lines}{_shown(shown)}" for lines, shown in rows)
    session.out.text(text, [shown.to_dict() | {"parent": shown.record.parent or None} for _, shown in rows])


async def signal(
    session: ClientSession,
    uuid: Uuid,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the signal.", show_default=False)],
    value: Annotated[
        str, typer.Argument(metavar="VALUE", help="JSON, such as true, 3 or '\"a text\"'.", show_default=False)
    ],
) -> None:
    """Give an instance the value of a signal. The first value stays; the same value again changes nothing.

    The exit status is 1 if the signal has another value, or the wait for it has timed out, or the instance is final.
    """
    given = json_value(value)
    async with session.client() as client:
        try:
            accepted = await client.signal(uuid, name, given)
        except NodeStateError as error:
            raise CommandError(str(error)) from None
    if not accepted:
        raise CommandError(f"signal {name!r} of instance {uuid} has another value already, or its wait has timed out")


async def retry_flow(session: ClientSession, uuid: Uuid, request: RequestId = None) -> None:
    """Run a final flow again, and show the new instance. Members that completed keep their results.

    The exit status is 1 if the flow is not final.
    """
    async with session.client() as client:
        with repeatable(client.clock, request) as id:
            try:
                made = await client.retry_flow(uuid, id=id)
            except NodeStateError as error:
                raise CommandError(str(error)) from None
    session.out.row(made, tables.instances(session.now))


async def _rows(client: Client, top: Instance[Any]) -> AsyncIterator[tuple[str, Instance[Any]]]:
    """The instances of a tree with the lines before them, each child behind its parent; at most MAX_LINES."""
    shown, left = 0, [("", "", top)]
    while left and shown < MAX_LINES:
        before, below, instance = left.pop()
        yield before, instance
        shown += 1
        page = await client.lookup_instances(Query(parent=instance, limit=MAX_LINES))
        for number, child in enumerate(reversed(page)):
            last = number == 0
            left.append((below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), child))


def _with_steps(steps: dict[str, Any], instance: Instance[Any]) -> dict[str, Any]:
    return instance.to_dict() | {"steps": steps}


def _shown(instance: Instance[Any]) -> str:
    note = instance.waits_for
    if note is None and instance.state.is_final:
        note = str(instance.error) if instance.error is not None else instance.record.history[-1].note
    return f"{instance.id}  {instance.kind}  {instance.state}{f'  {note}' if note else ''}"
