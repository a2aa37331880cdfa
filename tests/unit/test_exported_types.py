"""A program can name the type of each value that it gets: what user-facing methods return is exported."""

import inspect
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest

import peerjob

WITH_HANDLES = {
    # the stored data behind handles, which have its values as typed properties
    *("Record", "Transition", "Definition", "ScheduleRow", "FireRecord", "Timing"),
    # what servers and the dashboard are made of
    *("Update", "Pems", "AuditTrail", "LogPage"),
    # an Instance or a BlockingInstance
    *("HasId",),
    # what peerjob's own jobs call behind the durable verbs of a Context
    *("DurableRun",),
}
"""Types that few programs name. They come from the modules of peerjob, and can change in a minor release."""
SEAMS = ("Store", "Elections")
"""The interfaces of stores, whose authors import the types from `peerjob.store` and `peerjob.model`."""


def classes() -> list[type]:
    return [
        found
        for name in peerjob.__all__
        if name not in SEAMS and inspect.isclass(found := getattr(peerjob, name)) and not issubclass(found, Exception)
    ]


def parts(hint: Any) -> Iterator[type]:
    """The classes of peerjob in a type."""
    if isinstance(hint, type) and hint.__module__.split(".")[0] == "peerjob":
        yield hint
    alias = getattr(hint, "__value__", None)
    for one in (*get_args(hint), *([] if alias is None else [alias])):
        for part in one if isinstance(one, list) else [one]:
            yield from parts(part)


def public_hints(owner: type) -> Iterator[Any]:
    """The types of the public fields of a class."""
    for one in owner.__mro__:
        public = {
            name: hint
            for name, hint in inspect.get_annotations(one).items()
            if not name.startswith("_") and "ClassVar" not in str(hint)
        }
        yield from get_type_hints(SimpleNamespace(__annotations__=public), vars(sys.modules[one.__module__])).values()


def given(owner: type) -> Iterator[type]:
    """What the public methods, properties and fields of a class give to a program."""
    for hint in public_hints(owner):
        yield from parts(hint)
    for name, member in inspect.getmembers(owner):
        function = getattr(member, "fget", member)
        if not name.startswith("_") and inspect.isroutine(function) and hasattr(function, "__annotations__"):
            plain = inspect.unwrap(function)
            returned = SimpleNamespace(__annotations__={"return": plain.__annotations__.get("return")})
            yield from parts(get_type_hints(returned, plain.__globals__)["return"])


@pytest.mark.parametrize("owner", classes(), ids=lambda one: one.__name__)
def test_what_a_class_gives_is_exported(owner: type) -> None:
    unnamed = {one.__name__ for one in given(owner)} - set(peerjob.__all__) - WITH_HANDLES
    assert unnamed == set()
