"""What is seen while the demo runs: a live picture on a terminal, a line a second elsewhere, or nothing."""

from __future__ import annotations

from collections import deque
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .monitor import NodeFigures, Picture

LINE_EVERY = 1.0
"""Seconds between lines where there is no terminal."""
KEPT_EVENTS = 50
FIXED_LINES = 12
"""Lines of the live picture beside nodes and events."""
MIN_EVENTS = 3
MAX_WIDTH = 110


class DemoView(Protocol):
    """Shows pictures and events as they come; a context manager."""

    def show(self, picture: Picture) -> None: ...
    def tell(self, elapsed: float, event: str) -> None: ...
    def headline(self, elapsed: float, event: str) -> None:
        """Tell an event that is worth seeing until the next headline."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


class SilentView:
    """Shows nothing."""

    def show(self, picture: Picture) -> None: ...
    def tell(self, elapsed: float, event: str) -> None: ...
    def headline(self, elapsed: float, event: str) -> None:
        self.tell(elapsed, event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...


class LineView(SilentView):
    """A line for each event, and one each second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def show(self, picture: Picture) -> None:
        if picture.elapsed < self._next:
            return
        self._next = picture.elapsed + LINE_EVERY
        running = sum(row.running for row in picture.kinds)
        self.tell(
            picture.elapsed,
            f"{counted(picture.alive, 'node')}, {picture.active - running:,} waiting, {running:,} running, "
            f"{picture.final:,} of {picture.total:,} done, {picture.rate:,.0f} jobs/s",
        )

    def tell(self, elapsed: float, event: str) -> None:
        self._console.print(f"{elapsed:5.1f}s  {event}", soft_wrap=True)


class LiveView:
    """One picture that changes in place, and goes away at the end."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._events: deque[tuple[float, str]] = deque(maxlen=KEPT_EVENTS)
        self._headline = Text()
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def show(self, picture: Picture) -> None:
        self._live.update(self.render(picture), refresh=True)

    def tell(self, elapsed: float, event: str) -> None:
        self._events.append((elapsed, event))

    def headline(self, elapsed: float, event: str) -> None:
        self._headline = Text(f" {elapsed:.1f}s {event}", style="bold", no_wrap=True, overflow="ellipsis")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def render(self, picture: Picture) -> RenderableType:
        """One picture, as high as the terminal allows."""
        spare = max(0, self._console.height - FIXED_LINES)
        room = max(2, spare - MIN_EVENTS)
        # one line tells how many more there are
        shown = len(picture.nodes) if len(picture.nodes) <= room else room - 1
        whole = Group(
            _header(self._title, picture.elapsed),
            _nodes(picture.nodes, shown),
            _kinds(picture),
            Text(),
            _progress(picture),
            self._headline,
            self._event_lines(max(MIN_EVENTS, spare - min(len(picture.nodes), room))),
        )
        return Constrain(whole, MAX_WIDTH)

    def _event_lines(self, count: int) -> RenderableType:
        lines = Table.grid(padding=(0, 1))
        lines.add_column(justify="right", style="dim", width=6)
        lines.add_column(no_wrap=True, overflow="ellipsis")
        for elapsed, event in list(self._events)[-count:]:
            lines.add_row(f"{elapsed:.1f}s", Text(event, style=_event_style(event)))
        return lines


def counted(number: int, noun: str) -> str:
    """A number of things, in words: "1 node", "3 nodes"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _header(title: str, elapsed: float) -> RenderableType:
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_column(justify="right", no_wrap=True)
    line.add_row(Text(title, style="bold"), f"{elapsed:.0f} s")
    return line


def _table(*columns: str) -> Table:
    table = Table(box=None, expand=True, padding=(0, 1), header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _nodes(rows: tuple[NodeFigures, ...], shown: int) -> RenderableType:
    table = _table("node", "process", "workers", "running", "heartbeat", "state")
    # a dead node is worth its line
    first = sorted(rows, key=lambda row: row.status == "alive")[:shown]
    for row in (row for row in rows if row in first):
        heartbeat = "" if row.heartbeat is None else f"{row.heartbeat:.1f} s ago"
        table.add_row(
            row.name,
            str(row.pid),
            str(row.workers),
            str(row.running),
            heartbeat,
            Text(row.status, style=_STATUS_STYLE[row.status]),
        )
    if hidden := len(rows) - shown:
        table.caption = f"and {hidden} more"
    return table


def _kinds(picture: Picture) -> RenderableType:
    table = _table("job", "waiting", "running", "completed", "failed")
    for row in picture.kinds:
        failed = Text(f"{row.failed:,}", style="red" if row.failed else "")
        table.add_row(row.kind, f"{row.waiting:,}", f"{row.running:,}", f"{row.completed:,}", failed)
    return table


def _progress(picture: Picture) -> RenderableType:
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    bar = ProgressBar(total=max(1, picture.total), completed=picture.final)
    line.add_row(bar, f"{picture.final:,} of {picture.total:,}  {picture.rate:,.0f} jobs/s")
    return line


def _event_style(event: str) -> str:
    if "node lost" in event or event.startswith("warning"):
        return "red"
    return "green" if "completed" in event else ""


_STATUS_STYLE = {"alive": "green", "killed": "bold red", "silent": "yellow", "starting": "dim"}
