"""The demo's view: a live table that fits a terminal, and a line a second without one."""

import io
import logging

import pytest
from msgspec.structs import replace
from rich.console import Console

from peerjob import NodeView, State, Stats
from peerjob.cli.demo import workload
from peerjob.cli.demo.checks import Check
from peerjob.cli.demo.view import DemoView
from peerjob.model.record import NodeInfo
from peerjob.testing.clock import VirtualClock

STATS = Stats(
    counts={
        job.kind: {State.SCHEDULED: 1_000, State.PROCESSING: 2, State.COMPLETED: 1_234} for job in workload.JOBS[:3]
    }
)


def nodes(count: int) -> list[NodeView]:
    return [
        NodeView(
            info=NodeInfo(name=f"node-{number}", incarnation=str(number), workers=4, pid=1000 + number),
            running=2,
            renewed_us=0,
            expires_us=0,
            age_us=500_000,
        )
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20), (200, 60)])
@pytest.mark.parametrize("count", [1, 3, 32])
def test_the_live_table_fits_the_terminal(count: int, width: int, height: int, clock: VirtualClock) -> None:
    out = io.StringIO()
    view = DemoView(Console(file=out, width=width, height=height, force_terminal=True, color_system=None), clock)
    assert view.live is not None
    with view.live:
        view.show(STATS, nodes(count))
        lines = out.getvalue().splitlines()

    assert len(lines) <= height
    assert max(map(len, lines)) <= width + 20  # with the codes that move the cursor
    assert any("node-1" in line and "1001" in line for line in lines)


def test_the_live_table_shows_nodes_and_kinds_below_the_events(clock: VirtualClock) -> None:
    out = io.StringIO()
    view = DemoView(Console(file=out, width=80, height=24, force_terminal=True, color_system=None), clock)
    assert view.live is not None
    with view.live:
        view.event("kill -9 of node-2")
        view.show(STATS, nodes(3))

    for word in ("node-3", "1003", "0.5 s ago", "demo.slow", "1,234", "kill -9 of node-2"):
        assert word in out.getvalue()


async def test_without_a_terminal_there_is_a_line_a_second_and_one_for_each_event(clock: VirtualClock) -> None:
    out = io.StringIO()
    view = DemoView(Console(file=out, width=40), clock)
    assert view.live is None

    for _ in range(25):
        view.show(STATS, nodes(3))
        await clock.advance(0.1)
    view.event("slow 1 is scheduled on node-2: node lost")

    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["0.0s", "1.0s", "2.0s", "2.5s"]
    assert lines[0].endswith("3 nodes, 3,000 waiting, 6 running, 3,702 of 6,708 done")


def test_only_what_runs_on_a_live_node_counts_as_running(clock: VirtualClock) -> None:
    """Claims ahead of the workers and claims of a killed node wait."""
    out = io.StringIO()
    stats = Stats(counts={"demo.slow": {State.SCHEDULED: 1_000, State.PROCESSING: 182, State.COMPLETED: 18}})
    (node,) = nodes(1)
    DemoView(Console(file=out, width=80), clock).show(stats, [replace(node, running=179)])
    assert out.getvalue().rstrip().endswith("1 node, 1,178 waiting, 4 running, 18 of 1,200 done")


@pytest.mark.parametrize("kept", [True, False])
def test_the_result_has_each_count_check_and_warning(clock: VirtualClock, kept: bool) -> None:
    out = io.StringIO()
    view = DemoView(Console(file=out, width=120), clock)
    view.emit(logging.LogRecord("x", logging.WARNING, "x.py", 1, "slow %s", ("disk",), None))
    single = workload.Count({name: 100 + number for number, name in enumerate(workload.COUNTED)})
    result = {
        "count": {name: 2_000 + number for number, name in enumerate(workload.COUNTED)},
        "steps_run_again": 6,
        "values_accepted_twice": 7,
        "warnings": view.warnings,
        "completed": 3_000,
        "nodes": 3,
        "seconds": 2.5,
        "jobs_per_second": 1_200.4,
        "failed_checks": [] if kept else ["second"],
    }
    view.result(result, [Check("first", True, "1 of 1"), Check("second", kept, "2 of 3")], STATS, single)

    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert lines[0] == "0.0s warning: slow disk"
    counted = [f"{2_000 + number:,}" for number in range(len(workload.COUNTED))]
    assert f"the cluster {' '.join(counted)}" in lines
    assert f"one process {' '.join(str(100 + number) for number in range(len(workload.COUNTED)))}" in lines
    assert f"{workload.JOBS[0].kind} 1,000 2 1,234 0" in lines
    assert lines[-6:] == [
        "first ok 1 of 1",
        f"second {'ok' if kept else 'FAILED'} 2 of 3",
        "steps run more than once: 6; values accepted twice: 7",
        "warning: slow disk",
        "3,000 jobs on 3 nodes in 2.5 s: 1,200 jobs/s",
        "every check passed" if kept else "1 of 2 checks FAILED",
    ]
