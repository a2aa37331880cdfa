"""`jobctl schedule`: schedules one run of a job, now or later, or adds a schedule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

import msgspec
import typer

from peerjob.cli.console import ExitStatus
from peerjob.handles.instance import Instance
from peerjob.model import errors
from peerjob.model.errors import OptionError
from peerjob.model.job import Job
from peerjob.model.printable import hidden
from peerjob.model.state import State

from . import completion, tables
from .commands import ClientSession, verb
from .errors import CommandError, text_of
from .job_options import JobOptions, option
from .output import to_stderr
from .repeats import RequestId, repeatable


def add_to(app: typer.Typer) -> None:
    """Add this verb to jobctl."""
    verb(app, "schedule")(schedule)


async def schedule(
    session: ClientSession,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="The kind of the job.", show_default=False, autocompletion=completion.kinds
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARGS]...",
            help="The arguments as text, converted by the job's signature; after -- if one begins with a dash.",
            show_default=False,
        ),
    ] = None,
    json_args: Annotated[
        str | None,
        option("All arguments as a JSON array, or as an object of keyword arguments.", metavar="JSON", default="none"),
    ] = None,
    keyword: Annotated[
        list[str] | None,
        option("A keyword argument as text; may be repeated.", "--arg", metavar="NAME=VALUE", default="none"),
    ] = None,
    *,
    options: JobOptions,
    request: RequestId = None,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Accept a kind that no node has published.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", "-w", help="Wait until it is final, and show it; exit status 1 unless it completed."),
    ] = False,
    within: Annotated[
        str | None, typer.Option(metavar="DURATION", show_default="no limit", help="The time limit of --wait.")
    ] = None,
) -> None:
    """Schedule one run of a job; with --cron or --every, add or change a schedule.

    Examples: jobctl schedule add 1 2 --wait; jobctl schedule report --json-args '{"day": "2026-01-31"}' --after 5m;
    jobctl schedule report --cron "0 3 * * *" --name nightly
    """
    given = options.given()
    if options.recurs:
        _check_for_schedule(wait, request)
    args, kwargs = _arguments(arguments or [], keyword or [], json_args)
    job: Job[..., Any] = Job(kind)
    if given:
        job = job.with_options(**cast(Any, given))
    async with session.client() as client, _unknown_kinds():
        call = job.call(*args, **kwargs)
        if options.recurs:
            added = await (client.add_schedule if allow_unknown else client.add_known_schedule)(call)
            session.out.row(added, tables.schedules(session.now))
            return
        with repeatable(client.clock, request) as id:
            instance = await (client.schedule_as if allow_unknown else client.schedule_known)(id, call)
        if instance.id != id:
            to_stderr("an instance with this key exists already")
        if wait:
            await show_end(session, instance, within)
        else:
            session.out.row(instance, tables.instances(session.now))


@asynccontextmanager
async def _unknown_kinds() -> AsyncGenerator[None]:
    """Add the option that accepts an unknown kind to its error."""
    try:
        yield
    except errors.UnknownKindError as error:
        text = f"{text_of(error)}; --allow-unknown schedules it anyway"
        raise CommandError(text, ExitStatus.NOT_FOUND) from None


def _check_for_schedule(wait: bool, request: str | None) -> None:
    """Raise OptionError for options that only one run has."""
    if wait:
        raise OptionError("--wait", "--cron or --every", "one run: a schedule has no end")
    if request is not None:
        raise OptionError("--id", request, "no id with --cron or --every: a schedule is added once in any case")


async def show_end(session: ClientSession, instance: Instance[Any], within: str | None) -> None:
    """Wait for the end of an instance, and show it; raises CommandError unless it completed."""
    try:
        await instance.wait(within)
    except asyncio.CancelledError:
        to_stderr(f"instance {instance.id} goes on; `jobctl wait {instance.id}` waits for it")
        raise
    session.out.one(instance, tables.instances(session.now))
    if instance.state is not State.COMPLETED:
        why = f": {instance.error}" if instance.error is not None else ""
        raise CommandError(f"instance {instance.id} ended in {instance.state!s}{why}")


def _arguments(texts: list[str], keyword: list[str], json: str | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if json is None:
        return tuple(texts), dict(_pair(text) for text in keyword)
    if texts or keyword:
        raise OptionError("--json-args", hidden(json), "no other arguments with it")
    try:
        value = msgspec.json.decode(json, type=cast("type[list[Any] | dict[str, Any]]", list[Any] | dict[str, Any]))
    except (msgspec.MsgspecError, RecursionError) as error:
        # a log of the command must not show secrets
        raise OptionError("--json-args", hidden(json), f"a JSON array or object ({error})") from None
    return ((), value) if isinstance(value, dict) else (tuple(value), {})


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise OptionError("--arg", text, "NAME=VALUE")
    return name, value
