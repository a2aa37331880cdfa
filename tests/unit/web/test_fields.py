"""Forms from the signatures of jobs, and the arguments that they give."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerjob import Secret
from peerjob.model.signature import analyse
from peerjob.node.body.schema import schema_of
from peerjob.web.fields import Field, fields_of
from peerjob.web.given import GivenArguments, form_of, problems_by_field, read_arguments


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Order:
    number: int
    note: str = ""


def of(function: Callable[..., Any]) -> dict[str, Field]:
    return {one.name: one for one in fields_of(schema_of(analyse(function)).decode())}


def read(function: Callable[..., Any], **form: str) -> GivenArguments:
    fields = of(function)
    return read_arguments([*fields.values()], {fields[name].key: text for name, text in form.items()})


def typed(
    count: int,
    share: float,
    name: str,
    price: Decimal,
    at: datetime,
    day: date,
    wait: timedelta,
    id: UUID,
    colour: Colour,
    mode: Literal["fast", "slow"],
    order: Order,
    numbers: list[int],
    password: Annotated[str, Secret],
    anything: Any,
    maybe: int | None,
    flag: bool = True,
    limit: int = 5,
) -> None: ...


def test_each_type_has_its_control() -> None:
    fields = of(typed)
    assert {name: one.control for name, one in fields.items()} == {
        **dict.fromkeys(("count", "share", "maybe", "limit"), "number"),
        **dict.fromkeys(("name", "price", "at", "wait", "id"), "text"),
        **dict.fromkeys(("colour", "mode", "flag"), "select"),
        **dict.fromkeys(("order", "numbers", "anything"), "json"),
        "day": "date",
        "password": "password",
    }
    assert [label for _, label in fields["colour"].options] == ["red", "blue"]
    assert [label for _, label in fields["mode"].options] == ["fast", "slow"]
    assert (fields["limit"].required, fields["limit"].default, fields["limit"].empty) == (False, "5", "5")
    assert (fields["maybe"].nullable, fields["maybe"].empty) == (True, "null")
    assert (fields["price"].type, fields["price"].example) == ("decimal number", "12.50")
    assert {name for name, one in fields.items() if one.nullable} == {"maybe"}
    assert fields["order"].example == '{"number": integer, "note": string}'


def test_values_have_the_types_of_json() -> None:
    given = read(
        typed,
        count="-3",
        share="0.5",
        name="",
        price="12.50",
        at="2026-12-24T18:00:00+01:00",
        day="2026-12-24",
        wait="1h30m",
        id="0190f0e0-0000-7000-8000-000000000000",
        colour='"blue"',
        mode='"slow"',
        order='{"number": 1}',
        numbers="[1, 2]",
        password="hunter2",
        anything='"text"',
        maybe="",
        flag="false",
    )
    assert given.problems == {}
    assert given.kwargs == {
        "count": -3,
        "share": 0.5,
        "name": "",
        "price": "12.50",
        "at": "2026-12-24T18:00:00+01:00",
        "day": "2026-12-24",
        "wait": "1h30m",
        "id": "0190f0e0-0000-7000-8000-000000000000",
        "colour": "blue",
        "mode": "slow",
        "order": {"number": 1},
        "numbers": [1, 2],
        "password": "hunter2",
        "anything": "text",
        "maybe": None,
        "flag": False,
    }


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("count", "", "missing"),
        ("count", "1.5", "expected a whole number, got '1.5'"),
        ("count", "9" * 5_000, "expected a whole number"),
        ("share", "nan", "expected a number, got 'nan'"),
        ("mode", '"other"', "expected one of"),
        ("flag", "yes", "expected one of true, false"),
        ("order", "{", "expected JSON"),
        ("order", "[" * 100_000, "expected JSON"),
        ("anything", "text", "text in double quotes"),
    ],
)
def test_a_text_that_cannot_be_read_is_a_problem_of_its_field(name: str, text: str, problem: str) -> None:
    given = read(typed, **{name: text})
    assert problem in given.problems[name][0]
    assert name not in given.kwargs


def test_other_arguments_are_json() -> None:
    def loose(first: int, **more: int) -> None: ...

    fields = of(loose)
    assert [*fields] == ["first", "*"]
    form = {"arg.first": "1", "arg.*": '{"a": 2}'}
    assert read_arguments([*fields.values()], form).kwargs == {"first": 1, "a": 2}
    assert read_arguments([*fields.values()], form | {"json": "[1, 2]"}).args == (1, 2)
    assert read_arguments([*fields.values()], form | {"json": '"x"'}).problems == {
        "json": ["expected a JSON array or object"]
    }
    assert "expected a JSON object" in read_arguments([*fields.values()], form | {"arg.*": "[]"}).problems["*"]


@pytest.mark.parametrize(
    "schema",
    [
        *(None, "", "no json", "[]", '{"type":"object"}', '{"properties": 3}'),
        '{"properties": {"x": 7}, "required": 1}',
        '{"properties": {"x": {"anyOf": [1, null], "enum": {}, "type": []}}}',
        '{"properties": {"x": {"$ref": "#/y"}}}',
    ],
)
def test_any_schema_gives_a_form(schema: str | None) -> None:
    fields = fields_of(schema)
    assert fields
    assert all(one.control == "json" for one in fields)


def test_problems_stand_beside_their_fields() -> None:
    problems = ["count: missing", "order['number']: Input should be a valid integer", "has no parameter 'x'"]
    assert problems_by_field(problems, of(typed).values()) == {
        "count": ["missing"],
        "order": ["order['number']: Input should be a valid integer"],
        "": ["has no parameter 'x'"],
    }


def test_arguments_fill_the_form_again_except_secrets() -> None:
    fields = [*of(typed).values()]
    moment = datetime.fromisoformat("2026-12-24T18:00:00+01:00")
    form = form_of(
        fields, (1, 0.5, "x", Decimal("1.5"), moment), {"order": {"number": 1}, "password": "***", "flag": True}
    )
    assert form == {
        "arg.count": "1",
        "arg.share": "0.5",
        "arg.name": "x",
        "arg.price": "1.5",
        "arg.at": "2026-12-24T18:00:00+01:00",
        "arg.order": '{"number":1}',
        "arg.flag": "true",
    }
    read_again = read_arguments(fields, form).kwargs
    assert read_again["order"] == {"number": 1}
    assert form_of(fields, tuple(range(30)), {}) == {"json": f"[{','.join(map(str, range(30)))}]"}
    assert inspect.signature(typed).parameters.keys() == {one.name for one in fields}


def with_defaults(
    count: int = 5,
    share: float = 0.5,
    name: str = "x",
    maybe: int | None = 7,
    mode: Literal["fast", "1", 1] | None = "fast",
    flag: bool = True,
    numbers: list[int] | None = None,
    anything: Any = 1,
    **more: int,
) -> None: ...


def without_defaults(
    count: int,
    share: float,
    name: str,
    maybe: int | None,
    mode: Literal["fast", "1", 1] | None,
    flag: bool,
    numbers: list[int] | None,
    anything: Any,
    **more: int,
) -> None: ...


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "count": st.integers(-3, 3),
    "share": st.sampled_from([0.0, 0.25, -1e20, 1e-9]),
    "name": st.text(max_size=3) | st.sampled_from(["", " ", "null", '"x"', "[1]", "5", "true"]),
    "maybe": st.none() | st.integers(-3, 3),
    "mode": st.sampled_from(["fast", "1", 1, None]),
    "flag": st.booleans(),
    "numbers": st.none() | st.lists(st.integers(), max_size=2),
    "anything": st.sampled_from([None, "", " ", "x", "5", 5, 0.5, [], {}, {"a": [None]}, False]),
    "another": st.integers(),
}


@given(st.data(), st.sampled_from([with_defaults, without_defaults]))
def test_a_filled_form_gives_the_arguments_again(data: st.DataObject, function: Callable[..., Any]) -> None:
    given_all = data.draw(st.fixed_dictionaries(VALUES))
    left_out = data.draw(st.sets(st.sampled_from(sorted(VALUES)))) if function is with_defaults else set[str]()
    kwargs = {name: value for name, value in given_all.items() if name not in left_out}
    fields = [*of(function).values()]
    read_again = read_arguments(fields, form_of(fields, (), kwargs))
    assert (read_again.problems, read_again.args) == ({}, ())
    # in text, because True is equal to 1
    assert repr(with_its_defaults(function, read_again.kwargs)) == repr(with_its_defaults(function, kwargs))


def with_its_defaults(function: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    bound = inspect.signature(function).bind(**kwargs)
    bound.apply_defaults()
    return bound.arguments
