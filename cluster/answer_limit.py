"""How long a node waits for the answer to a renewal of its lease, or to a request of its election."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from peerjob.model.clock import Clock
from peerjob.store.calls import MAX_ANSWER


class AnswerLimit:
    """A time limit that grows while the server is slow, so that a slow server does not stop all nodes for good.

    A request gets a fifth of the TTL at first: if it is lost, the node sends it again before trust ends. If the server
    needs longer for each request, a fixed limit would end each of them. Then no node has trust, and no node claims.
    `trusted` tells whether the node has trust now. See decision 0037.
    """

    def __init__(self, clock: Clock, ttl: float, trusted: Callable[[], bool]) -> None:
        self._clock = clock
        self._trusted = trusted
        self._least = ttl / 5
        self.most = ttl * MAX_ANSWER
        """The upper bound of `seconds`."""
        self.seconds = self._least
        """Most seconds for the next answer."""

    @contextlib.asynccontextmanager
    async def applied(self) -> AsyncGenerator[None]:
        """Raise TimeoutError if the block ends too late. The limit of the next block depends on this one.

        After an answer, the next one may take twice as long. Without an answer in time, the limit doubles, unless the
        node still has trust: then more tries are of more use than longer ones.
        """
        began = self._clock.elapsed()
        try:
            async with asyncio.timeout(self.seconds):
                yield
        except TimeoutError:
            if not self._trusted():
                self.seconds = min(self.most, 2 * self.seconds)
            raise
        self.seconds = min(self.most, max(self._least, 2 * (self._clock.elapsed() - began)))
