"""`jobctl clear …`: removes data of final instances, or all instances, after a confirmation."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from peerjob.cli.console import ExitStatus
from peerjob.model.ages import moment
from peerjob.model.durations import to_seconds
from peerjob.model.printable import counted
from peerjob.model.query import Filter
from peerjob.remote.client.client import Client

from .commands import ClientSession, group, interruptible, verb
from .errors import CommandError
from .output import to_stderr
from .query_options import After, Before, time_of

OlderThan = Annotated[
    str | None,
    typer.Option(metavar="DURATION", show_default="no bound", help="Created longer ago than this, such as 7d."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; required without a terminal.")]


@dataclass(frozen=True, kw_only=True)
class Ages:
    """The options that select final instances by their age."""

    before: Before = None
    after: After = None
    older_than: OlderThan = None

    def filter(self) -> Filter:
        """The filter of these options; raises OptionError."""
        if self.older_than is not None:
            to_seconds(self.older_than, "--older-than")
        before, after = time_of("before", self.before), time_of("after", self.after)
        return Filter(before=before, after=after, older_than=self.older_than)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to jobctl."""
    verbs = group(app, "clear", "Remove data of final instances, or all instances.")
    verb(verbs, "instances")(clear_instances)
    verb(verbs, "history")(clear_history)
    verb(verbs, "logs")(clear_logs)
    verb(verbs, "all")(clear_all)


async def clear_instances(session: ClientSession, chosen: Ages, yes: Yes = False) -> None:
    """Remove final instances, with their results, logs and histories."""
    await _clear(session, Client.clear_instances, "", chosen.filter(), yes=yes)


async def clear_history(session: ClientSession, chosen: Ages, yes: Yes = False) -> None:
    """Remove all but the last state from the histories of final instances."""
    await _clear(session, Client.clear_history, "history of ", chosen.filter(), yes=yes)


async def clear_logs(session: ClientSession, chosen: Ages, yes: Yes = False) -> None:
    """Remove the logs of final instances."""
    await _clear(session, Client.clear_logs, "logs of ", chosen.filter(), yes=yes)


async def clear_all(session: ClientSession, yes: Yes = False) -> None:
    """Remove all instances of the namespace, queued and running ones too."""
    _ask("Remove all instances of the namespace, queued and running ones too?", yes=yes)
    async with session.client() as client:
        await client.clear()
    to_stderr("removed all instances of the namespace")


async def _clear(
    session: ClientSession,
    clear: Callable[[Client, Filter], Awaitable[int]],
    part: str,
    chosen: Filter,
    *,
    yes: bool,
) -> None:
    """Ask for confirmation, remove a part of the chosen instances ("": all of each), and print their number."""
    _ask(f"Remove {part and f'the {part}'}all final instances{_bounds(chosen)}?", yes=yes)
    async with session.client() as client:
        count = await clear(client, chosen)
    session.out.text(f"{part}{counted(count, 'instance')} removed", {"count": count})


def _bounds(chosen: Filter) -> str:
    """The limits of a filter, as text for the question."""
    after = "" if chosen.after is None else f" at or after {moment(chosen.after)}"
    before = "" if chosen.before is None else f" before {moment(chosen.before)}"
    older = "" if chosen.older_than is None else f" more than {chosen.older_than} ago"
    bounds = " and".join(filter(None, (after, before, older)))
    return f" that were created{bounds}" if bounds else ""


def _ask(question: str, *, yes: bool) -> None:
    """Ask for confirmation; raises CommandError unless the user agrees."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError("there is no terminal for a confirmation: use --yes", ExitStatus.USAGE)
    with interruptible():
        agreed = typer.confirm(question, err=True)
    if not agreed:
        raise CommandError("nothing was removed")
