"""What the overview shows of a sample: the order of the kinds, the tiles, and each warning."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from peerjob import Activity, Instance, KindActivity, State
from peerjob.handles.stats import Stats
from peerjob.model.clock import to_us
from peerjob.model.firing import Leader, Term
from peerjob.model.record import NodeInfo, NodeView, Record
from peerjob.web.pages.overview import MAX_UNSERVED, kind_rows, warnings
from peerjob.web.samples import MAX_OLDEST, Sample

AT = datetime(2026, 1, 1, tzinfo=UTC)
LEADER = Leader(incarnation="i", name="a", term=Term("c", 1))


def view(name: str, **info: Any) -> NodeView:
    return NodeView(info=NodeInfo(name=name, incarnation=name, **info))


def activity_of(kinds: dict[str, KindActivity]) -> Activity:
    return Activity(start=AT, step=timedelta(seconds=10), kinds=kinds, others=KindActivity())


def test_unserved_kinds_come_first_and_then_the_busiest_ones() -> None:
    counts = {
        "one": {State.SCHEDULED: 1},
        "three": {State.SCHEDULED: 1, State.PROCESSING: 2, State.COMPLETED: 90},
        "two": {State.PROCESSING: 2},
        "unserved": {State.SCHEDULED: 1},
    }
    active = {
        "failed": KindActivity(started=(1, 1), failed=(1, 8)),
        "started": KindActivity(started=(2, 2), completed=(4, 0)),
    }
    nodes = (view("a", kinds=("idle", "also idle")),)
    sample = Sample(stats=Stats(counts=counts, unserved={"unserved": 1}), nodes=nodes, activity=activity_of(active))
    rows = kind_rows(sample, AT)
    assert [row.kind for row in rows] == [
        *("unserved", "three", "two", "one"),
        *("started", "failed"),
        *("also idle", "idle"),
    ]
    by_kind = {row.kind: (row.waiting, row.running, row.failed, row.unserved) for row in rows}
    assert by_kind["three"] == (1, 2, 0, False)
    assert by_kind["unserved"] == (1, 0, 0, True)
    assert by_kind["failed"] == (0, 0, 9, False)


UNSERVED = {f"kind {number:03}": number + 1 for number in range(MAX_UNSERVED + 2)}

WARNINGS: list[tuple[Sample, list[str]]] = [
    (Sample(), []),
    (Sample(at_us=1), ["No node is live: nothing runs."]),
    (
        Sample(at_us=1, stats=Stats(nodes=1)),
        ["No leader is known: schedules do not fire until there is one."],
    ),
    (Sample(at_us=1, stats=Stats(nodes=1), leader=LEADER), []),
    (
        Sample(stats=Stats(unserved={"b": 1_000, "a": 1})),
        ["No live node runs the kind a: 1 wait.", "No live node runs the kind b: 1,000 wait."],
    ),
    (
        Sample(stats=Stats(unserved=UNSERVED)),
        [
            *(f"No live node runs the kind kind {number:03}: {number + 1} wait." for number in range(MAX_UNSERVED)),
            f"No live node runs 2 further kinds: {2 * MAX_UNSERVED + 3} wait.",
        ],
    ),
    (Sample(stats=Stats(undecodable=1)), ["1 record(s) cannot be read, and were set aside."]),
    (Sample(nodes=(view("a", version="1"), view("b", version="1"))), []),
    (
        Sample(nodes=(view("a", version="2"), view("b", version="1"))),
        ["The nodes run different releases: 1, 2."],
    ),
    (
        Sample(nodes=tuple(view(name, intake=name) for name in ("", "active", "draining", "drained"))),
        ["Node draining is draining.", "Node drained is drained."],
    ),
]


@pytest.mark.parametrize(("sample", "expected"), WARNINGS)
def test_each_warning_is_given_for_its_reason_alone(sample: Sample, expected: list[str]) -> None:
    assert list(warnings(sample)) == expected


def waiting(kind: str, created: int, due: int) -> Instance[Any]:
    """An instance that was created, and is due, so many seconds before now."""
    id = f"{to_us(AT - timedelta(seconds=created)) // 1000:012x}"
    return Instance(
        None,
        Record(
            id=f"{id[:8]}-{id[8:]}-7000-8000-000000000000", kind=kind, state=State.SCHEDULED, spec=b"", priority=5,
            due_us=to_us(AT - timedelta(seconds=due)), attempts=0, crashes=0, losses=0, fence=0, owner="", history=(),
        ),
    )  # fmt: skip


OLDEST = [waiting("busy", MAX_OLDEST + 40 - number, MAX_OLDEST + 40 - number) for number in range(MAX_OLDEST)]


@pytest.mark.parametrize(
    ("oldest", "without_wait", "expected"),
    [
        ([waiting("rare", 9, 9), waiting("rare", 30, 5), waiting("rare", 40, -5)], [], "9s"),
        ([waiting("rare", 0, 0)], [], "0s"),
        ([waiting("rare", 40, -5)], [], "–"),
        (OLDEST[1:], [], "–"),
        (OLDEST, [], "< 41s"),
        ([*OLDEST, waiting("other", 7, 7)], [], "< 41s"),
        (OLDEST, ["rare"], "–"),
        ([*OLDEST[2:], waiting("rare", 40, -5), waiting("rare", 30, -5)], [], "–"),
        ([*OLDEST[1:], waiting("rare", 30, -5)], [], "< 30s"),
        ([*OLDEST[1:], waiting("busy", -30, -30)], [], "< 0s"),
    ],
)
def test_the_longest_wait_of_a_kind(oldest: list[Instance[Any]], without_wait: list[str], expected: str) -> None:
    counts = {"rare": {State.SCHEDULED: 2}, "busy": {State.SCHEDULED: 90}}
    sample = Sample(stats=Stats(counts=counts), oldest=tuple(oldest), without_wait=frozenset(without_wait))
    assert {row.kind: row.oldest for row in kind_rows(sample, AT)}["rare"] == expected
