"""How calls wait for the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from peerjob.model.errors import StoreUnavailableError

LATE = 1.0
"""Seconds by which a loop that is not blocked never misses a timeout."""

A = TypeVar("A")
B = TypeVar("B")


@contextlib.asynccontextmanager
async def answer_within(seconds: float, *, url: str) -> AsyncGenerator[None]:
    """Wait for the server at `url` no longer than this; raises StoreUnavailableError."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        raise StoreUnavailableError(url, no_answer(limit, seconds)) from error


def no_answer(limit: asyncio.Timeout, seconds: float) -> str:
    """Why an answer was not read in time: the server gave none, or this process's event loop was blocked."""
    due = limit.when()
    late = 0.0 if due is None or not limit.expired() else asyncio.get_running_loop().time() - due
    if late < LATE:
        return f"no answer within {seconds:g} s"
    return f"the event loop of this process was blocked, and saw only {late:.1f} s late that {seconds:g} s were over"


async def both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Await two at the same time, each to its end also where the other fails; then raise the first error."""
    one, other = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(other, BaseException):
        raise other
    return one, other
