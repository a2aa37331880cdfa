"""Attempts of which the first that succeeds counts."""

import asyncio
import contextlib
from functools import partial

import pytest

from peerjob.store.lua.client.first_answer import NoAnswerError, first_answer
from support.waiting import until


async def test_a_later_result_is_discarded_and_an_earlier_error_is_not_raised() -> None:
    """Both succeed in the same step of the event loop: an open connection that no caller gets would stay open."""
    release, discarded = asyncio.Event(), list[int]()

    async def attempt(number: int) -> int:
        if number == 0:
            raise OSError
        if number == 2:
            asyncio.get_running_loop().call_soon(release.set)
        await release.wait()
        return number

    attempts = [partial(attempt, number) for number in range(3)]
    found = await first_answer(attempts, expected=(OSError,), discard=discarded.append)
    await until(lambda: discarded)  # from Python 3.12 on, one step later
    assert sorted([found, *discarded]) == [1, 2]


async def test_all_errors_are_raised_together_and_an_unexpected_one_at_once() -> None:
    async def attempt(error: Exception) -> None:
        raise error

    problems = [OSError(), ValueError(), OSError()]
    with pytest.raises(NoAnswerError) as raised:
        await first_answer([partial(attempt, one) for one in problems], expected=(OSError, ValueError))
    assert raised.value.problems == problems
    with pytest.raises(ValueError):  # noqa: PT011  # the error has no text
        await first_answer([partial(attempt, one) for one in problems], expected=(OSError,))


async def test_a_result_is_discarded_when_its_caller_is_cancelled_twice() -> None:
    """The second cancellation ends the wait for an attempt that takes long to end."""
    started, cancelled, release, discarded = asyncio.Event(), asyncio.Event(), asyncio.Event(), list[int]()

    async def attempt() -> int:
        started.set()
        try:
            await release.wait()
        except asyncio.CancelledError:
            cancelled.set()
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return 1

    caller = asyncio.create_task(first_answer([attempt], expected=(OSError,), discard=discarded.append))
    await started.wait()
    caller.cancel()
    await cancelled.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await until(lambda: discarded == [1])


async def test_a_result_is_discarded_when_its_caller_is_cancelled_after_it() -> None:
    discarded, ending = list[str](), asyncio.Event()

    async def late() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await asyncio.sleep(0)
        return "late"

    async def found() -> str:
        return "found"

    caller = asyncio.create_task(first_answer([late, found], expected=(), discard=discarded.append))
    await ending.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert discarded == ["found"]
