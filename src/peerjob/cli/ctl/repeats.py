"""`--id`: a command that is given again makes nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from typing import Annotated

import typer

from peerjob.model.clock import Clock
from peerjob.model.errors import NodeUnavailableError, StoreUnavailableError
from peerjob.model.ids import IdSource, checked_id

from .output import to_stderr

RequestId = Annotated[
    str | None,
    typer.Option(
        "--id",
        metavar="UUID",
        show_default="a new one",
        help="A UUIDv7 of about now. The same command with the same id makes nothing twice.",
    ),
]


@contextlib.contextmanager
def repeatable(clock: Clock, given: str | None) -> Generator[str]:
    """Give the id of a command; if the answer is lost, tell how to repeat the command. Raises OptionError.

    The answer is lost also if the user interrupts the command with Ctrl-C.
    """
    id = IdSource(clock).one() if given is None else checked_id(given, "--id")
    try:
        yield id
    except (NodeUnavailableError, StoreUnavailableError, TimeoutError, asyncio.CancelledError):
        to_stderr(f"it is not known whether this took effect: the same command with --id {id} makes nothing twice")
        raise
