"""`jobctl cancel …`, `run-now`, `retry …` and `wait`: instances selected by id or by options."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from peerjob.cli.console import ExitStatus
from peerjob.handles.instance import Instance
from peerjob.model.durations import to_seconds
from peerjob.model.errors import NodeStateError, OptionError, UnknownInstanceError
from peerjob.model.ids import checked_id, derived_id
from peerjob.model.query import Query
from peerjob.model.state import State
from peerjob.remote.client.client import Client

from . import tables
from .commands import ClientSession, group, verb
from .errors import CommandError, error_report
from .output import to_stderr
from .parts import print_parts
from .query_options import InstanceSelection, Within
from .repeats import RequestId, repeatable

Uuids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[UUID]...", help="The ids of the instances.", show_default="by the options"),
]
Every = Annotated[bool, typer.Option("--all", help="All instances of the namespace.")]


@dataclass(frozen=True, kw_only=True)
class Targets(InstanceSelection):
    """The options that select instances by id, by a query, or all of them."""

    uuids: Uuids = None
    every: Every = False

    def query_unless_ids(self) -> Query | None:
        """The query of the options; None if ids are given. Raises OptionError unless exactly one way is used."""
        query = self.query()
        ways = bool(self.uuids) + (query != Query()) + self.every
        if ways != 1:
            raise OptionError("instances", "several of them" if ways else "nothing", "ids, options, or --all")
        return None if self.uuids else query


def add_to(app: typer.Typer) -> None:
    """Add these verbs to jobctl."""
    for name, function in (("cancel", cancel_instances), ("retry", retry_instances)):
        verbs = group(app, name, (function.__doc__ or "").partition("\n")[0])
        verb(verbs, "instances")(function)
    verb(app, "run-now")(run_now)
    verb(app, "wait")(wait)


async def cancel_instances(
    session: ClientSession,
    chosen: Targets,
) -> int:
    """Cancel queued or running instances, on any node, and show them.

    The exit status is 1 if an instance that was given by id is final already.
    """
    query = chosen.query_unless_ids()
    async with session.client() as client:
        if query is not None:
            return await _show_parts(session, client.cancel_pages(query))
        return await _each(session, client, chosen.uuids or [], _cancelled)


async def run_now(
    session: ClientSession,
    uuids: Annotated[list[str], typer.Argument(metavar="UUID...", help="The ids of the instances.")],
    request: RequestId = None,
) -> int:
    """Make delayed instances due at once, also after a snooze or before a retry, and show them.

    One that is due already stays as it is. The exit status is 1 if an instance runs, is final, or waits for an earlier
    instance of its schedule.
    """
    async with session.client() as client:
        with repeatable(client.clock, request) as id:

            async def move(client: Client, uuid: str) -> Instance[Any]:
                return await _moved(client, uuid, id)

            return await _each(session, client, uuids, move)


async def retry_instances(
    session: ClientSession,
    chosen: Targets,
    request: RequestId = None,
) -> int:
    """Schedule new instances with the arguments and options of final ones, and show the new ones.

    The exit status is 1 if an instance that was given by id is not final.
    """
    query = chosen.query_unless_ids()
    async with session.client() as client:
        with repeatable(client.clock, request) as id:
            if query is not None:
                return await _show_parts(session, client.retry_pages(query, id=id))

            async def retry(client: Client, uuid: str) -> Instance[Any]:
                return await _retried(client, uuid, derived_id(id, checked_id(uuid)))

            return await _each(session, client, chosen.uuids or [], retry)


async def wait(
    session: ClientSession,
    chosen: Targets,
    within: Within = None,
) -> int:
    """Wait until instances are final: those given by id, or all that match.

    Shows the instances given by id. The exit status is 1 unless all of them completed, and 6 if the time was over.
    """
    query = chosen.query_unless_ids()
    seconds = None if within is None else to_seconds(within, "--within")
    async with session.client() as client:
        if query is not None:
            await client.wait(query, seconds)
            if not await client.count(query):
                to_stderr("no instance matches")
            return ExitStatus.OK
        named = [await client.lookup_instance(uuid) for uuid in chosen.uuids or []]
        try:
            async with asyncio.timeout(seconds):
                for instance in named:
                    await instance.wait()
        except TimeoutError:
            raise CommandError(f"not all of them are final after {within}", ExitStatus.TIME_OVER) from None
    incomplete = any(instance.state is not State.COMPLETED for instance in named)
    return _show(session, named, ExitStatus.FAILED if incomplete else ExitStatus.OK)


async def _cancelled(client: Client, uuid: str) -> Instance[Any]:
    done = await client.cancel_instance(uuid)
    instance = await client.lookup_instance(uuid)
    if not done:
        raise CommandError(f"instance {instance.id} is {instance.state!s} already")
    return instance


async def _moved(client: Client, uuid: str, id: str) -> Instance[Any]:
    try:
        await client.run_now(uuid, id=id)
    except NodeStateError as error:
        raise CommandError(str(error)) from None
    return await client.lookup_instance(uuid)


async def _retried(client: Client, uuid: str, id: str) -> Instance[Any]:
    try:
        return await client.retry_instance(uuid, id=id)
    except NodeStateError as error:
        raise CommandError(str(error)) from None


async def _each(
    session: ClientSession, client: Client, uuids: list[str], act: Callable[[Client, str], Awaitable[Instance[Any]]]
) -> int:
    wanted = [checked_id(uuid) for uuid in uuids]  # before the first one is changed
    done: list[Instance[Any]] = []
    status: int = ExitStatus.OK
    try:
        for uuid in wanted:
            try:
                done.append(await act(client, uuid))
            except (CommandError, UnknownInstanceError) as error:
                report = error_report(error)
                if report is None:
                    raise
                to_stderr(report.message)
                status = report.status
    except BaseException:
        # the caller learns which instances are changed, also if the node goes away or Ctrl-C ends the command
        if done:
            _show(session, done, status)
        raise
    return _show(session, done, status)


async def _show_parts(session: ClientSession, parts: AsyncIterator[Sequence[Instance[Any]]]) -> int:
    await print_parts(session.out, parts, tables.instances(session.now))
    return ExitStatus.OK


def _show(session: ClientSession, done: list[Instance[Any]], status: int) -> int:
    if done or status == ExitStatus.OK:
        session.out.many(done, tables.instances(session.now))
    return status
