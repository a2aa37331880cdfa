"""The lab of real servers, for some seconds."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from peerjob.model.record import Record
from support.lab.checking import Strike, recoveries, violations
from support.lab.reporting import BEGIN, END, as_json, as_markdown, put_into
from support.lab.running import Report, run
from support.servers import needed
from support.simulation.evidence import Evidence, Order, Run


async def test_a_lab_of_some_seconds_finds_no_violation(tmp_path: Path) -> None:
    told: list[str] = []
    with needed():
        report = await run("redis", 6, 1, tmp_path, told.append, asyncio.Event())

    assert report.violations == []
    assert report.instances >= 25
    assert report.runs >= report.instances
    assert sum(report.faults.values()) == len(told) > 0


async def test_the_lab_ends_early_when_it_is_told_to(tmp_path: Path) -> None:
    stop = asyncio.Event()
    with needed():
        report = await run("sqlite", 600, 1, tmp_path, lambda _: stop.set(), stop)

    assert sum(report.faults.values()) == 1
    assert report.violations == []


def test_a_lost_instance_is_a_violation() -> None:
    lost = Evidence(orders={"a": Order(id="a", kind="noted")}, records=dict[str, Record]())

    assert [str(one) for one in violations(lost)] == ["NO-LOSS: a: a caller named it, and the store does not have it"]


def test_recoveries_are_measured_from_the_journal() -> None:
    runs = [
        Run(id="a", kind="noted", node="1", fence=1, attempt=1, begin_us=1_000_000),
        Run(
            id="b", kind="noted", node="2", fence=2, attempt=1, begin_us=1_000_000, end_us=9_000_000, ending="returned"
        ),
        Run(
            id="a", kind="noted", node="2", fence=3, attempt=1, begin_us=6_000_000, end_us=7_000_000, ending="returned"
        ),
    ]
    strikes = [
        Strike(kind="node SIGKILL", begin_us=2_000_000, end_us=3_000_000, pid=1),
        Strike(kind="network cut", begin_us=2_000_000, end_us=5_500_000),
    ]

    assert recoveries(strikes, runs) == {"node SIGKILL": [4.0], "network cut": [0.5]}


def test_the_report_goes_between_the_markers(tmp_path: Path) -> None:
    report = Report(
        setup="redis",
        seed=1,
        seconds=60,
        faults={"node SIGKILL": 3},
        instances=1200,
        fires=59,
        runs=1300,
        violations=[],
        recovery={"node SIGKILL": {"p50": 3.5, "max": 4.25}},
    )
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")

    put_into(page, as_markdown([report], "make faultlab MINUTES=1", datetime(2026, 1, 2, tzinfo=UTC)))

    text = page.read_text()
    assert "| redis | 60 s | 3 | 3 | 1,200 | 59 | 1,300 | 0 |" in text
    assert "| redis | node SIGKILL | 3 | 3.50 s | 4.25 s |" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert json.loads(as_json([report], "make", datetime(2026, 1, 2, tzinfo=UTC)))["setups"][0]["fires"] == 59


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no markers\n")

    with pytest.raises(ValueError, match="needs the lines"):
        put_into(page, "text")
