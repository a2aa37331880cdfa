"""The options that several verbs share: those that select instances, and limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer

from peerjob.model.errors import OptionError
from peerjob.model.query import Query
from peerjob.model.state import Level

from . import completion

Kind = Annotated[
    str | None,
    typer.Option("--kind", "-k", show_default="any", help="Only this kind.", autocompletion=completion.kinds),
]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        "-s",
        show_default="any",
        autocompletion=completion.states,
        help="Only this state; may be repeated: created, scheduled, processing, cancelled, timedout, completed, "
        "terminated; active, error, final.",
    ),
]
Tag = Annotated[str | None, typer.Option("--tag", "-t", show_default="any", help="Only with this tag.")]
Parent = Annotated[
    str | None, typer.Option(metavar="UUID", show_default="any", help="Only the children of this instance.")
]
Before = Annotated[
    str | None,
    typer.Option(metavar="TIME", show_default="no bound", help="Created before this time, such as 2026-01-31T08:00Z."),
]
After = Annotated[
    str | None, typer.Option(metavar="TIME", show_default="no bound", help="Created at this time or after it.")
]
Uuid = Annotated[str, typer.Argument(metavar="UUID", help="The id of the instance.", show_default=False)]
Within = Annotated[str | None, typer.Option(metavar="DURATION", show_default="no limit", help="The time limit.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="The maximum to show.")]


@dataclass(frozen=True, kw_only=True)
class InstanceSelection:
    """The options that select instances."""

    kind: Kind = None
    state: States = None
    tag: Tag = None
    parent: Parent = None
    before: Before = None
    after: After = None

    def query(self, *, limit: int = 100, newest: bool = False) -> Query:
        """The query of these options; raises OptionError."""
        return Query(
            kind=self.kind,
            state=tuple(self.state) if self.state else None,
            tag=self.tag,
            parent=self.parent,
            before=time_of("before", self.before),
            after=time_of("after", self.after),
            limit=limit,
            order="desc" if newest else "asc",
        )


def time_of(option: str, text: str | None) -> datetime | None:
    """Like `given_time`; None for no text."""
    return None if text is None else given_time(option, text)


def given_time(option: str, text: str) -> datetime:
    """A time in ISO 8601 with its zone; raises OptionError."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise OptionError(f"--{option}", text, "a time with its zone, such as 2026-01-31T08:00Z or …T08:00+01:00")
    return time


def level_of(names: Iterable[str] | None) -> int | None:
    """The levels with these names, combined; raises OptionError."""
    if not names:
        return None
    combined = 0
    for name in names:
        if name.upper() not in Level.__members__:
            raise OptionError("--level", name, "info, error, warn or debug")
        combined |= Level[name.upper()]
    return combined
