"""Calls of a server: their limits of time, and retries while the server is away. Only this module repeats a call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from tenacity import RetryCallState

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

LOGGER = logging.getLogger("peerjob.store")
RETRY_FOR = 30.0
"""Seconds for which a call is repeated, unless another time is given."""
FIRST_WAIT = 0.02
MAX_WAIT = 1.0
MAX_ANSWER = 0.6
"""Share of the TTL after which a renewal or a campaign is given up: a later answer would give little trust."""
LATE = 1.0
"""If the event loop notices a timeout this many seconds late, other code blocked the event loop."""


class CallRetry:
    """Repeats a call while the server is away, for up to `retry_for` seconds."""

    def __init__(self, *, clock: Clock, retry_for: float) -> None:
        self._clock = clock
        self._retry_for = retry_for

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await `call()` until it answers; raises its last StoreUnavailableError, or another error with `is_unsure`."""
        if self._retry_for <= 0:
            return await call()  # also in a thread without an event loop
        # the clock of the event loop, because the waits between the tries use that clock
        time = asyncio.get_running_loop().time
        until = time() + self._retry_for
        try:
            return await call()
        except StoreUnavailableError as error:
            if time() + FIRST_WAIT >= until:
                raise
            LOGGER.info("retrying a call for up to %g s: %s", self._retry_for, error)

        from tenacity import AsyncRetrying, retry_if_exception_type  # not at the top: it takes 0.5 MiB

        def is_over(state: RetryCallState) -> bool:
            return time() + state.upcoming_sleep >= until

        again = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailableError), stop=is_over, wait=self._wait, reraise=True
        )

        async def attempt() -> T:
            try:
                return await call()
            except StoreError as error:
                error.is_unsure = True  # an attempt before this one had no answer
                raise

        return await again(attempt)

    def _wait(self, state: RetryCallState) -> float:
        longest: float = min(MAX_WAIT, FIRST_WAIT * 2**state.attempt_number)
        return longest * (0.5 + self._clock.random.random() / 2)


@contextlib.asynccontextmanager
async def answer_within(seconds: float, *, url: str) -> AsyncGenerator[None]:
    """Raise StoreUnavailableError if the server at `url` does not answer in time."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        due = limit.when()
        late = 0.0 if due is None or not limit.expired() else asyncio.get_running_loop().time() - due
        raise StoreUnavailableError(url, no_answer(seconds, late)) from error


def opened_before_fork(url: str) -> str:
    """The text of the error for a call in a forked child, which must not use the connections of its parent."""
    return f"the store at {url} was opened before a fork: open another one here"


def no_answer(seconds: float, late: float) -> str:
    """Why no answer was read in time: the server gave none, or the event loop of this process was blocked.

    `late` is the number of seconds between the end of the time and the moment when the event loop saw it.
    """
    if late < LATE:
        return f"no answer within {seconds:g} s"
    return f"the event loop of this process was blocked: it saw the timeout of {seconds:g} s {late:.1f} s late"


async def both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Await two coroutines at the same time, each to its end, even if the other fails; then raise the first error."""
    earlier, other = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(earlier, BaseException):
        raise earlier
    if isinstance(other, BaseException):
        raise other
    return earlier, other
