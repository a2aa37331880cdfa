"""`jobctl top`: the nodes, the queues, the rates and the leader, live."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import termios
import tty
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer
from rich.cells import cell_len
from rich.console import Group
from rich.live import Live
from rich.text import Text

from peerjob.handles.stats import Stats
from peerjob.model.ages import age, span
from peerjob.model.clock import to_us
from peerjob.model.durations import to_seconds
from peerjob.model.firing import Leader
from peerjob.model.printable import counted, printable
from peerjob.model.query import Query
from peerjob.model.record import NodeView
from peerjob.model.state import SINGLE, State
from peerjob.remote.client.client import Client

from . import tables
from .commands import ClientSession, verb
from .output import GAP, Column, Format, Printer, TableView

T = TypeVar("T")

MINUTE = 60.0
"""Seconds that the sparkline shows."""
MIN_BARS = 20
"""With room for fewer bars beside the rates, the bars have a line of their own."""
BARS = " ▁▂▃▄▅▆▇█"
MAX_KEYS = 1_024
"""The most bytes of typed keys that are read at a time."""
MAX_AGES = 20
"""The most kinds for which one update reads the age of the queue."""
MAX_OLDEST = 10
"""How many of the oldest queued instances of a kind are read for this; delayed ones do not count."""
STARTED = State.PROCESSING | State.FINAL
FAILED = State.TERMINATED | State.TIMED_OUT


@dataclass(frozen=True, kw_only=True)
class KindRow:
    """One kind, its instances by state, its instances that no live node can run, and the wait of the oldest."""

    kind: str
    counts: Mapping[State, int]
    unserved: int
    oldest: timedelta | None


def _counted(state: State, title: str) -> Column[KindRow]:
    return Column(title=title, text=lambda row: str(row.counts.get(state, 0)), right=True)


KINDS: TableView[KindRow] = TableView(
    columns=(
        Column(title="KIND", text=lambda row: row.kind),
        Column(title="UNSERVED", text=lambda row: str(row.unserved), right=True),
        _counted(State.SCHEDULED, "QUEUED"),
        Column(title="OLDEST", text=lambda row: "-" if row.oldest is None else span(row.oldest), right=True),
        _counted(State.PROCESSING, "RUNNING"),
        _counted(State.COMPLETED, "COMPLETED"),
        _counted(State.TERMINATED, "TERMINATED"),
        _counted(State.TIMED_OUT, "TIMEDOUT"),
        _counted(State.CANCELLED, "CANCELLED"),
    ),
    name=lambda row: row.kind,
    plain=lambda row: row.kind,
    alert=lambda row: row.unserved > 0,
)
IMPORTANCE_OF_KINDS = (
    *("KIND", "UNSERVED", "QUEUED", "RUNNING", "OLDEST"),
    *("TERMINATED", "TIMEDOUT", "COMPLETED", "CANCELLED"),
)
IMPORTANCE_OF_NODES = ("NODE", "RUNNING", "INTAKE", "WORKERS", "HEARD", "HOST", "PID", "VERSION")
NEVER_LEFT_OUT = 2
"""How many of the most important columns every terminal shows."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Instances per second, from the difference between two updates. Instances that a cleaner removes lower it."""

    started: float
    completed: float
    failed: float

    def text(self) -> str:
        """The rates in one line."""
        return f"{self.started:,.1f} started, {self.completed:,.1f} completed, {self.failed:,.1f} failed per second"


