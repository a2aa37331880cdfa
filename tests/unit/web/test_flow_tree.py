"""The drawing of a flow has a box for each member, or for many alike, and an arrow for each need."""

import re
from typing import Any

from peerjob import Instance, State
from peerjob.model.record import Record
from peerjob.web.flow_tree import MAX_DRAWN, Part, blockers, tree
from peerjob.web.links import Links


def part(number: int, kind: str, state: State | None, *needs: int) -> Part:
    id = f"0192f2a4-0000-7000-8000-{number:012d}"
    instance: Instance[Any] | None = None
    if state is not None:
        instance = Instance(
            None,
            Record(
                id=id, kind=kind, state=state, spec=b"", priority=5, due_us=0, attempts=0, crashes=0, losses=0,
                fence=0, owner="", history=(),
            ),
        )  # fmt: skip
    return Part(id=id, kind=kind, needs=needs, instance=instance)


def test_each_member_has_a_box_with_a_link_and_each_need_an_arrow() -> None:
    parts = [
        part(0, "fetch", State.COMPLETED),
        part(1, "<parse>", State.PROCESSING, 0),
        part(2, "<parse>", State.TERMINATED, 0),
        part(3, "merge", None, 1, 2),
    ]
    drawing = tree(parts, Links(root="/jobs"))
    assert drawing.count("<rect") == 4
    assert drawing.count("<path") == 4
    assert f'href="/jobs/instances/{parts[1].id}"' in drawing
    assert parts[3].id not in drawing  # it is not made yet
    assert "<parse>" not in drawing
    assert "&lt;parse&gt;: Processing" in drawing
    assert 'class="run"' in drawing
    assert 'class="bad"' in drawing
    assert "merge: not made" in drawing
    assert [one.id for one in blockers(parts)] == [parts[1].id]


def test_an_arrow_bends_in_the_middle_between_its_boxes() -> None:
    drawn = str(tree([part(0, "first", State.COMPLETED), part(1, "second", State.SCHEDULED, 0)], Links(root="")))
    (path,) = re.findall(r'<path d="M(\d+) \d+ C(\d+) \d+ (\d+) \d+ (\d+) \d+"/>', drawn)
    begin, first, second, end = map(int, path)
    assert first == second == (begin + end) // 2
    assert begin < first < end


def test_members_that_are_alike_are_folded() -> None:
    count = 5_000
    parts = [part(number, "parse", State.COMPLETED if number else State.SCHEDULED) for number in range(count)]
    parts.append(part(count, "merge", State.SCHEDULED, *range(count)))
    drawing = tree(parts, Links(root=""))
    assert drawing.count("<rect") == 2
    assert drawing.count("<path") == 1
    assert "5,000 × parse: 4,999 Completed, 1 Scheduled" in drawing


def test_no_drawing_has_more_boxes_than_the_limit() -> None:
    parts = [
        part(number, f"kind-{number % 50}", None, *([number - 50] if number >= 50 else [])) for number in range(1_000)
    ]
    assert 0 < tree(parts, Links(root="")).count("<rect") <= MAX_DRAWN


def test_an_instance_without_children_has_no_drawing() -> None:
    assert tree([], Links(root="")) == ""


def test_at_most_eight_members_that_are_alike_have_a_box_each() -> None:
    parts = [part(number, "parse", State.SCHEDULED) for number in range(9)]
    assert tree(parts[:8], Links(root="")).count("<rect") == 8
    assert tree(parts, Links(root="")).count("<rect") == 1


def test_a_label_has_at_most_twenty_two_letters() -> None:
    assert f">{'k' * 22}</text>" in tree([part(0, "k" * 22, State.SCHEDULED)], Links(root=""))
    assert f">{'k' * 21}…</text>" in tree([part(0, "k" * 23, State.SCHEDULED)], Links(root=""))


def test_the_first_ten_members_that_the_others_wait_for_are_named() -> None:
    parts = [part(number, "parse", State.SCHEDULED) for number in range(11)]
    assert blockers([*parts, part(11, "merge", State.SCHEDULED, *range(11))]) == parts[:10]
