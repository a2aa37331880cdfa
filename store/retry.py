"""Retries of calls while the server is away: the only place that repeats a call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreUnavailableError

T = TypeVar("T")

LOGGER = logging.getLogger("peerjob.store")
FIRST_WAIT = 0.02
MAX_WAIT = 1.0


class CallRetry:
    """Repeats a call while the server is away, for up to `retry_for` seconds."""

    def __init__(self, *, clock: Clock, retry_for: float) -> None:
        self._clock = clock
        self._retry_for = retry_for

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await `call()` until it answers; raises its last StoreUnavailableError."""
        try:
            return await call()
        except StoreUnavailableError as error:
            if self._retry_for <= 0:
                raise
            LOGGER.info("retrying a call for up to %g s: %s", self._retry_for, error)
        time = asyncio.get_running_loop().time
        until = time() + self._retry_for

        def is_over(state: RetryCallState) -> bool:
            # Read the clock of the event loop, because the waits between the tries use that clock.
            return time() + state.upcoming_sleep >= until

        again = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailableError), stop=is_over, wait=self._wait, reraise=True
        )

        async def attempt() -> T:
            return await call()

        return await again(attempt)

    def _wait(self, state: RetryCallState) -> float:
        longest: float = min(MAX_WAIT, FIRST_WAIT * 2**state.attempt_number)
        return longest * (0.5 + self._clock.random.random() / 2)
