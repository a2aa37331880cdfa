"""Each error and each signal of a job survives `pickle` and `copy`, as process pools and test runners need it."""

import copy
import inspect
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from peerjob.model import errors
from peerjob.model.errors import Fail, PeerjobError, Retry, Snooze

VALUES: dict[str, Any] = {
    "problems": ["x: missing"],
    "known": ["mail"],
    "live": ["node-a"],
    "path": ("x", 0),
    "addresses": ["localhost:7070"],
    "size": 2,
    "limit": 1,
    "wants": "tls",
    "status": -9,
    "seconds": 5.0,
    "found": 3,
}
"""An argument of each parameter that takes no text."""


def kinds() -> Iterator[type[BaseException]]:
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, PeerjobError | Retry | Fail | Snooze):
            yield kind


def made(kind: type[BaseException]) -> BaseException:
    if not inspect.isfunction(kind.__init__):
        return kind("a text")
    _, *parameters = inspect.signature(kind.__init__).parameters.values()
    values = {one.name: VALUES.get(one.name, f"a {one.name}") for one in parameters}
    named = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    return kind(*(values[one] for one in values if one not in named), **{one: values[one] for one in named})


def pickled(error: BaseException) -> BaseException:
    found: BaseException = pickle.loads(pickle.dumps(error))
    return found


@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", [*kinds()])
def test_an_error_is_whole_in_another_process(
    kind: type[BaseException], again: Callable[[BaseException], BaseException]
) -> None:
    error = made(kind)
    error.__notes__ = ["a note"]

    found = again(error)

    assert type(found) is kind
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))


class Coded(Fail):
    """An error of an application with a `__new__` of its own."""

    def __new__(cls, code: str) -> "Coded":
        return super().__new__(cls, code)

    def __init__(self, code: str) -> None:
        super().__init__(f"failed with {code}")
        self.code = code


@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy])
def test_an_error_with_a_constructor_of_two_methods_is_whole(again: Callable[[BaseException], BaseException]) -> None:
    found = again(Coded("a code"))
    assert isinstance(found, Coded)
    assert (str(found), found.code) == ("failed with a code", "a code")
