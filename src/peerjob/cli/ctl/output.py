"""Results on standard output: tables fitted to the terminal, JSON, YAML or bare names."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from peerjob.cli.console import complain
from peerjob.cli.printable import printable, printable_json
from peerjob.model.json_text import to_json

from .yaml import to_yaml

T = TypeVar("T")

LEGIBLE = 5
"""Columns of a terminal that a column of a table keeps of its text; in a narrow one it is the last columns that go."""
UNCUT = 100_000
"""Columns of an output that is no terminal."""


class Format(StrEnum):
    """How results are shown."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True, kw_only=True)
class Column(Generic[T]):
    """One column of a table.

    A `wide` one is shown with `-o wide` alone, and one that is `whole` is not cut to fit the terminal before others.
    """

    title: str
    text: Callable[[T], str]
    wide: bool = False
    right: bool = False
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class TableView(Generic[T]):
    """How things of one kind are shown."""

    columns: Sequence[Column[T]]
    name: Callable[[T], str]
    plain: Callable[[T], Any]
    """As values for JSON and YAML."""
    nothing: str = "nothing found"


class Printer:
    """Shows results in the format that was asked for."""

    def __init__(self, format: Format) -> None:
        self.format = format
        self.console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else UNCUT)

    def many(self, things: Sequence[T], view: TableView[T]) -> None:
        """A list of things."""
        match self.format:
            case Format.JSON | Format.YAML:
                self._plain([view.plain(one) for one in things])
            case Format.NAME:
                for one in things:
                    print(printable(view.name(one)))
            case _:
                if things:
                    self.console.print(self.table(things, view))
                else:
                    note(view.nothing)

    def one(self, thing: T, view: TableView[T]) -> None:
        """One thing: as a table, all that is known about it."""
        match self.format:
            case Format.JSON | Format.YAML:
                self._plain(view.plain(thing))
            case Format.NAME:
                print(printable(view.name(thing)))
            case _:
                self.fields(view.plain(thing))

    def row(self, thing: T, view: TableView[T]) -> None:
        """One thing: as a table, one row."""
        if self.format in (Format.TABLE, Format.WIDE):
            self.many([thing], view)
        else:
            self.one(thing, view)

    def fields(self, values: dict[str, Any]) -> None:
        """Names and values below one another, a text of several lines indented; what is empty is left out."""
        width = max((len(name) for name in values), default=0)
        for name, value in json.loads(to_json(values)).items():
            if value not in (None, "", [], {}):
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                first, *more = text.rstrip("\n").split("\n")
                print(f"{printable(name):<{width}}  {printable(first)}")
                for line in more:
                    print(f"{'':<{width}}  {printable(line)}")

    def text(self, text: str, plain: Any) -> None:
        """Something that is a text for people, and values for programs."""
        if self.format in (Format.JSON, Format.YAML):
            self._plain(plain)
        else:
            print(printable(text, lines=True))

    def summary(self, plain: Any, rows: Sequence[T], view: TableView[T]) -> None:
        """Rows that sum up what programs get as other values."""
        if self.format in (Format.JSON, Format.YAML):
            self._plain(plain)
        else:
            self.many(rows, view)

    def event(self, plain: Callable[[], Any], text: str, name: str) -> None:
        """One of many that come one by one, on a line of its own (in YAML, a document)."""
        match self.format:
            case Format.JSON:
                print(printable_json(to_json(plain())), flush=True)
            case Format.YAML:
                print(f"---\n{printable_json(to_yaml(json.loads(to_json(plain()))))}", end="", flush=True)
            case Format.NAME:
                print(printable(name), flush=True)
            case _:
                print(text, flush=True)

    def table(self, things: Iterable[T], view: TableView[T]) -> Table:
        """What `many` shows as a table."""
        columns = [one for one in view.columns if self.format is Format.WIDE or not one.wide]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        rows = [[Text(printable(one.text(thing))) for one in columns] for thing in things]
        for number, one in enumerate(columns):
            width = max((row[number].cell_len for row in rows), default=0)
            least = width if one.whole else min(width, LEGIBLE)
            table.add_column(one.title, no_wrap=True, min_width=least, justify="right" if one.right else "left")
        for row in rows:
            table.add_row(*row)
        return table

    def _plain(self, value: Any) -> None:
        plain = json.loads(to_json(value))
        if self.format is Format.YAML:
            print(printable_json(to_yaml(plain)), end="")
        else:
            print(printable_json(json.dumps(plain, indent=2, ensure_ascii=False)))


def note(text: str) -> None:
    """Say something that is no result."""
    complain("jobctl", printable(text))


def age(then: datetime | None, now: datetime) -> str:
    """How long ago, or how long until: "5s", "in 3m"; "-" for never."""
    if then is None:
        return "-"
    passed = now - then
    return span(passed) if passed >= timedelta() else f"in {span(-passed)}"


def span(time: timedelta) -> str:
    """A stretch of time in its one or two largest units: "4s", "12m", "3h20m", "5d"."""
    seconds = int(time.total_seconds())
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 7200:
        return f"{seconds // 60}m"
    if seconds < 172_800:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
    return f"{seconds // 86_400}d"


def moment(at: datetime | None) -> str:
    """A time in UTC, to the second; "-" for none."""
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%SZ}"


def counted(count: int, what: str) -> str:
    """A number of things: "1 node", "3 nodes"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
