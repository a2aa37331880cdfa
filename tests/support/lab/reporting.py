"""The report of the lab: JSON, and the Markdown between two markers of a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from .running import Report

BEGIN, END = "<!-- faultlab: begin -->", "<!-- faultlab: end -->"


def as_json(reports: Sequence[Report], command: str, at: datetime) -> str:
    body = {"command": command, "date": at.isoformat(), "setups": [report.to_dict() for report in reports]}
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def as_markdown(reports: Sequence[Report], command: str, at: datetime) -> str:
    """A table of the set-ups, one of the faults with their recoveries, and one of recoveries with a failover."""
    lines = [
        f"Run on {at:%Y-%m-%d} by `{command}`:",
        "",
        "| set-up | time | faults | kills of nodes | instances | fires | bodies | violations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.setup} | {one.seconds:.0f} s | {sum(one.faults.values())} | {one.faults.get('node SIGKILL', 0)} "
        f"| {one.instances:,} | {one.fires:,} | {one.runs:,} | {len(one.violations)} |"
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


def put_into(page: Path, text: str) -> None:
    """Replace what is between the markers of a page; raises ValueError if the page lacks them."""
    before, found, rest = page.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{page} needs the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
