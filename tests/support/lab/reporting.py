"""The report of the lab: JSON, and the Markdown between two markers of a page."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from .running import Report

BEGIN, END = "<!-- faultlab: begin -->", "<!-- faultlab: end -->"


def as_json(reports: Sequence[Report], command: str, at: datetime) -> str:
    body = {"command": command, "date": at.isoformat(), "setups": [report.to_dict() for report in reports]}
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def as_markdown(reports: Sequence[Report], command: str, at: datetime) -> str:
    """A table of the set-ups, one of the faults with their recoveries, and one of recoveries with a failover."""
    lines = [
        f"Run on {at:%Y-%m-%d} by `{command}`. The load is the number of processes that wanted to run, for each core:",
        "",
        "| set-up | time | load | faults | kills of nodes | instances | fires | bodies | violations |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.setup} | {one.seconds:.0f} s | {one.load or '—'} | {sum(one.faults.values())} "
        f"| {one.faults.get('node SIGKILL', 0)} | {one.instances:,} | {one.fires:,} | {one.runs:,} "
        f"| {len(one.violations)} |"
        for one in reports
    ]
    lines += ["", "Flows: steps run more than once; values accepted twice: "]
    lines[-1] += f"{sum(one.accepted_twice for one in reports)}"
    lines += ["", "| set-up | flows | members | steps | steps that ran more than once | values accepted twice |"]
    lines += ["|---|---|---|---|---|---|"]
    lines += [
        f"| {one.setup} | {one.flows} | {one.members:,} | {one.steps:,} | {one.steps_again:,} | {one.accepted_twice} |"
        for one in reports
    ]
    lines += ["", "| set-up | fault | times | recovery p50 | maximum |", "|---|---|---|---|---|"]
    for one in reports:
        for kind, times in one.faults.items():
            lines.append(f"| {one.setup} | {kind} | {times} | {_shown(one.recovery.get(kind))} |")
    if any(one.moved for one in reports):
        lines += ["", "Recoveries that include a failover of the server, or another leader of etcd (one lease more):"]
        lines += ["", "| set-up | fault | times | recovery p50 | maximum |", "|---|---|---|---|---|"]
        for one in reports:
            for kind, took in one.moved.items():
                lines.append(f"| {one.setup} | {kind} | {took['count']} | {_shown(took)} |")
    for one in reports:
        for fault, why in one.left_out.items():
            lines += ["", f"Left out of {one.setup}: {fault}, because {why}."]
    return "\n".join(lines) + "\n"


def _shown(took: Mapping[str, float] | None) -> str:
    return f"{took['p50']:.2f} s | {took['max']:.2f} s" if took else "— | —"


def kept(file: Path, but: Collection[str]) -> list[Report]:
    """The reports of an earlier run, except those of some set-ups."""
    earlier: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"setups": []}
    return [Report(**one) for one in earlier["setups"] if one["setup"] not in but]


def put_into(page: Path, text: str) -> None:
    """Replace what is between the markers of a page; raises ValueError if the page lacks them."""
    before, found, rest = page.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{page} needs the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
