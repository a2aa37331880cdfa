"""A long list on standard output, part by part, as its parts become known."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Generic, TypeVar

from rich.table import Table

from peerjob.model.json_text import to_json
from peerjob.model.printable import printable, printable_json

from .output import Format, Printer, TableView
from .yaml import to_yaml

T = TypeVar("T")


async def print_parts(out: Printer, parts: AsyncIterator[Sequence[T]], view: TableView[T]) -> None:
    """Print a list as `Printer.many` would print it, each part when it comes.

    After an error, JSON is a whole document too, with the parts before the error.
    """
    printing = _PartPrinter(out, view)
    try:
        async for part in parts:
            if part:
                printing.add(part)
    except BaseException:
        if printing.begun:
            printing.end()
        raise
    printing.end()


class _PartPrinter(Generic[T]):
    """Prints one list."""

    def __init__(self, out: Printer, view: TableView[T]) -> None:
        self._out = out
        self._view = view
        self._table: Table | None = None
        self.begun = False

    def add(self, things: Sequence[T]) -> None:
        match self._out.format:
            case Format.JSON:
                items = json.dumps(self._plain(things), indent=2, ensure_ascii=False)[2:-2]
                print(",\n" if self.begun else "[\n", printable_json(items), sep="", end="")
            case Format.YAML:
                print(printable_json(to_yaml(self._plain(things))), end="")
            case Format.NAME:
                for thing in things:
                    print(printable(self._view.name(thing)))
            case _:
                self._table = self._out.table(things, self._view, below=self._table)
                self._out.console.print(self._table)
        self.begun = True
        sys.stdout.flush()

    def end(self) -> None:
        if not self.begun:
            self._out.many([], self._view)
        elif self._out.format is Format.JSON:
            print("\n]")
        elif self._table is not None:
            self._out.report_hidden(self._table, self._view)

    def _plain(self, things: Sequence[T]) -> object:
        return json.loads(to_json([self._view.plain(thing) for thing in things]))
