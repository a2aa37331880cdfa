"""What the tasks of one body wait for together, and whether only the end of its children can have ended a wait."""

from __future__ import annotations

import pytest

from peerjob.model.codec import encode_value
from peerjob.model.durable import SIGNAL_MARK, Need, Step, Wait
from peerjob.node.work.durable_state import Suspension, joined
from peerjob.node.work.over_marks import mark_name, marked, shows_over

MARK = Step("over/x", b"")
NEEDS = (Need("one"),)


def suspension(*signals: str, until_us: int | None = None, step: str = "", needs: bool = False) -> Suspension:
    wait = Wait(signals=signals, until_us=until_us, needs=needs)
    return Suspension(wait, (Step(step, b""),) if step else (), NEEDS if needs else ())


JOINED: list[tuple[list[Suspension], Wait]] = [
    ([suspension("a")], Wait(signals=("a",))),
    ([suspension("a", "b"), suspension("b", "c")], Wait(signals=("a", "b", "c"))),
    ([suspension(until_us=9), suspension(until_us=7), suspension("a")], Wait(signals=("a",), until_us=7)),
    ([suspension(until_us=9), suspension(until_us=7, needs=True, step="m")], Wait(until_us=7, needs=True)),
    ([suspension(until_us=7), suspension(until_us=9, needs=True, step="m")], Wait(until_us=7, needs=True)),
]


@pytest.mark.parametrize(("waits", "expected"), JOINED)
def test_a_body_waits_for_the_first_end_of_all(waits: list[Suspension], expected: Wait) -> None:
    assert joined(waits).wait == expected


def test_of_several_sets_of_children_the_first_is_awaited_and_each_deadline_is_kept() -> None:
    first = suspension(needs=True, step="first", until_us=5)
    second = Suspension(Wait(needs=True), (Step("second", b""),), (Need("other"),))
    found = joined([suspension(step="before"), first, second, suspension(step="after")])
    assert found.needs == NEEDS
    assert [step.name for step in found.steps] == ["first", "before", "after"]
    assert found.steps[0] == marked(first.steps[0], found.wait)


def test_without_children_the_steps_stay_as_they_are() -> None:
    waits = [suspension("a", step="one"), suspension("b", step="two")]
    assert joined(waits).steps == (Step("one", b""), Step("two", b""))


@pytest.mark.parametrize(
    ("wait", "steps", "over"),
    [
        (Wait(), (), True),
        (Wait(until_us=11), (), True),
        (Wait(until_us=10), (), False),
        (Wait(until_us=9), (), False),
        (Wait(signals=("a", "b")), (), True),
        (Wait(signals=("a", "b")), (f"{SIGNAL_MARK}b",), False),
        (Wait(signals=("a",)), (f"{SIGNAL_MARK}b", "a"), True),
    ],
)
def test_only_the_children_end_a_wait_before_its_time_and_without_its_signals(
    wait: Wait, steps: tuple[str, ...], over: bool
) -> None:
    assert shows_over(marked(MARK, wait).value, steps, 10) is over


@pytest.mark.parametrize("data", [b"", b"\xc1", encode_value(1), encode_value([1, 2]), encode_value([["a"], "b"])])
def test_a_mark_of_another_form_shows_nothing(data: bytes) -> None:
    assert not shows_over(data, (), 10)


def test_a_mark_has_the_same_name_for_the_same_children_and_another_one_for_the_next_wait() -> None:
    assert mark_name(["a", "b"], 1) == mark_name(["b", "a"], 1)
    assert len({mark_name(["a"], 1), mark_name(["a"], 2), mark_name(["a"], 3), mark_name(["b"], 1)}) == 4
