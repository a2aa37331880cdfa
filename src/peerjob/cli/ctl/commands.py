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

from peerjob.model.clock import SystemClock, to_datetime
from peerjob.remote.client import client as remote

from .output import Format, Printer
from .settings import CtlSettings, settings_of

Verb = TypeVar("Verb", bound=Callable[..., Coroutine[Any, Any, int | None]])

CONNECTION = "Connection"


def _connection(help: str, *names: str, default: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=default, rich_help_panel=CONNECTION, **more)


SHARED: dict[str, Any] = {
    "output": Annotated[
        Format | None,
        typer.Option("-o", "--output", show_default="table", help="How to show results: wide adds columns."),
    ],
    "address": Annotated[
        str | None,
        _connection(
            "Nodes to ask, the first that answers. PEERJOB_ADDRESS.",
            metavar="HOST:PORT,…",
            default="127.0.0.1:59051",
        ),
    ],
    "host": Annotated[str | None, _connection("One node to ask, in two parts. PEERJOB_HOST.", default="127.0.0.1")],
    "port": Annotated[int | None, _connection("PEERJOB_PORT.", min=1, max=65_535, default="59051")],
    "tls": Annotated[
        bool | None, _connection("Speak TLS. PEERJOB_TLS.", "--tls/--no-tls", default="with any --tls-… option")
    ],
    "tls_ca": Annotated[
        Path | None,
        _connection("Who signed the nodes' certificates, a PEM file. PEERJOB_TLS_CA.", default="well-known CAs"),
    ],
    "tls_cert": Annotated[
        Path | None,
        _connection("Certificate to show, where nodes ask for one. PEERJOB_TLS_CERT.", default="none"),
    ],
    "tls_key": Annotated[Path | None, _connection("Its key. PEERJOB_TLS_KEY.", default="none")],
    "tls_server_name": Annotated[
        str | None,
        _connection("The name in the nodes' certificates. PEERJOB_TLS_SERVER_NAME.", default="the address"),
    ],
    "token": Annotated[
        str | None,
        _connection(
            "Who calls. Other users of this machine can see it here: rather use PEERJOB_TOKEN or a file.",
            default="none",
        ),
    ],
    "token_file": Annotated[
        Path | None, _connection("A file with the token in it. PEERJOB_TOKEN_FILE.", default="none")
    ],
    "request_timeout": Annotated[
        str | None,
        _connection("Most for one answer. PEERJOB_REQUEST_TIMEOUT.", metavar="DURATION", default="30s"),
    ],
    "context": Annotated[
        str | None,
        _connection("Which context of the file to use. PEERJOB_CONTEXT.", default="`context` in the file, else none"),
    ],
    "config": Annotated[
        Path | None,
        _connection("The file of contexts. PEERJOB_CONFIG.", default="~/.config/peerjob/config.toml"),
    ],
}
"""The options of every verb, and of `jobctl` itself."""
EPILOG = "Options of the connection (--address, --token-file, --context, …) may stand here, too: see jobctl --help."


class ClientSession:
    """Where to connect, and how to show."""

    def __init__(self, settings: CtlSettings) -> None:
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
    """Make a command of a coroutine that takes a ClientSession and its own options; it returns a status or None."""

    def make(function: Verb) -> Verb:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def command(ctx: typer.Context, **given: Any) -> int | None:
            before: dict[str, Any] = ctx.find_root().obj or {}
            said = {one: given.pop(one) for one in SHARED}
            both = {one: before.get(one) if value is None else value for one, value in said.items()}
            return asyncio.run(function(ClientSession(settings_of(both, os.environ)), **given))

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
