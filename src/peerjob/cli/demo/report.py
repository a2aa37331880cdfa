"""The result of the demo, as tables for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .checks import Check, Tally
from .corpus import Count
from .view import counted


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came out. `warnings` were logged on the way, such as the store's about what it could lose."""

    tally: Tally
    single: Count
    checks: Sequence[Check]
    nodes: int
    warnings: Sequence[str]

    @property
    def passed(self) -> bool:
        return all(check.kept for check in self.checks)

    def to_json(self) -> str:
        """One JSON object on one line; times are seconds."""
        tally = self.tally
        recovery = tally.recovery_seconds
        result: dict[str, Any] = {
            "scheduled": tally.scheduled,
            "completed": tally.completed,
            "failed": tally.failed,
            "lost": tally.lost,
            "double_completions": tally.double_completions,
            "recovery_seconds": None if recovery is None else round(recovery, 3),
            "jobs_per_second": round(tally.jobs_per_second, 1),
            "matches_single_process": tally.count == self.single,
            "passed": self.passed,
            "nodes": self.nodes,
            "seconds": round(tally.seconds, 3),
            "peak_jobs_per_second": tally.peak_per_second,
            "claims": tally.claims,
            "killed_node": None if tally.kill is None else tally.kill.node,
            "held_by_killed_node": tally.held,
            "count": asdict(tally.count),
            "failed_checks": [f"{check.promise}: {check.detail}" for check in self.checks if not check.kept],
            "warnings": list(self.warnings),
        }
        return json.dumps(result)

    def print(self, console: Console) -> None:
        """Tables of the counts, the kinds and the checks, and a last line."""
        for table in (_counts(self.tally.count, self.single), _kinds(self.tally), _checks(self.checks)):
            console.print(table)
        for warning in self.warnings:
            console.print(f" warning: {warning}", soft_wrap=True)
        tally = self.tally
        console.print(
            f" {tally.completed:,} jobs on {counted(self.nodes, 'node')} in {tally.seconds:.1f} s: "
            f"{tally.jobs_per_second:,.0f} jobs/s, {tally.peak_per_second:,} in the best second",
            soft_wrap=True,
        )
        broken = sum(not check.kept for check in self.checks)
        verdict = f"{broken} of {len(self.checks)} checks FAILED" if broken else "every check passed"
        console.print(Text(f" {verdict}", style="bold red" if broken else "bold green"))


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _counts(cluster: Count, single: Count) -> Table:
    table = _table("counted by", "files", "lines", "tokens", "definitions", "not tokenized")
    for name, count in (("the cluster", cluster), ("one process", single)):
        numbers = (count.files, count.lines, count.tokens, count.definitions, count.untokenized)
        table.add_row(name, *(f"{number:,}" for number in numbers))
    return table


def _kinds(tally: Tally) -> Table:
    table = _table("job", "jobs", "completed", "failed", "claims", "median wait")
    for kind, one in tally.kinds.items():
        wait = "" if one.median_wait is None else f"{one.median_wait:.3f} s"
        table.add_row(kind, f"{one.jobs:,}", f"{one.completed:,}", f"{one.failed:,}", f"{one.claims:,}", wait)
    return table


def _checks(checks: Sequence[Check]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("check")
    table.add_column("")
    table.add_column("found", overflow="fold")
    for check in checks:
        verdict = Text("ok", style="green") if check.kept else Text("FAILED", style="bold red")
        table.add_row(check.promise, verdict, check.detail)
    return table
