"""What a task gets of its arguments."""

import json
from decimal import Decimal
from typing import Any

import pytest

from peerjob.django.values import as_json


class Number(int):
    """JSON gives it back as an int."""


@pytest.mark.parametrize(
    "value",
    [
        *([], [1, "ä\ud800", True, None], (1, 2), {"a": 1, "b": None}, {}, [1.5, [2]], {"a": {"b": (1,)}}),
        *([Number(3)], {"a": Number(3)}, {5: 6}, {True: 1}, [b"text"], "text", 5, None),
    ],
    ids=repr,
)
def test_a_value_is_as_after_a_round_trip_through_json(value: Any) -> None:
    plain = as_json(value)
    expected = json.loads(json.dumps(value, default=bytes.decode))
    assert plain == expected
    assert repr(plain) == repr(expected), "types, too"
    assert plain is not value or not isinstance(value, list | dict), "a later change by the caller changes no argument"


@pytest.mark.parametrize("value", [[float("nan")], [b"\xff"], {"a": float("inf")}, [object], [Decimal(1)]], ids=repr)
def test_what_json_lacks_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        as_json(value)
