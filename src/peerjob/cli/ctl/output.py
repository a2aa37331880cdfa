"""Results on standard output: tables that fit the terminal, JSON, YAML or names."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Generic, TypeVar

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from peerjob.cli.console import complain
from peerjob.cli.result_console import result_console
from peerjob.model.json_text import to_json
from peerjob.model.printable import printable, printable_json

from .yaml import to_yaml

T = TypeVar("T")

MIN_WIDTH = 8
"""The fewest characters of a text. If a terminal has no room for so many, the last columns are left out."""
GAP = 2
"""Spaces between two columns."""


class Format(StrEnum):
    """The format of results."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True, kw_only=True)
class Column(Generic[T]):
    """One column of a table.

    A `wide` column is shown only with `-o wide`. A `whole` column is cut only after the others, and so is one with its
    cells at the `right`, since a part of a number is another number.
    """

    title: str
    text: Callable[[T], str]
    wide: bool = False
    right: bool = False
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class TableView(Generic[T]):
    """How objects of one type are shown."""

    columns: Sequence[Column[T]]
    name: Callable[[T], str]
    plain: Callable[[T], Any]
    """Returns the object as values for JSON and YAML."""
    nothing: str = "nothing found"
    empty: str = "-"
    """A terminal without room for all columns first leaves out those that have only this text."""
    alert: Callable[[T], bool] | None = None
    """Returns whether the row is shown in red."""


class Printer:
    """Prints results in one format."""

    def __init__(self, format: Format) -> None:
        self.format = format
        self.console = result_console()

    def many(self, things: Sequence[T], view: TableView[T]) -> None:
        """Print a list of objects."""
        match self.format:
            case Format.JSON | Format.YAML:
                self._plain([view.plain(thing) for thing in things])
            case Format.NAME:
                for thing in things:
                    print(printable(view.name(thing)))
            case _:
                if not things:
                    to_stderr(view.nothing)
                    return
                view = self._fitting(things, view)
                table = self.table(things, view)
                self.console.print(table)
                self.report_hidden(table, view)

    def report_hidden(self, table: Table, view: TableView[T]) -> None:
        """Name the columns for which the terminal had no room."""
        if hidden := [column.title for column in self._columns(view)[len(table.columns) :]]:
            to_stderr(f"no room for {', '.join(hidden)}: use a wider terminal, or -o json")

    def one(self, thing: T, view: TableView[T]) -> None:
        """Print one object; as a table, all its fields."""
        match self.format:
            case Format.JSON | Format.YAML:
                self._plain(view.plain(thing))
            case Format.NAME:
                print(printable(view.name(thing)))
            case _:
                self.fields(view.plain(thing))

    def row(self, thing: T, view: TableView[T]) -> None:
        """Print one object; as a table, one row."""
        if self.format in (Format.TABLE, Format.WIDE):
            self.many([thing], view)
        else:
            self.one(thing, view)

    def fields(self, values: dict[str, Any]) -> None:
        """Print names and values, one below the other, without empty ones. Further lines of a text are indented."""
        width = max((len(name) for name in values), default=0)
        for name, value in json.loads(to_json(values)).items():
            if value not in (None, "", [], {}):
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                first, *more = text.rstrip("\n").split("\n")
                print(f"{printable(name):<{width}}  {printable(first)}")
                for line in more:
                    print(f"{'':<{width}}  {printable(line)}")

    def text(self, text: str, plain: Any) -> None:
        """Print a text for people, or values for programs."""
        if self.format in (Format.JSON, Format.YAML):
            self._plain(plain)
        else:
            print(printable(text, lines=True))

    def summary(self, plain: Any, rows: Sequence[T], view: TableView[T]) -> None:
        """Print rows for people, or other values for programs."""
        if self.format in (Format.JSON, Format.YAML):
            self._plain(plain)
        else:
            self.many(rows, view)

    def event(self, plain: Callable[[], Any], text: str, name: str) -> None:
        """Print one event of a stream, on one line (in YAML, as a document)."""
        match self.format:
            case Format.JSON:
                print(printable_json(to_json(plain())), flush=True)
            case Format.YAML:
                print(f"---\n{printable_json(to_yaml(json.loads(to_json(plain()))))}", end="", flush=True)
            case Format.NAME:
                print(printable(name), flush=True)
            case _:
                print(text, flush=True)

    def table(self, things: Sequence[T], view: TableView[T], *, below: Table | None = None) -> Table:
        """The table that `many` prints; without the last columns, if the terminal has no room for them.

        A table `below` another one has no header, and columns of at least the same widths.
        """
        columns = self._columns(view)
        rows = [[Text(printable(column.text(thing))) for column in columns] for thing in things]
        needs: list[tuple[int, int]] = []
        for number, column in enumerate(columns):
            wanted = max([len(column.title), *(row[number].cell_len for row in rows)])
            if below is not None and number < len(below.columns):
                wanted = max(wanted, below.columns[number].width or 0)
            needs.append((wanted if column.whole or column.right else min(wanted, MIN_WIDTH), wanted))
        widths = _widths(needs, self.console.width)
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", show_header=below is None)
        for column, width in zip(columns, widths, strict=False):
            table.add_column(column.title, no_wrap=True, width=width, justify="right" if column.right else "left")
        for thing, row in zip(things, rows, strict=True):
            style = "red" if view.alert is not None and view.alert(thing) else None
            table.add_row(*row[: len(widths)], style=style)
        return table

    def _fitting(self, things: Sequence[T], view: TableView[T]) -> TableView[T]:
        """The view, without its empty columns if the terminal has no room for all."""
        columns = self._columns(view)
        cells = [[printable(column.text(thing)) for thing in things] for column in columns]
        wanted = [max(map(cell_len, (column.title, *texts))) for column, texts in zip(columns, cells, strict=True)]
        if sum(wanted) + GAP * (len(wanted) - 1) <= self.console.width:
            return view
        full = [
            column for column, texts in zip(columns, cells, strict=True) if any(text != view.empty for text in texts)
        ]
        return replace(view, columns=full or columns)

    def _columns(self, view: TableView[T]) -> Sequence[Column[T]]:
        return [column for column in view.columns if self.format is Format.WIDE or not column.wide]

    def _plain(self, value: Any) -> None:
        plain = json.loads(to_json(value))
        if self.format is Format.YAML:
            print(printable_json(to_yaml(plain)), end="")
        else:
            print(printable_json(json.dumps(plain, indent=2, ensure_ascii=False)))


def _widths(needs: Sequence[tuple[int, int]], width: int) -> list[int]:
    """The widths of the first columns that fit, each with its least and its wanted width. One column always fits."""
    widths: list[int] = []
    for least, _ in needs:
        if widths and sum(widths) + least + GAP * len(widths) > width:
            break
        widths.append(least)
    spare = max(0, width - sum(widths) - GAP * (len(widths) - 1))
    # a column that wants little leaves the rest of its share to the others
    by_want = sorted(range(len(widths)), key=lambda number: needs[number][1] - needs[number][0])
    for left, number in zip(range(len(widths), 0, -1), by_want, strict=True):
        more = min(needs[number][1] - needs[number][0], spare // left)
        widths[number] += more
        spare -= more
    return widths


def to_stderr(text: str) -> None:
    """Print a sentence for the user on standard error."""
    complain("jobctl", text)
