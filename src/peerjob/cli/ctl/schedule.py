"""`jobctl schedule`: schedules one run of a job, now or later, or adds a schedule."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

import msgspec
import typer

from peerjob.cli.console import ExitStatus
from peerjob.handles.instance import Instance
from peerjob.model import errors
from peerjob.model.definition import DEFAULT_MISFIRE_LIMIT, DEFAULT_QUEUE_LIMIT
from peerjob.model.errors import OptionError
from peerjob.model.job import Job
from peerjob.model.policy import Backoff
from peerjob.model.state import State

from . import completion, tables
from .commands import ClientSession, verb
from .errors import CommandError, text_of
from .output import to_stderr
from .repeats import RequestId, repeatable

WHEN, HOW, RECURRENCE = "When", "How it runs", "Recurrence"
DEFINED = "as the job defines it"
RECURRENT = ("name", "description", "overlap", "queue_limit", "misfire", "misfire_limit", "start_deadline")


def _option(help: str, *names: str, panel: str = HOW, default: str = DEFINED, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=default, metavar=metavar)


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
        _option("All arguments as a JSON array, or as an object of keyword arguments.", metavar="JSON", default="none"),
    ] = None,
    keyword: Annotated[
        list[str] | None,
        _option("A keyword argument as text; may be repeated.", "--arg", metavar="NAME=VALUE", default="none"),
    ] = None,
    at: Annotated[str | None, _option("Run at this time.", panel=WHEN, metavar="TIME", default="now")] = None,
    after: Annotated[
        str | None, _option("Run after this delay.", panel=WHEN, metavar="DURATION", default="now")
    ] = None,
    cron: Annotated[
        str | None, _option("Add or change a schedule with a cron text.", panel=RECURRENCE, default="none")
    ] = None,
    every: Annotated[
        str | None,
        _option("Add or change a schedule with an interval.", panel=RECURRENCE, metavar="DURATION", default="none"),
    ] = None,
    timezone: Annotated[
        str | None,
        _option(
            "The time zone of --cron and --at.",
            panel=WHEN,
            default="the node's; --at needs one unless it has an offset",
        ),
    ] = None,
    name: Annotated[str | None, _option("The name of the schedule.", panel=RECURRENCE, default="the kind")] = None,
    description: Annotated[
        str | None, _option("The purpose of the schedule.", panel=RECURRENCE, default="none")
    ] = None,
    jitter: Annotated[
        str | None,
        _option(
            "The maximum random delay after the time of --at, --after or --cron.",
            panel=WHEN,
            metavar="DURATION",
            default="0",
        ),
    ] = None,
    overlap: Annotated[
        str | None,
        _option(
            "If the previous instance is not final: allow, skip, queue or replace.",
            panel=RECURRENCE,
            default="skip",
            metavar="WHAT",
        ),
    ] = None,
    queue_limit: Annotated[
        int | None,
        _option(
            "The most instances that wait, with queue.", panel=RECURRENCE, default=str(DEFAULT_QUEUE_LIMIT), metavar="N"
        ),
    ] = None,
    misfire: Annotated[
        str | None,
        _option(
            "For times that no leader fired: skip, run_once or run_all.",
            panel=RECURRENCE,
            default="run_once",
            metavar="WHAT",
        ),
    ] = None,
    misfire_limit: Annotated[
        int | None,
        _option(
            "The most missed times that run, with run_all.",
            panel=RECURRENCE,
            default=str(DEFAULT_MISFIRE_LIMIT),
            metavar="N",
        ),
    ] = None,
    start_deadline: Annotated[
        str | None,
        _option("The maximum lateness of a fire.", panel=RECURRENCE, metavar="DURATION", default="no bound"),
    ] = None,
    priority: Annotated[int | None, _option("Lower numbers run first.", "--priority", "-p", metavar="N")] = None,
    max_retries: Annotated[str | None, _option("The most retries: a number, or forever.", metavar="N")] = None,
    retry_on: Annotated[list[str] | None, _option("The class of an error to retry.", metavar="ERROR")] = None,
    no_retry_on: Annotated[list[str] | None, _option("The class of an error never to retry.", metavar="ERROR")] = None,
    backoff: Annotated[
        str | None, _option("The wait before a retry, or before the first one.", metavar="DURATION")
    ] = None,
    backoff_factor: Annotated[float | None, _option("The factor between two waits.", metavar="X", default="1")] = None,
    backoff_max: Annotated[str | None, _option("The longest wait.", metavar="DURATION", default="5m")] = None,
    backoff_jitter: Annotated[float | None, _option("The random share of a wait.", metavar="0..1", default="0")] = None,
    timeout: Annotated[str | None, _option("The time limit of one run.", metavar="DURATION")] = None,
    run_in: Annotated[
        str | None, _option("Where the job runs: auto, async, thread or process.", metavar="WHERE")
    ] = None,
    on_store_loss: Annotated[
        str | None, _option("If the node loses the store: cancel or continue.", metavar="WHAT")
    ] = None,
    max_crashes: Annotated[int | None, _option("The node deaths that the instance survives.", metavar="N")] = None,
    key: Annotated[
        str | None,
        _option(
            "At most one instance of a kind and key at a time; a second call returns that instance.", default="none"
        ),
    ] = None,
    tag: Annotated[list[str] | None, _option("A label; may be repeated.", "--tag", "-t", default="none")] = None,
    retention: Annotated[
        str | None,
        _option("How long the final instance is kept.", metavar="DURATION", default="as the store is configured"),
    ] = None,
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
    plain = {
        "at": at, "after": after, "cron": cron, "every": every, "timezone": timezone, "name": name,
        "description": description, "jitter": jitter, "overlap": overlap, "queue_limit": queue_limit,
        "misfire": misfire, "misfire_limit": misfire_limit, "start_deadline": start_deadline, "priority": priority,
        "timeout": timeout, "run_in": run_in, "on_store_loss": on_store_loss, "max_crashes": max_crashes, "key": key,
        "tags": tuple(tag) if tag else None, "retention": retention,
    }  # fmt: skip
    options: dict[str, Any] = {option: value for option, value in plain.items() if value is not None}
    if max_retries is not None:
        options["max_retries"] = _retries(max_retries)
    for option, classes in (("retry_on", retry_on), ("no_retry_on", no_retry_on)):
        if classes:
            options[option] = _error_classes(option, classes)
    if (wanted := _backoff(backoff, backoff_factor, backoff_max, backoff_jitter)) is not None:
        options["backoff"] = wanted
    recurs = cron is not None or every is not None
    if not recurs and (misplaced := [option for option in RECURRENT if option in options]):
        raise OptionError(f"--{misplaced[0].replace('_', '-')}", options[misplaced[0]], "--cron or --every with it")
    if jitter is not None and not recurs and at is None and after is None:
        raise OptionError("--jitter", jitter, "--at, --after, --cron or --every with it")
    if recurs:
        _check_for_schedule(wait, request)
    args, kwargs = _arguments(arguments or [], keyword or [], json_args)
    job: Job[..., Any] = Job(kind)
    if options:
        job = job.with_options(**cast(Any, options))
    async with session.client() as client, _unknown_kinds():
        call = job.call(*args, **kwargs)
        if recurs:
            added = await (client.add_schedule if allow_unknown else client.add_known_schedule)(call)
            session.out.row(added, tables.schedules(session.now))
            return
        with repeatable(client.clock, request) as id:
            instance = await (client.schedule_as if allow_unknown else client.schedule_known)(id, call)
        if instance.id != id:
            to_stderr("an instance with this key exists already")
        if wait:
            await _show_end(session, instance, within)
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


async def _show_end(session: ClientSession, instance: Instance[Any], within: str | None) -> None:
    await instance.wait(within)
    session.out.one(instance, tables.instances(session.now))
    if instance.state is not State.COMPLETED:
        why = f": {instance.error}" if instance.error is not None else ""
        raise CommandError(f"instance {instance.id} ended in {instance.state!s}{why}")


def _arguments(texts: list[str], keyword: list[str], json: str | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if json is None:
        return tuple(texts), dict(_pair(text) for text in keyword)
    if texts or keyword:
        raise OptionError("--json-args", f"{len(json):,} characters", "no other arguments with it")
    try:
        value = msgspec.json.decode(json, type=cast("type[list[Any] | dict[str, Any]]", list[Any] | dict[str, Any]))
    except (msgspec.MsgspecError, RecursionError) as error:
        # a log of the command must not show secrets
        raise OptionError("--json-args", f"{len(json):,} characters", f"a JSON array or object ({error})") from None
    return ((), value) if isinstance(value, dict) else (tuple(value), {})


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise OptionError("--arg", text, "NAME=VALUE")
    return name, value


def _retries(text: str) -> int | None:
    if text.casefold() in ("forever", "inf"):
        return None
    if not text.isdecimal():
        raise OptionError("--max-retries", text, "a whole number of 0 or more, or forever")
    return int(text)


def _backoff(wait: str | None, factor: float | None, longest: str | None, jitter: float | None) -> Any:
    if factor is None and longest is None and jitter is None:
        return wait
    if wait is None:
        raise OptionError("--backoff", None, "the first wait, since other --backoff options are set")
    return Backoff.exponential(
        initial=wait,
        factor=1.0 if factor is None else factor,
        max="5m" if longest is None else longest,
        jitter=0.0 if jitter is None else jitter,
    )


def _error_classes(option: str, names: Iterable[str]) -> tuple[type[BaseException], ...]:
    classes = [getattr(builtins, name, None) or getattr(errors, name, None) for name in names]
    for name, error_class in zip(names, classes, strict=True):
        if not (isinstance(error_class, type) and issubclass(error_class, BaseException)):
            raise OptionError(f"--{option.replace('_', '-')}", name, "a built-in error class, or one of peerjob")
    return tuple(cast("list[type[BaseException]]", classes))
