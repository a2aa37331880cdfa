"""`Signal`: a typed value that an instance gets once from outside."""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar, overload

from .durable import AGAIN, MAX_STEP_NAME, SIGNAL_MARK
from .errors import OptionError
from .limits import checked_text

_find_usual = re.compile(rf"[\w ./:-]{{1,{MAX_STEP_NAME}}}", re.ASCII).fullmatch
"""Finds most names that `checked_step_name` accepts, in a third of its time."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class SignalSource(Generic[T_co]):
    """A signal, as a body reads it: one of a bool is also one of an object. A value is given to a `Signal`."""

    __slots__ = ("name", "type")

    name: str
    type: Any

    @property
    def stored_name(self) -> str:
        """The name under which a store keeps the value."""
        return SIGNAL_MARK + self.name


class Signal(SignalSource[T], Generic[T]):
    """The name of a value that comes from outside, and its type.

    A body waits for it with `Context.wait_for`, and `Manager.signal` gives it. An instance has one value of each name:
    the first one stays. `type` is a class, or any other annotation of a parameter.
    """

    __slots__ = ()

    @overload
    def __init__(self, name: str, type: type[T]) -> None: ...
    @overload
    def __init__(self: Signal[Any], name: str, type: Any) -> None: ...
    def __init__(self, name: str, type: Any) -> None:
        self.name = checked_step_name(name)
        self.type = type

    def __repr__(self) -> str:
        return f"Signal({self.name!r}, {getattr(self.type, '__name__', self.type)!s})"


def name_again(name: str, number: int) -> str:
    """The stored name of a step or a signal in place of a name whose value does not fit; `number` is 2 or more."""
    return f"{name}@{number}"  # whole: names that begin alike stay apart


def is_name_again(given: str, name: str) -> bool:
    """Whether `name_again` makes this of a name."""
    number = given.rpartition("@")[2]
    return number.isdecimal() and given == name_again(name, int(number))


def checked_step_name(name: object) -> str:
    """Return the name of a step, a wait, a signal or a child; raises OptionError."""
    if isinstance(name, str) and _find_usual(name):
        return name
    text = checked_text("name", name, MAX_STEP_NAME)
    if text.startswith(SIGNAL_MARK):
        raise OptionError("name", name, f"a name that does not begin with {SIGNAL_MARK!r}")
    if AGAIN.search(text):
        raise OptionError("name", name, "a name that does not end in '@' and a number")
    return text
