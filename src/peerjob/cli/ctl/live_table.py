"""The live table of `jobctl watch`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.table import Table

from peerjob.handles.instance import Instance
from peerjob.model.ages import age

from .output import Column, Printer, TableView

MARGIN = 3
"""Lines of the terminal that the instances leave free, such as for the header."""


class LiveTable:
    """The instances of the latest events. If the terminal is full, final ones are dropped first."""

    def __init__(self, out: Printer) -> None:
        self._out = out
        self._seen: dict[str, tuple[Instance[Any], str]] = {}

    def update(self, instance: Instance[Any], line: str = "") -> None:
        """Add or update an instance; `line` is its latest log line."""
        _, before = self._seen.pop(instance.id, (None, ""))
        self._seen[instance.id] = instance, line or before
        rows = max(1, self._out.console.height - MARGIN)
        while len(self._seen) > rows:
            over = (id for id, (instance, _) in self._seen.items() if instance.state.is_final)
            del self._seen[next(over, next(iter(self._seen)))]

    def table(self, now: datetime) -> Table:
        """The table as of now, in the order of creation."""
        rows = [self._seen[id] for id in sorted(self._seen)]
        return self._out.table(rows, _view(now))


def _view(now: datetime) -> TableView[tuple[Instance[Any], str]]:
    return TableView(
        columns=(
            Column(title="UUID", text=lambda row: row[0].id, whole=True),
            Column(title="KIND", text=lambda row: row[0].kind),
            Column(title="STATE", text=lambda row: str(row[0].state), whole=True),
            Column(title="AGE", text=lambda row: age(row[0].created_at, now), right=True),
            Column(title="NODE", text=lambda row: row[0].node or "-"),
            Column(title="DOING", text=_doing),
        ),
        name=lambda row: row[0].id,
        plain=lambda row: row[0].to_dict(),
    )


def _doing(row: tuple[Instance[Any], str]) -> str:
    instance, line = row
    if instance.error is not None and not line:
        return str(instance.error)
    progress = instance.progress
    return line if progress is None else f"{progress.fraction:.0%} {progress.message or line}".rstrip()
