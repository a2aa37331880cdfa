"""Which schedules are due, in which order."""

import gc

from hypothesis import given, settings
from hypothesis import strategies as st

from peerjob.cluster.timetable import Timetable, TimetableEntry
from peerjob.model.firing import ScheduleRow
from support.leaders import SECOND

NOW = 1_000 * SECOND


def row(
    name: str, next_us: int | None, revision: int = 1, *, paused: bool = False, removed: bool = False
) -> ScheduleRow:
    return ScheduleRow(
        name=name, kind="k", definition=b"", revision=revision, next_us=next_us, paused=paused, removed=removed
    )


def names(entries: list[TimetableEntry]) -> list[str]:
    return [entry.row.name for entry in entries]


def test_what_is_due_comes_in_order_and_once() -> None:
    table = Timetable()
    for name, seconds in (("c", -0.1), ("a", -0.9), ("b", -0.5), ("later", 1)):
        table.put(row(name, NOW + round(seconds * SECOND)))
    table.look(NOW)
    assert names(table.take_timely(2)) == ["a", "b"]
    assert names(table.take_timely(2)) == ["c"]
    assert table.next_due_us() == NOW + SECOND
    table.look(NOW)
    assert table.take_timely(2) == []


def test_what_is_late_waits_in_a_line_of_its_own() -> None:
    table = Timetable()
    table.put(row("late", NOW - 2 * SECOND))
    table.put(row("timely", NOW))
    table.look(NOW)
    assert names(table.take_timely(9)) == ["timely"]
    assert names(table.take_late(9)) == ["late"]


def test_a_schedule_that_goes_on_late_stands_at_the_end_again() -> None:
    table = Timetable()
    for name in "ab":
        table.put(row(name, NOW - 9 * SECOND))
    order: list[str] = []
    for _ in range(4):
        table.look(NOW)
        (entry,) = table.take_late(1)
        order.append(entry.row.name)
        table.enter(entry)
    assert order == ["a", "b", "a", "b"]


def test_a_later_row_takes_the_place_of_what_is_under_way_or_lined_up() -> None:
    table = Timetable()
    table.put(row("s", NOW))
    table.look(NOW)
    table.put(row("s", NOW + SECOND, revision=2))
    assert table.take_timely(9) == []
    table.look(NOW + SECOND)
    (taken,) = table.take_timely(9)
    table.put(row("s", NOW + 5 * SECOND, revision=3))
    taken.next_us = NOW + 2 * SECOND
    table.enter(taken)
    table.look(NOW + 4 * SECOND)
    assert table.take_late(9) == table.take_timely(9) == []
    table.put(row("s", NOW, revision=2))  # an answer that was overtaken
    assert table.next_due_us() == NOW + 5 * SECOND


def test_paused_removed_and_exhausted_ones_are_never_due() -> None:
    table = Timetable()
    for name in ("paused", "exhausted", "removed", "dropped"):
        table.put(row(name, NOW))
    table.put(row("paused", NOW, 2, paused=True))
    table.put(row("exhausted", None, 2))
    table.put(row("removed", None, 2, removed=True))
    table.look(NOW)
    (entry,) = table.take_timely(9)
    table.drop(entry)
    table.enter(entry)
    # nothing is to be looked at, either
    assert (len(table), table.take_timely(9), table.next_due_us()) == (2, [], None)
    table.look(NOW)
    assert table.take_timely(9) == []


def test_one_that_must_wait_is_not_due_before() -> None:
    table = Timetable()
    table.put(row("s", NOW), not_before_us=NOW + SECOND)
    table.look(NOW)
    assert table.take_timely(9) == []
    table.look(NOW + SECOND)
    assert names(table.take_timely(9)) == ["s"]


def test_one_that_is_written_over_and_over_takes_no_more_room() -> None:
    table = Timetable()
    for revision in range(1, 1_000):
        table.put(row("written anew", NOW, revision))
    gc.collect()
    kept = [one for one in gc.get_objects() if type(one) is TimetableEntry and one.row.name == "written anew"]
    assert 0 < len(kept) < 150


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 50), st.booleans()), max_size=400))
def test_the_last_row_of_each_decides_however_often_it_was_written(rows: list[tuple[str, int, bool]]) -> None:
    table = Timetable()
    expected: dict[str, int] = {}
    for revision, (name, seconds, removed) in enumerate(rows, 1):
        table.put(row(name, NOW + seconds * SECOND, revision, removed=removed))
        if removed:
            expected.pop(name, None)
        else:
            expected[name] = seconds
    taken: dict[str, int] = {}
    for second in range(51):
        table.look(NOW + second * SECOND)
        taken |= dict.fromkeys(names(table.take_timely(99)), second)
    assert taken == expected
    assert len(table) == len(expected)


@settings(max_examples=25)
@given(seconds=st.lists(st.integers(0, 50), min_size=60, max_size=60), times=st.integers(3, 6))
def test_many_schedules_stay_in_order_when_old_rows_are_left_out(seconds: list[int], times: int) -> None:
    """Above twice their number and a hundred rows, the rows that no longer count are left out."""
    table = Timetable()
    expected: dict[str, int] = {}
    for time in range(times):
        for number, second in enumerate(seconds):
            expected[str(number)] = (second * (time + 1) + 7 * number) % 51
            table.put(row(str(number), NOW + expected[str(number)] * SECOND, time + 1))
    taken: dict[str, int] = {}
    for second in range(51):
        table.look(NOW + second * SECOND)
        taken |= dict.fromkeys(names(table.take_timely(99)), second)
    assert taken == expected


def test_a_row_that_is_read_again_takes_its_place_anew() -> None:
    """With the revision that it had: a fire that was refused as stale changes none."""
    table = Timetable()
    table.put(row("a", NOW))
    table.look(NOW)
    assert names(table.take_timely(9)) == ["a"]
    table.put(row("a", NOW + SECOND))
    assert table.next_due_us() == NOW + SECOND
    table.look(NOW + SECOND)
    assert names(table.take_timely(9)) == ["a"]
