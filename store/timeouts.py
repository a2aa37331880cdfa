"""Limits on the time that a call waits for the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from peerjob.model.errors import StoreUnavailableError

LATE = 1.0
"""If the event loop notices a timeout this many seconds late, other code blocked the event loop."""

A = TypeVar("A")
B = TypeVar("B")


@contextlib.asynccontextmanager
async def answer_within(seconds: float, *, url: str) -> AsyncGenerator[None]:
    """Raise StoreUnavailableError if the server at `url` does not answer in time."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        raise StoreUnavailableError(url, no_answer(limit, seconds)) from error


def no_answer(limit: asyncio.Timeout, seconds: float) -> str:
    """Why no answer was read in time: the server gave none, or the event loop of this process was blocked."""
    due = limit.when()
    late = 0.0 if due is None or not limit.expired() else asyncio.get_running_loop().time() - due
    if late < LATE:
        return f"no answer within {seconds:g} s"
    return f"the event loop of this process was blocked: it saw the timeout of {seconds:g} s {late:.1f} s late"


async def both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Await two coroutines at the same time, each to its end, even if the other fails; then raise the first error."""
    one, other = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(other, BaseException):
        raise other
    return one, other
