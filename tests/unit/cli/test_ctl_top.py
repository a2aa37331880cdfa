"""The screen of `jobctl top`."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from peerjob import NodeView, State, Stats
from peerjob.cli.ctl.output import Format, Printer
from peerjob.cli.ctl.top import RateHistory, kind_rows, overview
from peerjob.model.record import NodeInfo

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NODE = NodeView(info=NodeInfo(name="node-1", incarnation="x" * 32, workers=4, host="host-a", pid=4242, version="0.1.0"))
STATS = Stats(
    counts={
        "reports.monthly": {State.COMPLETED: 1_200, State.PROCESSING: 4, State.SCHEDULED: 2},
        "thumbnails": {State.SCHEDULED: 35},
        "gone": {State.CANCELLED: 0},
    },
    nodes=1,
    unserved={"thumbnails": 35},
)
OLDEST = {"reports.monthly": timedelta(seconds=9), "thumbnails": timedelta(minutes=5)}


def screen(width: int, *, colour: bool = False, history: RateHistory | None = None) -> str:
    out = Printer(Format.TABLE)
    out.console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    with out.console.capture() as capture:
        shown = history or RateHistory()
        out.console.print(overview(out, NOW, STATS, [NODE], None, kind_rows(STATS, OLDEST), shown))
    return capture.get()


def table(width: int) -> list[list[str]]:
    lines = screen(width).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("KIND"))
    return [line.split() for line in lines[start:]]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_shows_unserved_kinds_first_and_drops_empty_columns(width: int) -> None:
    heads, first, second, whole = table(width)

    assert heads[:4] == ["KIND", "UNSERVED", "QUEUED", "OLDEST"]
    assert first[:4] == ["thumbnails", "35", "35", "5m"]
    assert second[:4] == ["reports.monthly", "0", "2", "9s"]
    assert whole[:4] == ["(all)", "35", "37", "5m"]
    assert ("CANCELLED" in heads) == (width == 120)
    assert all(len(line) <= width for line in screen(width).splitlines())


def test_an_unserved_kind_is_red() -> None:
    lines = screen(120, colour=True).splitlines()

    assert ["\x1b[31m" in line for line in lines if "thumbnails" in line] == [True]
    assert ["\x1b[31m" in line for line in lines if "reports.monthly" in line] == [False]


def counted(*, completed: int, failed: int = 0, running: int = 0) -> Stats:
    return Stats(counts={"one": {State.COMPLETED: completed, State.TERMINATED: failed, State.PROCESSING: running}})


def test_rates_are_those_between_two_updates() -> None:
    history = RateHistory()
    history.add(10.0, counted(completed=5))
    assert history.now is None
    history.add(12.0, counted(completed=25, failed=2, running=4))

    assert history.now is not None
    assert history.now.text() == "13.0 started, 10.0 completed, 1.0 failed per second"
    assert "10.0 completed" in screen(120, history=history)


def test_instances_that_a_cleaner_removed_are_no_negative_rate() -> None:
    history = RateHistory()
    history.add(1.0, counted(completed=500))
    history.add(2.0, counted(completed=100))

    assert history.now is not None
    assert history.now.completed == 0


def test_the_bars_show_one_minute_and_no_more() -> None:
    history = RateHistory()
    done = 0
    for second in range(200):
        done += second
        history.add(float(second), counted(completed=done))
    bars = history.sparkline(6)

    assert len(bars) == 6
    assert bars[-1] == "█"
    assert list(bars) == sorted(bars), "the rate grew all the time"
    assert bars[0] not in " █", "what is older than a minute is forgotten"
    assert RateHistory().sparkline(6) == ""
