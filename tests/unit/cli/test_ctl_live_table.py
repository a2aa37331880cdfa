"""The live table of a watch."""

import io

from rich.console import Console

from peerjob import State
from peerjob.cli.ctl.live_table import LiveTable
from peerjob.cli.ctl.output import Format, Printer
from peerjob.model.clock import to_datetime
from peerjob.model.spec import Progress
from support.instances import CLOCK, an_instance


def rows(board: LiveTable, console: Console) -> list[list[str]]:
    with console.capture() as capture:
        console.print(board.table(to_datetime(CLOCK.time_us())))
    return [line.split() for line in capture.get().splitlines()[1:]]


def a_board(height: int, width: int = 120) -> tuple[LiveTable, Console]:
    out = Printer(Format.TABLE)
    out.console = Console(file=io.StringIO(), width=width, height=height)
    return LiveTable(out), out.console


def test_rows_stand_in_the_order_of_creation_however_they_are_seen() -> None:
    board, console = a_board(20)
    first, second = an_instance(State.PROCESSING), an_instance(State.SCHEDULED)
    for one in (second, first, second):
        board.update(one)
    assert [row[0] for row in rows(board, console)] == [first.id, second.id]


def test_what_is_over_makes_room_first_and_then_what_was_seen_longest_ago() -> None:
    board, console = a_board(5)  # room for two rows
    running, done, new, newer = (
        an_instance(state) for state in (State.PROCESSING, State.COMPLETED, State.SCHEDULED, State.SCHEDULED)
    )
    for one in (running, done, new):
        board.update(one)
    assert [row[0] for row in rows(board, console)] == [running.id, new.id]
    board.update(newer)
    assert [row[0] for row in rows(board, console)] == [new.id, newer.id]


def test_a_terminal_that_shrinks_leaves_room_for_fewer_rows() -> None:
    board, console = a_board(9)  # room for six rows
    states = (State.COMPLETED, State.PROCESSING, State.TERMINATED, State.SCHEDULED, State.PROCESSING)
    _, running, _, queued, latest = seen = [an_instance(state) for state in states]
    for one in seen:
        board.update(one)
    console.height = 6
    board.update(latest)
    assert [row[0] for row in rows(board, console)] == [running.id, queued.id, latest.id]


def test_the_latest_line_stays_and_progress_stands_before_it() -> None:
    board, console = a_board(20)
    plain, measured = an_instance(State.PROCESSING), an_instance(State.PROCESSING, progress=Progress(0.4))
    for one in (plain, measured):
        board.update(one, "line 7")
        board.update(one)
    assert [row[5:] for row in rows(board, console)] == [["line", "7"], ["40%", "line", "7"]]


def test_ids_are_whole_in_a_narrow_terminal() -> None:
    board, console = a_board(20, width=60)
    one = an_instance(State.PROCESSING)
    board.update(one, "a long line " * 9)
    (row,) = rows(board, console)
    assert row[0] == one.id
    assert sum(map(len, row)) < 60
