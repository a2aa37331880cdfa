"""Annotations that are text at run time mean the same as those that are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, Required, TypedDict

import pytest
import typing_extensions
from typing_extensions import ReadOnly, Unpack

from peerjob import ArgumentError, Job
from peerjob.handles.context import Context
from peerjob.node.body.binding import Binding


class Keys(TypedDict):
    a: int
    b: NotRequired[int]


class Loose(TypedDict, total=False):
    a: Required[int]
    b: int


class Inherited(Keys, total=False):
    c: Required[Annotated[int, "note"]]
    d: int


class Extended(typing_extensions.TypedDict):
    a: ReadOnly[Required[int]]
    b: Annotated[NotRequired[ReadOnly[int]], "note"]


@dataclass
class Holder:
    keys: Keys
    more: list[Loose]


def of_keys(value: Keys) -> Keys:
    return value


def of_optional(value: Loose) -> Loose:
    return value


def of_inherited(value: Inherited) -> Inherited:
    return value


def of_extended(value: Extended) -> Extended:
    return value


def of_holder(value: Holder) -> Holder:
    return value


def by_name(**named: Unpack[Keys]) -> None: ...


@pytest.mark.parametrize(
    ("body", "least", "most"),
    [
        (of_keys, {"a": 1}, {"a": 1, "b": 2}),
        (of_optional, {"a": 1}, {"a": 1, "b": 2}),
        (of_inherited, {"a": 1, "c": 3}, {"a": 1, "b": 2, "c": 3, "d": 4}),
        (of_extended, {"a": 1}, {"a": 1, "b": 2}),
    ],
)
def test_keys_of_a_typed_dict_that_are_not_required(body: Any, least: dict[str, int], most: dict[str, int]) -> None:
    binding = Binding(Job("kind", body))
    for value in (least, most):
        assert binding.arguments(binding.encode((value,), {}), Context(id="run")) == ([value], {})
    for name in least:
        with pytest.raises(ArgumentError, match=rf"value\['{name}'\]: Field required"):
            binding.encode(({key: item for key, item in most.items() if key != name},), {})


def test_in_a_field_of_a_class() -> None:
    binding = Binding(Job("kind", of_holder))
    value = Holder({"a": 1}, [{"a": 1}])
    assert binding.arguments(binding.encode((value,), {}), Context(id="run")) == ([value], {})


def test_as_keyword_arguments() -> None:
    binding = Binding(Job("kind", by_name))
    assert binding.arguments(binding.encode((), {"a": 1}), Context(id="run")) == ([], {"a": 1})
    with pytest.raises(ArgumentError, match="a: missing"):
        binding.encode((), {"b": 1})
