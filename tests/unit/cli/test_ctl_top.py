"""The screen of `jobctl top`, and the key that ends it."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter

import msgspec
import pytest
from rich.console import Console

from peerjob import NodeView, State, Stats
from peerjob.cli.ctl.output import Column, Format, Printer, TableView
from peerjob.cli.ctl.top import RateHistory, fitting, kind_rows, overview
from peerjob.model.clock import to_us
from peerjob.model.firing import Leader, Term
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


NAMES = ("web-1", "web-2", "shop")
NODES = [NodeView(info=msgspec.structs.replace(NODE.info, name=name, intake="active")) for name in NAMES]
BUSY = Stats(
    counts={
        "mail.send": {State.SCHEDULED: 12, State.PROCESSING: 4, State.COMPLETED: 136, State.TERMINATED: 3},
        "video.encode": {State.SCHEDULED: 5},
    },
    nodes=3,
    unserved={"video.encode": 5},
)
LEADER = Leader(
    incarnation="x" * 32,
    name="web-1",
    term=Term(coordinator="store", number=1795689381567035),
    since_us=to_us(NOW - timedelta(seconds=96)),
)


def screen(
    width: int,
    *,
    colour: bool = False,
    history: RateHistory | None = None,
    stats: Stats = STATS,
    nodes: Sequence[NodeView] = (NODE,),
    leader: Leader | None = None,
) -> str:
    out = Printer(Format.TABLE)
    out.console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    with out.console.capture() as capture:
        shown = history or RateHistory()
        out.console.print(overview(out, NOW, stats, nodes, leader, kind_rows(stats, OLDEST), shown))
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


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60, 70, 80, 100, 120])
def test_a_narrow_terminal_cuts_no_heading_and_no_number(width: int) -> None:
    shown = screen(width, stats=BUSY, nodes=NODES, leader=LEADER)

    names = r"^(mail|video)\S*…"  # at 20 columns, UNSERVED leaves too little room for the kinds
    assert "…" not in (re.sub(names, "", shown, flags=re.MULTILINE) if width == 20 else shown)
    assert all(len(line) <= width for line in shown.splitlines())
    assert re.search(r"^KIND +UNSERVED", shown, re.MULTILINE)
    assert re.search(r"^NODE .*RUNNING", shown, re.MULTILINE)


def test_the_least_important_columns_go_first() -> None:
    shown = screen(60, stats=BUSY, nodes=NODES, leader=LEADER).splitlines()

    assert shown[0] == "3 nodes, 12 workers, 4 running, 17 queued, web-1 leads (96s)"
    assert shown[2].split() == ["NODE", "INTAKE", "RUNNING", "WORKERS", "HEARD", "HOST", "PID"]
    assert shown[7].split() == ["KIND", "UNSERVED", "QUEUED", "OLDEST", "RUNNING", "TERMINATED"]


def test_a_column_that_fits_exactly_is_shown() -> None:
    titles = ("ONE", "TWO", "THREE", "FOUR")
    columns = [Column[dict[str, str]](title=title, text=itemgetter(title)) for title in titles]
    view = TableView(columns=columns, name=itemgetter("ONE"), plain=dict)
    row = {"ONE": "1", "TWO": "語語語", "THREE": "3", "FOUR": "-"}
    out = Printer(Format.TABLE)

    def shown(width: int) -> list[str]:
        out.console = Console(file=io.StringIO(), width=width)
        return [column.title for column in fitting(out, [row], view, ("ONE", "TWO")).columns]

    assert [shown(width) for width in (23, 24)] == [["ONE", "TWO", "THREE"], ["ONE", "TWO", "THREE", "FOUR"]]
    assert [shown(width) for width in (17, 18, 22)] == [["ONE", "TWO"], *[["ONE", "TWO", "THREE"]] * 2]
    assert shown(1) == ["ONE", "TWO"]


def test_the_head_breaks_between_its_parts() -> None:
    assert screen(50, stats=BUSY, nodes=NODES, leader=LEADER).splitlines()[:2] == [
        "3 nodes, 12 workers, 4 running, 17 queued,",
        "web-1 leads (term 1795689381567035, 96s)",
    ]


def test_a_long_kind_is_cut_and_unserved_stays() -> None:
    kind = "accounting.invoices.of.the.previous.month.send"
    stats = Stats(counts={kind: {State.SCHEDULED: 5}}, nodes=1, unserved={kind: 5})
    *_, heads, row = screen(40, stats=stats).splitlines()

    assert heads.split() == ["KIND", "UNSERVED"]
    assert row.split() == ["accounting.invoices.of.the.pr…", "5"]


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


@pytest.mark.parametrize("typed", [b"qq", b"q\nQ"])
def test_q_ends_the_screen_also_without_a_controlling_terminal(typed: bytes) -> None:
    """As under `su --command`, which starts the command in a session without a terminal."""
    program = (
        "import asyncio, sys\n"
        "from peerjob.cli.ctl.top import until_quit\n"
        "async def wait():\n"
        "    async with until_quit(True):\n"
        "        print('begun', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "    print('ended')\n"
        "asyncio.run(wait())\n"
    )
    control, terminal = pty.openpty()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, control)
        child = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=terminal,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        os.close(terminal)
        stack.callback(child.kill)
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        for key in typed:
            os.write(control, bytes([key]))
        assert child.stdout.read() == b"ended\n"
