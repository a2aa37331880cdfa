"""Queries: valid criteria, and their text."""

from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerjob.model.clock import to_us
from peerjob.model.errors import OptionError, ScheduleError
from peerjob.model.query import MAX_LIMIT, Filter, Query
from peerjob.model.state import SINGLE, State

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_a_query_without_criteria_means_all() -> None:
    query = Query.all()
    assert query == Query()
    assert query.states == State.ALL
    assert (query.id, query.after_us, query.before_us, query.limit, query.order) == (None, None, None, 100, "asc")


@given(st.lists(st.sampled_from(SINGLE), min_size=1))
def test_several_states_are_one_composite(states: list[State]) -> None:
    combined = State(0)
    for state in states:
        combined |= state
    texts = [str(state) for state in states]
    mixed = [text if number % 2 else state for number, (text, state) in enumerate(zip(texts, states, strict=True))]
    for given_states in (combined, states, texts, mixed, set(states), iter(states)):
        assert Query(state=given_states).states == combined


@pytest.mark.parametrize("text", ["final", "Final", "FINAL"])
def test_a_state_may_be_text(text: str) -> None:
    assert Query(state=text).states == State.FINAL


def test_a_number_is_a_state() -> None:
    assert Query(state=["Completed", State.TERMINATED]) == Query(state=State(96))


@pytest.mark.parametrize("state", ["done", ["Completed", "done"], ""])
def test_an_unknown_state_is_refused(state: Any) -> None:
    with pytest.raises(OptionError, match="state: expected"):
        Query(state=state)


@pytest.mark.parametrize(
    ("criterion", "value"),
    [
        ("state", State.UNSET),
        ("state", 0),
        ("state", []),
        ("state", [State.UNSET]),
        ("state", -1),
        ("state", 128),
        ("state", State(128)),
        ("state", [State.COMPLETED, 256]),
        ("state", True),
        ("state", 1.5),
        ("kind", ""),
        ("kind", 5),
        ("tag", ""),
        ("level", 0),
        ("level", 16),
        ("level", "INFO"),
    ],
)
def test_a_criterion_that_names_nothing_is_refused(criterion: str, value: Any) -> None:
    criteria: dict[str, Any] = {criterion: value}
    with pytest.raises(OptionError, match=f"{criterion}: expected"):
        Query(**criteria)


def test_an_instance_is_asked_for_in_any_form() -> None:
    uuid = uuid4()
    for asked in (uuid, str(uuid), uuid.hex, str(uuid).upper()):
        assert Query(uuid=asked).id == str(uuid)
        assert Query(instance=asked).id == str(uuid)
    instance: Any = SimpleNamespace(id=str(uuid))
    assert Query(instance=instance).id == str(uuid)


@pytest.mark.parametrize("uuid", ["", "nonsense", 5, b"x"])
def test_what_is_no_uuid_is_refused(uuid: Any) -> None:
    with pytest.raises(OptionError, match="expected a UUID"):
        Query(uuid=uuid)
    with pytest.raises(OptionError, match="expected a UUID"):
        Query(instance=uuid)


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1])
def test_a_limit_has_a_range(limit: int) -> None:
    with pytest.raises(OptionError, match="limit: expected a whole number from 1 to 10,000"):
        Query(limit=limit)


def test_an_order_is_one_of_two() -> None:
    order: Any = "up"
    with pytest.raises(OptionError, match="'asc' or 'desc'"):
        Query(order=order)


def test_a_time_without_a_zone_is_refused() -> None:
    naive = NOON.replace(tzinfo=None)
    for criterion in ("before", "after"):
        times: dict[str, Any] = {criterion: naive}
        with pytest.raises(ScheduleError, match="no time zone"):
            Query(**times)
        with pytest.raises(ScheduleError, match="no time zone"):
            Filter(**times)


def test_times_are_instants_in_any_zone() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=45)))
    assert Query(after=elsewhere, before=NOON).after_us == to_us(NOON)
    assert Query(after=elsewhere, before=NOON).before_us == to_us(NOON)


def test_a_cursor_changes_nothing_else() -> None:
    query = Query(kind="mail", state="Final", uuid=UUID(int=7), tag="t", limit=5, order="desc", after=NOON)
    moved = query.at("here")
    assert moved.cursor == "here"
    assert moved.at(None) == query


def test_a_filter_without_criteria_has_no_bounds() -> None:
    assert Filter().bounds_us(to_us(NOON)) == (None, None)


def test_an_age_is_judged_at_now() -> None:
    now = to_us(NOON)
    assert Filter(older_than="1h").bounds_us(now) == (None, now - 3_600_000_000)
    assert Filter(older_than=timedelta(microseconds=1)).bounds_us(now) == (None, now - 1)


@given(st.timedeltas(timedelta(0), timedelta(days=9)), st.timedeltas(timedelta(0), timedelta(days=9)))
def test_the_earlier_bound_counts(age: timedelta, before: timedelta) -> None:
    after = NOON - timedelta(days=30)
    bounds = Filter(older_than=age, before=NOON - before, after=after).bounds_us(to_us(NOON))
    assert bounds == (to_us(after), to_us(NOON - max(age, before)))


@pytest.mark.parametrize("age", ["-1s", "soon", -5])
def test_a_bad_age_is_refused(age: Any) -> None:
    with pytest.raises(OptionError, match="older_than"):
        Filter(older_than=age)
