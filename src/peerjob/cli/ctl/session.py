"""What every verb is given, and how a coroutine becomes a command with the options that all share."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Coroutine
from copy import copy
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from peerjob.clock import SystemClock, to_datetime
from peerjob.node.client import client as remote

from .output import Format, Printer
from .settings import Settings, settings_of

Verb = TypeVar("Verb", bound=Callable[..., Coroutine[Any, Any, int | None]])

CONNECTION = "Connection"
SHARED: dict[str, Any] = {
    "output": Annotated[
        Format | None,
        typer.Option("-o", "--output", show_default="table", help="How to show results: wide adds columns."),
    ],
    "address": Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT,…",
            show_default="127.0.0.1:59051",
            help="Nodes to ask, the first that answers. PEERJOB_ADDRESS.",
            rich_help_panel=CONNECTION,
        ),
    ],
    "host": Annotated[
        str | None,
        typer.Option(
            show_default="127.0.0.1", help="One node to ask, in two parts. PEERJOB_HOST.", rich_help_panel=CONNECTION
        ),
    ],
    "port": Annotated[
        int | None,
        typer.Option(min=1, max=65_535, show_default="59051", help="PEERJOB_PORT.", rich_help_panel=CONNECTION),
    ],
    "tls": Annotated[
        bool | None,
        typer.Option(
            "--tls/--no-tls",
            show_default="with any --tls-… option",
            help="Speak TLS. PEERJOB_TLS.",
            rich_help_panel=CONNECTION,
        ),
    ],
    "tls_ca": Annotated[
        Path | None,
        typer.Option(
            show_default="well-known CAs",
            help="Who signed the nodes' certificates, a PEM file. PEERJOB_TLS_CA.",
            rich_help_panel=CONNECTION,
        ),
    ],
    "tls_cert": Annotated[
        Path | None,
        typer.Option(
            show_default="none",
            help="Certificate to show, where nodes ask for one. PEERJOB_TLS_CERT.",
            rich_help_panel=CONNECTION,
        ),
    ],
    "tls_key": Annotated[
        Path | None, typer.Option(show_default="none", help="Its key. PEERJOB_TLS_KEY.", rich_help_panel=CONNECTION)
    ],
    "tls_server_name": Annotated[
        str | None,
        typer.Option(
            show_default="the address",
            help="The name in the nodes' certificates. PEERJOB_TLS_SERVER_NAME.",
            rich_help_panel=CONNECTION,
        ),
    ],
    "token": Annotated[
        str | None,
        typer.Option(
            show_default="none",
            help="Who calls. Other users of this machine can see it here: rather use PEERJOB_TOKEN or a file.",
            rich_help_panel=CONNECTION,
        ),
    ],
    "token_file": Annotated[
        Path | None,
        typer.Option(
            show_default="none", help="A file with the token in it. PEERJOB_TOKEN_FILE.", rich_help_panel=CONNECTION
        ),
    ],
    "request_timeout": Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            show_default="30s",
            help="Most for one answer. PEERJOB_REQUEST_TIMEOUT.",
            rich_help_panel=CONNECTION,
        ),
    ],
    "context": Annotated[
        str | None,
        typer.Option(
            show_default="`context` in the file, else none",
            help="Which context of the file to use. PEERJOB_CONTEXT.",
            rich_help_panel=CONNECTION,
        ),
    ],
    "config": Annotated[
        Path | None,
        typer.Option(
            show_default="~/.config/peerjob/config.toml",
            help="The file of contexts. PEERJOB_CONFIG.",
            rich_help_panel=CONNECTION,
        ),
    ],
}
"""The options of every verb, and of `jobctl` itself."""
EPILOG = "Options of the connection (--address, --token-file, --context, …) may stand here, too: see jobctl --help."


class Session:
    """Where to connect, and how to show."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = SystemClock()
        self.out = Printer(settings.output)

    def client(self) -> remote.Client:
        """A client, to be used in `async with`."""
        settings = self.settings
        return remote.Client(settings.target, token=settings.token, tls=settings.tls, timeout=settings.timeout)

    @property
    def now(self) -> datetime:
        """By this machine's clock."""
        return to_datetime(self.clock.time_us())


def shared_options(ctx: typer.Context, **given: Any) -> None:
    """Keep what was said before the verb."""
    ctx.obj = given


def _declare(command: Callable[..., Any], own: list[inspect.Parameter], *, hidden: bool) -> None:
    """Tell typer what a command takes: its own parameters, and the options that all share."""
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    shared = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=_hidden(kind) if hidden else kind, default=None
        )
        for name, kind in SHARED.items()
    ]
    command.__signature__ = inspect.Signature([context, *own, *shared])  # type: ignore[attr-defined]
    command.__annotations__ = {}


def _hidden(kind: Any) -> Any:
    """The same option, left out of the help where it is about the connection."""
    bare, (option,) = kind.__origin__, kind.__metadata__
    if option.rich_help_panel != CONNECTION:
        return kind
    option = copy(option)
    option.hidden = True
    return Annotated[bare, option]


_declare(shared_options, [], hidden=False)


def verb(app: typer.Typer, name: str, **settings: Any) -> Callable[[Verb], Verb]:
    """Make a command of a coroutine that takes a Session and what its own options say; it returns a status or None."""

    def make(function: Verb) -> Verb:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def command(ctx: typer.Context, **given: Any) -> int | None:
            before: dict[str, Any] = ctx.find_root().obj or {}
            said = {one: given.pop(one) for one in SHARED}
            both = {one: before.get(one) if value is None else value for one, value in said.items()}
            return asyncio.run(function(Session(settings_of(both, os.environ)), **given))

        _declare(command, [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own], hidden=True)
        command.__doc__ = function.__doc__
        app.command(name, epilog=EPILOG, **settings)(command)
        return function

    return make


def group(parent: typer.Typer, name: str, help: str) -> typer.Typer:
    """A verb that has verbs below it."""
    made = typer.Typer(help=help, no_args_is_help=True)
    parent.add_typer(made, name=name)
    return made
