"""How calls wait for the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from peerjob.errors import StoreUnavailableError

A = TypeVar("A")
B = TypeVar("B")


@contextlib.asynccontextmanager
async def answer_within(seconds: float, *, url: str) -> AsyncGenerator[None]:
    """Wait for the server at `url` no longer than this; raises StoreUnavailableError."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise StoreUnavailableError(url, f"no answer within {seconds:g} s") from error


async def both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Await two at the same time, each to its end also where the other fails; then raise the first error."""
    one, other = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(other, BaseException):
        raise other
    return one, other
