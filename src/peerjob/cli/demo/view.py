"""The terminal of the demo: events, a live table or a line each second, and the result."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from peerjob import Clock, NodeView, State, Stats
from peerjob.model.printable import counted

from . import workload
from .checks import Check

LINE_SECONDS = 1.0
"""Seconds between two lines of output, if the output is not a terminal."""


class DemoView(logging.Handler):
    """Shows a run. As a log handler, the view also shows warnings, and keeps them for the result."""

    def __init__(self, console: Console, clock: Clock) -> None:
        super().__init__(logging.WARNING)
        self._console, self._clock = console, clock
        self.warnings: list[str] = []
        self._began, self._next_line = clock.elapsed(), 0.0
        live = console.is_terminal and not console.quiet
        self.live = Live(console=console, auto_refresh=False, transient=True) if live else None

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append(record.getMessage())
        self.event(f"warning: {record.getMessage()}")

    def event(self, text: str) -> None:
        """Show one line, with the seconds since the start."""
        self._console.print(f"{self._clock.elapsed() - self._began:5.1f}s  {text}", soft_wrap=True)

    def show(self, stats: Stats, nodes: Sequence[NodeView]) -> None:
        """Show the cluster as it is now."""
        running = [min(node.running, node.info.workers) for node in nodes]
        if self.live is not None:
            rows = [
                (node.name, str(node.info.pid), bodies, f"{node.heartbeat_age:.1f} s ago")
                for node, bodies in zip(nodes, running, strict=True)
            ]
            shown = Group(_table("node,process,running,heartbeat", rows), kind_table(stats))
            self.live.update(shown, refresh=True)
        elif (now := self._clock.elapsed()) >= self._next_line:
            self._next_line = now + LINE_SECONDS
            done = stats.total(State.FINAL)
            # what a node has claimed ahead waits for a worker, and what a killed node has claimed for a live node
            waiting = max(0, stats.total() - done - sum(running))
            progress = f"{waiting:,} waiting, {sum(running):,} running, {done:,} of {stats.total():,} done"
            self.event(f"{counted(len(nodes), 'node')}, {progress}")

    def result(self, result: dict[str, Any], checks: Sequence[Check], stats: Stats, single: workload.Count) -> None:
        """Show tables of the counts, the kinds and the checks, and a last line."""
        console, alone = self._console, [single[name] for name in workload.COUNTED]
        counts = [("the cluster", *result["count"].values()), ("one process", *alone)]
        self._console.print(
            _table("counted by,files,lines,tokens,definitions,not tokenized", counts), kind_table(stats)
        )
        for promise, kept, detail in checks:
            self._console.print(
                f" {promise:<33}  {'ok' if kept else 'FAILED'}  {detail}", style="" if kept else "bold red"
            )
        again, twice = result["steps_run_again"], result["values_accepted_twice"]
        console.print(f" steps run more than once: {again}; values accepted twice: {twice}")
        for warning in result["warnings"]:
            console.print(f" warning: {warning}", soft_wrap=True)
        jobs, nodes = f"{result['completed']:,} jobs", counted(result["nodes"], "node")
        console.print(f" {jobs} on {nodes} in {result['seconds']:.1f} s: {result['jobs_per_second']:,.0f} jobs/s")
        broken = len(result["failed_checks"])
        self._console.print(
            f" {broken} of {len(checks)} checks FAILED" if broken else " every check passed", style="bold"
        )


def kind_table(stats: Stats) -> Table:
    """A table with the number of instances of each kind, by state."""
    states = (State.SCHEDULED, State.PROCESSING, State.COMPLETED, State.ERROR)
    rows = [(job.kind, *(stats.total(state, job.kind) for state in states)) for job in workload.JOBS]
    return _table("job,waiting,running,completed,failed", rows)


def _table(columns: str, rows: Iterable[Sequence[Any]]) -> Table:
    made = Table(box=None, padding=(0, 1), header_style="dim")
    for number, column in enumerate(columns.split(",")):
        made.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(f"{cell:,}" if isinstance(cell, int) else cell for cell in row))
    return made