class RateHistory:
    """The rates of the last minute."""

    def __init__(self) -> None:
        self._last: tuple[float, Stats] | None = None
        self._kept: deque[tuple[float, Rates]] = deque()

    def add(self, at: float, stats: Stats) -> None:
        """Add the numbers of one update; `at` is in seconds of a clock that never goes back."""
        if self._last is not None and (passed := at - self._last[0]) > 0:
            before = self._last[1]

            def rate(state: State) -> float:
                return max(0, stats.total(state) - before.total(state)) / passed

            rates = Rates(started=rate(STARTED), completed=rate(State.COMPLETED), failed=rate(FAILED))
            self._kept.append((at, rates))
        self._last = at, stats
        while self._kept and self._kept[0][0] <= at - MINUTE:
            self._kept.popleft()

    @property
    def now(self) -> Rates | None:
        """The latest rates; None before the second update."""
        return self._kept[-1][1] if self._kept else None

    def sparkline(self, width: int) -> str:
        """The completed instances per second of the last minute, one bar for each part of it, the latest last."""
        if self._last is None:
            return ""
        parts: list[list[float]] = [[] for _ in range(width)]
        for at, rates in self._kept:
            passed = (self._last[0] - at) / MINUTE
            parts[min(width - 1, int((1 - passed) * width))].append(rates.completed)
        values: list[float] = []
        for part in parts:
            # updates may be further apart than the bars
            values.append(sum(part) / len(part) if part else values[-1] if values else 0.0)
        highest = max(values)
        steps = len(BARS) - 1
        return "".join(BARS[-(-value * steps // highest).__trunc__() if highest else 0] for value in values)


def add_to(app: typer.Typer) -> None:
    """Add this verb."""
    verb(app, "top")(top)


async def top(
    session: ClientSession,
    interval: Annotated[
        str, typer.Option("--interval", "-d", metavar="DURATION", help="The time between two updates.")
    ] = "1s",
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            min=1,
            show_default="until q or Ctrl-C; 1 without a terminal",
            help="The number of updates.",
        ),
    ] = None,
) -> None:
    """Show the nodes, the queues, the rates and the leader, live.

    The rates are those between two updates, and the bars show the completed instances of the last minute. Kinds that no
    live node runs come first. OLDEST is how long the oldest queued instance of a kind has waited since it was due.
    """
    seconds = to_seconds(interval, "--interval")
    console = session.out.console
    rounds = range(count or 1) if count or not console.is_terminal else itertools.count()
    history = RateHistory()
    async with session.client() as client, until_quit(console.is_terminal):
        with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
            for number in rounds:
                if number:
                    await asyncio.sleep(seconds)
                stats, nodes, leader = await client.stats(), await client.nodes(), await client.leader()
                history.add(session.clock.elapsed(), stats)
                rows = kind_rows(stats, await _oldest(client, stats, session.now))
                shown = overview(session.out, session.now, stats, nodes, leader, rows, history)
                if live is None:
                    console.print(shown)
                else:
                    live.update(shown, refresh=True)


@asynccontextmanager
async def until_quit(is_live: bool) -> AsyncGenerator[None]:
    """End the block when the user types q. The terminal shows no keys meanwhile."""
    if not is_live or not sys.stdin.isatty() or not _in_foreground(sys.stdin.fileno()):
        yield
        return
    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()
    limit = asyncio.timeout(None)

    def read() -> None:
        typed = os.read(terminal, MAX_KEYS)
        quits = b"q" in typed.lower()
        if quits:
            limit.reschedule(loop.time())
        if quits or not typed:
            loop.remove_reader(terminal)

    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    loop.add_reader(terminal, read)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _in_foreground(terminal: int) -> bool:
    """Whether this process may change the terminal: a process in the background of its shell would be stopped."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # the terminal does not control this process, as under `su --command` or `setsid`
        return True


def overview(
    out: Printer,
    now: datetime,
    stats: Stats,
    nodes: Sequence[NodeView],
    leader: Leader | None,
    rows: Sequence[KindRow],
    history: RateHistory,
) -> Group:
    """The whole screen."""
    led = short = "no leader"
    if leader is not None:
        since = age(leader.since, now)
        led, short = f"{leader.name} leads (term {leader.term.number}, {since})", f"{leader.name} leads ({since})"
    delayed = f" ({stats.delayed:,} of them delayed)" if stats.delayed else ""
    closed = sum(node.intake in ("draining", "drained") for node in nodes)
    drains = f" ({closed} of them draining or drained)" if closed else ""
    numbers = [
        f"{counted(len(nodes), 'node')}{drains}",
        counted(sum(node.info.workers for node in nodes), "worker"),
        f"{stats.total(State.PROCESSING):,} running",
        f"{stats.total(State.SCHEDULED):,} queued{delayed}",
    ]
    width = out.console.width
    # the term is left out if it would cost a line
    head = min(_lines([*numbers, led], width), _lines([*numbers, short], width), key=len)
    parts: list[Any] = [Text(printable(line)) for line in head]
    if history.now is not None:
        line = history.now.text()
        width_left = min(60, width - len(line) - 2)
        beside = width_left >= MIN_BARS
        bars = Text(history.sparkline(width_left if beside else min(60, width)), style="green")
        parts += [Text.assemble(line, "  ", bars)] if beside else [Text(line), bars]
    parts += [Text(), out.table(nodes, fitting(out, nodes, tables.NODES, IMPORTANCE_OF_NODES))]
    if rows:
        parts += [Text(), out.table(rows, fitting(out, rows, KINDS, IMPORTANCE_OF_KINDS))]
    return Group(*parts)


def kind_rows(stats: Stats, oldest: Mapping[str, timedelta]) -> list[KindRow]:
    """A row for each kind with instances: unserved kinds first, and a row for all kinds if there are several."""
    kinds = [kind for kind in stats.counts if stats.total(kind=kind)]
    rows = [
        KindRow(kind=kind, counts=stats.counts[kind], unserved=stats.unserved.get(kind, 0), oldest=oldest.get(kind))
        for kind in sorted(kinds, key=lambda kind: (not stats.unserved.get(kind), kind))
    ]
    if len(rows) > 1:
        counts = {state: stats.total(state) for state in SINGLE}
        whole = KindRow(kind="(all)", counts=counts, unserved=0, oldest=max(oldest.values(), default=None))
        rows.append(replace(whole, unserved=sum(stats.unserved.values())))
    return rows


async def _oldest(client: Client, stats: Stats, now: datetime) -> dict[str, timedelta]:
    """How long the oldest queued instance of each kind has waited since it was due."""
    queued = {kind: stats.total(State.SCHEDULED, kind) for kind in stats.counts}
    longest = sorted((kind for kind in queued if queued[kind]), key=lambda kind: -queued[kind])[:MAX_AGES]
    queries = [Query(kind=kind, state=State.SCHEDULED, limit=MAX_OLDEST) for kind in longest]
    waits: dict[str, timedelta] = {}
    for kind, page in zip(longest, await asyncio.gather(*map(client.lookup_instances, queries)), strict=True):
        if due := [instance.due_at for instance in page if to_us(instance.due_at) <= to_us(now)]:
            waits[kind] = now - min(due)
    return waits


def fitting(out: Printer, rows: Sequence[T], view: TableView[T], importance: Sequence[str]) -> TableView[T]:
    """The table for this terminal, without the columns that it has no room for in full.

    `importance` has the titles, the most important first. Empty columns are left out before others.
    """
    shown = [column for column in view.columns if out.format is Format.WIDE or not column.wide]
    texts = {column.title: [printable(column.text(row)) for row in rows] for column in shown}
    needs = {title: max(map(cell_len, (title, *texts[title]))) + GAP for title in texts}
    ranked = [*importance, *(column.title for column in shown if column.title not in importance)]
    always, others = ranked[:NEVER_LEFT_OUT], ranked[NEVER_LEFT_OUT:]
    empty = [title for title in others if all(text in ("0", "-") for text in texts[title])]
    kept = set(always)
    width_left = out.console.width + GAP - sum(needs[title] for title in always)
    for titles in ([title for title in others if title not in empty], empty):
        for title in titles:
            if needs[title] <= width_left:
                kept.add(title)
                width_left -= needs[title]
        if not kept.issuperset(titles):
            break
    # if even the columns that stay have no room, the name is cut
    return replace(
        view, columns=[replace(column, whole=column is not shown[0]) for column in shown if column.title in kept]
    )


def _lines(parts: Sequence[str], width: int) -> list[str]:
    """The parts with commas between them, in lines that break only between parts."""
    lines: list[str] = []
    for number, part in enumerate(parts):
        text = part if number == len(parts) - 1 else f"{part},"
        if lines and cell_len(lines[-1]) + 1 + cell_len(text) <= width:
            lines[-1] += f" {text}"
        else:
            lines.append(text)
    return lines
