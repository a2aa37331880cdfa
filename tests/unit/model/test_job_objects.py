"""Jobs as objects: how other libraries see them, copy them and send them to other processes."""

import asyncio
import copy
import functools
import inspect
import pickle
import sys
from typing import Any

import pytest
from starlette.background import BackgroundTask

from peerjob import Job, job
from support import bodies

ran: list[int] = []


@job(kind="later")
async def later(number: int) -> int:
    ran.append(number)
    return number


@job(kind="now")
def now(number: int) -> int:
    return number


class Adder:
    def __init__(self, base: int) -> None:
        self.base = base

    async def __call__(self, number: int) -> int:
        return self.base + number

    def add(self, number: int) -> int:
        return self.base + number


is_coroutine_function = inspect.iscoroutinefunction if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction


@pytest.mark.parametrize(
    "executor",
    [later, later.executor, Adder(1), functools.partial(Adder(1)), functools.partial(bodies.add_later, 1)],
    ids=["decorated", "function", "object", "partial_of_object", "partial"],
)
def test_a_job_of_an_async_function_is_a_coroutine_function(executor: Any) -> None:
    made = executor if isinstance(executor, Job) else Job("async", executor)
    assert is_coroutine_function(made)
    assert is_coroutine_function(made.with_options(priority=1))


@pytest.mark.parametrize(
    "made", [now, Job("add", Adder(1).add), Job("handle"), Job("class", Adder)], ids=lambda made: made.kind
)
def test_other_jobs_are_none(made: Job[..., Any, Any]) -> None:
    assert not is_coroutine_function(made)


async def test_a_framework_awaits_it() -> None:
    ran.clear()
    await BackgroundTask(later, 3)()
    assert ran == [3]


@pytest.mark.parametrize(
    "made",
    [later, now, now.with_options(after=5), Job("handle"), Job("lambda", lambda: 1)],
    ids=["async", "sync", "variant", "handle", "lambda"],
)
def test_a_copy_is_the_job_itself(made: Job[..., Any, Any]) -> None:
    assert copy.copy(made) is made
    assert copy.deepcopy({"job": [made]})["job"][0] is made


def test_a_decorated_function_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps([later, now])) == [later, now]


@pytest.mark.parametrize(
    "made",
    [
        now.with_options(priority=3, after="5s"),
        Job("add", bodies.add, max_retries=2, tags=["a"]),
        Job("handle", max_retries=2),
        Job("method", Adder(2).add),
        Job("partial", functools.partial(bodies.add, 1), timeout=5),
    ],
    ids=lambda made: made.kind,
)
def test_other_jobs_are_pickled_with_their_options(made: Job[..., Any, Any]) -> None:
    found = pickle.loads(pickle.dumps(made))
    assert (found.kind, found.options, found.overrides) == (made.kind, made.options, made.overrides)
    assert (found.policy, found.timing) == (made.policy, made.timing)
    if made.executor is not None:
        arguments = (1,) if made.kind != "add" else (1, 2)
        arguments = (2,) if made.kind == "partial" else arguments
        assert found(*arguments) == made(*arguments)
    with pytest.raises(AttributeError, match="immutable"):
        found.kind = "other"


def test_a_job_that_no_other_process_could_find_says_so() -> None:
    def local() -> None: ...

    for executor in (local, lambda: None):
        with pytest.raises(TypeError, match=r"job 'local' cannot be pickled: .* cannot be imported by name"):
            pickle.dumps(Job("local", executor))


def documented() -> None:
    """What its docstring says."""


NOTHING: dict[str, tuple[Any, Any]] = {
    "description": ("said", ""),
    "priority": (7, 0),
    "max_retries": (3, 0),
    "max_crashes": (3, 0),
    "timeout": (5, None),
    "retention": (5, None),
    "tags": (("a",), ()),
    "key": ("k", None),
    "retry_on": ((OSError,), ()),
    "no_retry_on": ((OSError,), ()),
}

OF_POLICY = {"retention": "retention_us"}


@pytest.mark.parametrize("option", NOTHING)
def test_an_option_that_is_set_to_nothing_is_set(option: str) -> None:
    """On the job itself, and on a variant of one that says something."""
    something, nothing = NOTHING[option]

    def shown(made: Job[..., Any, Any]) -> Any:
        return made.description if option == "description" else getattr(made.policy, OF_POLICY.get(option, option))

    plain = Job("kind", documented, **{option: nothing})
    variant = Job("kind", documented, **{option: something}).with_options(**{option: nothing})
    assert shown(variant) == shown(plain) == nothing
    assert shown(variant) != shown(Job("kind", documented, **{option: something}))
    assert plain.options[option] == nothing
