"""The live picture fits its terminal, and elsewhere there is a line a second."""

import io

import pytest
from rich.console import Console

from peerjob.cli.demo import workload
from peerjob.cli.demo.monitor import KindFigures, NodeFigures, Picture
from peerjob.cli.demo.view import LineView, LiveView


def picture(nodes: int = 3, *, elapsed: float = 7.0, killed: int | None = None) -> Picture:
    rows = tuple(
        NodeFigures(
            name=f"node-{number}",
            pid=1000 + number,
            workers=4,
            running=2,
            heartbeat=0.5,
            status="killed" if number == killed else "alive",
        )
        for number in range(1, nodes + 1)
    )
    kinds = tuple(
        KindFigures(kind=job.kind, waiting=1_000, running=2, completed=1_234, failed=0) for job in workload.JOBS
    )
    return Picture(elapsed=elapsed, nodes=rows, kinds=kinds, total=2_000, active=500, rate=321.4)


def screen_of(picture: Picture, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    view = LiveView(console, "peerjob demo on redis, namespace demo-12345678")
    for number in range(40):
        view.tell(number / 10, f"slow {number} completed on node-2 " + "x" * 100)
    view.headline(3.0, "kill -9 of node-1 (process 1001), at work on 4 slow jobs " + "y" * 100)
    with console.capture() as shown:
        console.print(view.render(picture))
    return shown.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20), (200, 60)])
@pytest.mark.parametrize("nodes", [1, 3, 32])
def test_the_picture_fits_the_terminal(nodes: int, width: int, height: int) -> None:
    lines = screen_of(picture(nodes), width, height)

    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_the_picture_shows_nodes_kinds_progress_and_the_latest_events() -> None:
    shown = "\n".join(screen_of(picture(killed=1), 80, 24))

    for word in ("node-1", "killed", "demo.slow", "1,234", "1,500 of 2,000", "321 jobs/s", "kill -9", "slow 39"):
        assert word in shown
    assert "slow 9 " not in shown


def test_a_killed_node_is_shown_even_if_not_all_fit() -> None:
    shown = "\n".join(screen_of(picture(32, killed=20), 80, 24))

    assert "node-20" in shown
    assert "more" in shown


def test_without_a_terminal_there_is_a_line_a_second_and_one_for_each_event() -> None:
    out = io.StringIO()
    view = LineView(Console(file=out, width=40))

    with view:
        for tenth in range(25):
            view.show(picture(elapsed=tenth / 10))
        view.tell(2.45, "slow 1: node lost")

    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["0.0s", "1.0s", "2.0s", "2.5s"]
    assert "3 nodes" in lines[0]
    assert "1,500 of 2,000 done" in lines[0]
