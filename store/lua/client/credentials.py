"""The credentials that a provider gives, for all connections of one store.

The provider runs on the event loop of the store, one call at a time: an asynchronous provider can have connections of
its own there. The thread of a lease has another event loop, which takes the latest answer, or asks through that loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, cast

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreCredentialsError, StoreError, StoreUnavailableError
from peerjob.store.calls import LOGGER

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

Given = tuple[str, ...]
"""A password, or a user and a password."""

ASK_EVERY = 60.0
"""Seconds after which the provider is asked again. It may return the same credentials."""
ASK_AGAIN = 10.0
"""Seconds until the next question after a provider failed."""
ANSWER_WITHIN = 30.0
"""Seconds that the provider has to answer."""


class Credentials:
    """The latest answer of a provider, for the connections on all event loops."""

    def __init__(self, provider: CredentialProvider, *, url: str, clock: Clock) -> None:
        self._provider = provider
        self._url = url
        self._clock = clock
        self._latest: Given | None = None
        self._ask_at = -math.inf
        self._home: asyncio.AbstractEventLoop | None = None
        """The event loop on which the provider runs."""
        self._question: asyncio.Task[Given] | None = None
        """The question in flight, a task of `_home`."""

    @property
    def user(self) -> str | None:
        """The user of the latest answer; None before the first, and for the default user."""
        return self._latest[0] if self._latest is not None and len(self._latest) == 2 else None

    def live_here(self) -> None:
        """Let the provider run on the running event loop from now on."""
        self._home = asyncio.get_running_loop()

    async def current(self) -> Given:
        """Return credentials for a new connection. Raises StoreUnavailableError if the provider never answered."""
        if self._latest is not None and self._clock.elapsed() < self._ask_at:
            return self._latest
        try:
            return await self._ask()
        except StoreError:
            if self._latest is None:
                raise
            return self._latest

    def renewed(self) -> Given | None:
        """Return the latest credentials at once. If they are old, ask the provider meanwhile."""
        if self._clock.elapsed() >= self._ask_at:
            self._ask_at = self._clock.elapsed() + ASK_AGAIN
            with contextlib.suppress(RuntimeError):  # the event loop was closed, and this thread has none
                self._live_loop().call_soon_threadsafe(self._shared_question)
        return self._latest

    async def instead_of(self, refused: Given) -> Given:
        """Ask the provider once more, unless it has given others since the server refused these."""
        latest = self._latest
        return latest if latest is not None and latest != refused else await self._ask()

    async def close(self) -> None:
        """End the question in flight."""
        question, self._question = self._question, None
        if question is not None and not question.get_loop().is_closed():
            question.cancel()

    async def _ask(self) -> Given:
        home = self._live_loop()
        if home is asyncio.get_running_loop():
            return await asyncio.shield(self._shared_question())
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._ask(), home))

    def _live_loop(self) -> asyncio.AbstractEventLoop:
        if self._home is None or self._home.is_closed():
            self.live_here()
        assert self._home is not None, "the provider has an event loop"
        return self._home

    def _shared_question(self) -> asyncio.Task[Given]:
        """Return the question in flight, or start one."""
        question = self._question
        if question is None or question.done() or question.get_loop() is not asyncio.get_running_loop():
            self._ask_at = self._clock.elapsed() + ASK_AGAIN
            question = self._question = asyncio.create_task(self._answer(), name="peerjob-credentials")
            question.add_done_callback(_retrieve)
        return question

    async def _answer(self) -> Given:
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                given = await self._provider.get_credentials_async()
        except Exception as error:  # a provider may raise anything
            reason = f"no answer within {ANSWER_WITHIN:g} s" if isinstance(error, TimeoutError) else repr(error)
            LOGGER.warning("the provider of credentials for %s failed: %s", self._url, reason)
            raise StoreUnavailableError(self._url, f"the provider of credentials failed: {reason}") from error
        if not _is_given(given):
            LOGGER.warning("the provider of credentials for %s returned a %s", self._url, type(given).__name__)
            raise StoreCredentialsError(
                f"the provider of credentials for {self._url} returned a {type(given).__name__}, "
                "expected (password,) or (user, password), as text"
            )
        given = given[-1:] if given[0] == "" else given  # as redis-py does for the default user
        self._latest, self._ask_at = given, self._clock.elapsed() + ASK_EVERY
        return given


def _is_given(given: object) -> bool:
    """Return whether a provider, which may be untyped, returned credentials."""
    parts = cast("tuple[object, ...]", given) if isinstance(given, tuple) else ()
    return 1 <= len(parts) <= 2 and all(isinstance(part, str) for part in parts)


def _retrieve(question: asyncio.Task[Given]) -> None:
    """Read the error of a question that no connection waits for: it is logged already."""
    if not question.cancelled():
        question.exception()
