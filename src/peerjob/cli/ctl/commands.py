"""The session that each verb gets, and how a coroutine becomes a command with the options that all verbs share."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import signal
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup

from peerjob.cli.console import VersionOption
from peerjob.cli.settings import arguments_of, declare, options_of, parameters_of
from peerjob.model.clock import SystemClock, to_datetime
from peerjob.remote.client import client as remote

from .output import Printer
from .settings import CONNECTION, OPTIONS, CtlOptions, CtlSettings, settings_of

Verb = TypeVar("Verb", bound=Callable[..., Coroutine[Any, Any, int | None]])

EPILOG = "The options of the connection (--address, --token-file, --context, …) work here too: see jobctl --help."


class ClientSession:
    """The connection and the output of one command."""

    def __init__(self, settings: CtlSettings) -> None:
        self.settings = settings
        self.clock = SystemClock()
        self.out = Printer(settings.output)

    def client(self) -> remote.Client:
        """A client, for `async with`."""
        settings = self.settings
        return remote.Client(settings.target, token=settings.token, tls=settings.tls, timeout=settings.timeout)

    @property
    def now(self) -> datetime:
        """The time by the clock of this machine."""
        return to_datetime(self.clock.time_us())


def shared_options(ctx: typer.Context, **given: Any) -> None:
    """Keep the options that stand before the verb."""
    ctx.obj = given


_VERSION = inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=VersionOption)
declare(shared_options, [*parameters_of(CtlOptions, environment=False), _VERSION])


def verb(app: typer.Typer, name: str, **settings: Any) -> Callable[[Verb], Verb]:
    """Make a command of a coroutine that takes a ClientSession and its own options, and returns a status or None.

    An option may also be a table of options, such as `InstanceSelection`.
    """

    def make(function: Verb) -> Verb:
        own = options_of(function, environment=False)

        def command(ctx: typer.Context, **given: Any) -> int | None:
            before: dict[str, Any] = ctx.find_root().obj or {}
            after = {option: given.pop(option) for option in OPTIONS}
            both = {option: before.get(option) if value is None else value for option, value in after.items()}
            return asyncio.run(function(ClientSession(settings_of(both, os.environ)), **arguments_of(function, given)))

        shared = parameters_of(CtlOptions, environment=False, hidden=CONNECTION)
        declare(command, [*own, *shared])
        # one line a paragraph, because the help keeps the line breaks of the code
        command.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(function) or "")
        app.command(name, epilog=EPILOG, **settings)(command)
        return function

    return make


class VerbGroup(TyperGroup):
    """Finds a verb by the singular and by the plural of its object: `list node` is `list nodes`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        other = cmd_name.removesuffix("s") if cmd_name.endswith("s") else f"{cmd_name}s"
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, other)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        unknown = self.get_command(ctx, args[0]) is None and not args[0].startswith("-")
        if unknown and ctx.parent is not None and not ctx.resilient_parsing:
            # an id in place of the object is the usual mistake: `jobctl retry 01a2…`
            ctx.fail(f"No such command {args[0]!r}: expected {', '.join(self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


class ListingGroup(VerbGroup):
    """A group that lists its objects if no verb is given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        lists = not args or (args[0].startswith("-") and args[0] not in {"-h", "--help"})
        return super().parse_args(ctx, ["list", *args] if lists else args)


def group(parent: typer.Typer, name: str, help: str, *, cls: type[VerbGroup] = VerbGroup) -> typer.Typer:
    """A command that has verbs below it."""
    lists = cls is ListingGroup
    made = typer.Typer(help=f"{help}{' Without a verb, it lists them.' * lists}", no_args_is_help=not lists, cls=cls)
    parent.add_typer(made, name=name)
    return made


@contextmanager
def interruptible() -> Generator[None]:
    """Let Ctrl-C end a blocking call: the handler of the event loop takes effect only after such a call."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
