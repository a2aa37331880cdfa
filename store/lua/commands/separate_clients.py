"""The lease of a node and the leadership of a namespace, each over a client that shares nothing with the store."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.firing import Candidate, Leader, Term
from peerjob.model.instruction import instruction_of
from peerjob.model.record import Held, Renewed
from peerjob.store.calls import LOGGER, MAX_ANSWER, answer_within
from peerjob.store.lua.client.driver import Driver
from peerjob.store.lua.scripts.script import Argument, Reply

IDENTITY = "store"
FIRST_TIMEOUT = 2.0
AFTER_END = 0.25
"""Most seconds from the end of a leadership to the campaign of a peer, so that not all peers campaign at once."""


class SeparateClient:
    """Runs scripts without retries, over a driver of its own; for one event loop."""

    def __init__(self, url: str, make_driver: Callable[[], Driver], *, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._make_driver = make_driver
        self._driver: Driver | None = None

    async def open(self) -> None:
        driver = self._make_driver()
        try:
            await driver.open()
        except GeneratorExit:
            raise  # Python destroys this coroutine because its event loop was closed
        except BaseException:
            await driver.close()
            raise
        self._driver = driver

    async def close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            await driver.close()

    async def _run(self, script: str, *arguments: Argument, timeout: float) -> Reply:
        """Run a script. If no reply comes within `timeout` seconds, raise StoreUnavailableError."""
        driver = self._driver
        if driver is None:
            raise StoreUnavailableError(self._url, "the client is not open")
        try:
            async with answer_within(timeout, url=self._url):
                (reply,) = await driver.run((script, arguments))
        except StoreUnavailableError:
            # The driver does not know why its call ended. In a cluster, another server may have the namespace by now.
            driver.give_up()
            raise
        return reply


class LuaLiveness(SeparateClient):
    """Renews a lease, and compares this node's clock with that of the server."""

    _ahead_us: int | None = None

    async def open(self, wake: Callable[[], None] | None = None) -> None:  # the first renewal tells the server's clock
        await super().open()

    async def renew(self, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
        sent, limit = self._clock.elapsed(), ttl_us * MAX_ANSWER / 1_000_000
        reply = await self._run("renew", incarnation, ttl_us, running, count, fences_digest, timeout=limit)
        if not reply:
            return Renewed(dead=True)
        now, held, cancelled, instruction, work_due, reap_in_us, mended, settling = reply
        if mended:
            text = "node %s: %d damaged entries of its claims are replaced by what the records show"
            LOGGER.error(text, incarnation, mended)
        # The round trip is measured in monotonic time, because the wall clock can be changed during the request.
        answered_us, round_trip_us = self._clock.time_us(), round((self._clock.elapsed() - sent) * 1_000_000)
        max_us = answered_us - int(now)
        return Renewed(
            now_us=int(now),
            held=tuple(map(_held, held[::2], held[1::2])) if held != b"" else None,
            cancelled=tuple(map(bytes.decode, cancelled)),
            ahead_us=self._compare(max_us - round_trip_us, max_us),
            instruction=instruction_of(instruction),
            work_due=work_due == b"1" if work_due else None,
            reap_in_us=int(reap_in_us),
            settling=bool(settling),
        )

    async def withdraw(self, incarnation: str, request: str, *, timeout: float) -> None:
        await self._run("withdraw", incarnation, request, timeout=timeout)

    def _compare(self, min_us: int, max_us: int) -> int:
        """Return how far the clock of the node is ahead of the server's clock, between two bounds.

        The value of an earlier, quicker answer is kept while it is within the bounds of a slower answer.
        """
        if self._ahead_us is None:
            self._ahead_us = (min_us + max_us) // 2
        self._ahead_us = min(max(self._ahead_us, min_us), max_us)
        return self._ahead_us


def _held(id: bytes, fence: bytes) -> Held:
    return Held(id.decode(), int(fence))


class LuaElections(SeparateClient):
    """Campaigns and resigns; the server's clock ends a term.

    The store hints a resignation to every node, so `changed` only waits for the end of the leadership of a peer.
    """

    _timeout = FIRST_TIMEOUT
    _ends_at = math.inf
    """When the leadership of a peer ends, in elapsed time, if the last question was a campaign that told it."""

    async def campaign(self, candidate: Candidate, *, ttl_us: int) -> Leader:
        self._timeout = ttl_us * MAX_ANSWER / 1_000_000
        reply = await self._run(
            "campaign",
            candidate.incarnation,
            candidate.name,
            ttl_us,
            self._clock.time_us(),
            timeout=self._timeout,
        )
        leader, left = reply[:4], reply[4:]
        self._ends_at = self._clock.elapsed() + (left[0] + 1) / 1000 if left else math.inf
        return _leader(leader)

    async def resign(self, incarnation: str, *, refused: Term | None = None) -> None:
        # `refused` is ignored: the server grants only terms above every term that the server has seen, also above the
        # refused one.
        await self._run("resign", incarnation, timeout=self._timeout)

    async def leader(self) -> Leader | None:
        self._ends_at = math.inf
        reply = await self._run("leader", timeout=self._timeout)
        return _leader(reply) if reply else None

    async def changed(self, timeout: float) -> bool:
        left = max(0.0, self._ends_at - self._clock.elapsed()) + self._clock.random.uniform(0, AFTER_END)
        await asyncio.sleep(min(left, timeout))
        return left <= timeout


def _leader(reply: Reply) -> Leader:
    incarnation, name, term, since = reply
    return Leader(
        incarnation=incarnation.decode(), name=name.decode(), term=Term(IDENTITY, int(term)), since_us=int(since)
    )
