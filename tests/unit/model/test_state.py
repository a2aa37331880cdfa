"""States, their names, and the arrows between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerjob.model.state import ARROWS, SINGLE, Level, State

any_state = st.integers(0, int(State.ALL)).map(State)


def test_wire_numbers_stay_as_they_are() -> None:
    numbers = {
        "UNSET": 0, "CREATED": 1, "SCHEDULED": 2, "PROCESSING": 4, "CANCELLED": 8, "TIMED_OUT": 16,
        "COMPLETED": 32, "TERMINATED": 64, "INITIAL": 1, "SUCCESS": 32, "ACTIVE": 6, "ERROR": 88,
        "FINAL": 120, "ALL": 127,
    }  # fmt: skip
    assert {name: int(State[name]) for name in numbers} == numbers
    assert {level.name: int(level) for level in Level} == {"INFO": 1, "ERROR": 2, "WARN": 4, "DEBUG": 8}


def test_a_level_is_shown_by_its_name() -> None:
    assert (str(Level.INFO), f"{Level.WARN:<5}|", "%s" % Level.ERROR) == ("INFO", "WARN |", "ERROR")  # noqa: UP031
    assert (f"{Level.WARN:d}", Level.INFO | Level.WARN) == ("4", 5)


@given(any_state)
def test_a_state_is_the_sum_of_its_parts(state: State) -> None:
    combined = State.UNSET
    for part in state.parts():
        assert part in SINGLE
        combined |= part
    assert combined == state
    assert list(state.parts()) == sorted(state.parts())


@given(any_state)
def test_a_composite_is_final_when_every_part_is(state: State) -> None:
    assert state.is_final == (state != State.UNSET and all(part.is_final for part in state.parts()))


@given(any_state)
def test_the_text_of_a_composite_names_its_parts(state: State) -> None:
    if state not in (State.UNSET, State.ALL):
        assert [State.parse(name) for name in str(state).split("|")] == list(state.parts())


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("Completed", State.COMPLETED), ("completed", State.COMPLETED), ("SUCCESS", State.COMPLETED),
        ("TimedOut", State.TIMED_OUT), ("timed_out", State.TIMED_OUT), ("timed out", State.TIMED_OUT),
        ("initial", State.CREATED), ("Active", State.ACTIVE), ("error", State.ERROR), ("Final", State.FINAL),
        ("All", State.ALL), ("Unset", State.UNSET),
    ],
)  # fmt: skip
def test_text_is_read_in_any_case(text: str, state: State) -> None:
    assert State.parse(text) == state


def test_a_state_is_formatted_as_its_text() -> None:
    assert (f"{State.TIMED_OUT}", f"{State.COMPLETED:>10}", f"{State.ACTIVE:d}") == ("TimedOut", " Completed", "6")


@pytest.mark.parametrize("text", ["", "done", "Completed|Terminated", "32", "complete"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unknown state"):
        State.parse(text)


def test_every_single_state_has_its_name() -> None:
    for state in SINGLE:
        assert State.parse(str(state)) == state
        assert str(state).isalpha()


def test_nothing_follows_a_final_state() -> None:
    for state, following in ARROWS.items():
        assert (following == State.UNSET) == (state in State.FINAL and state != State.UNSET)


def test_every_state_is_reached_from_created() -> None:
    reached = {State.CREATED}
    for _ in SINGLE:
        reached |= {part for state in reached for part in ARROWS[state].parts()}
    assert reached == set(SINGLE)


def test_only_a_new_instance_is_created() -> None:
    assert [state for state, following in ARROWS.items() if State.CREATED in following.parts()] == [State.UNSET]
