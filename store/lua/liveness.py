"""Renewal of one lease, over a separate client."""

from __future__ import annotations

from peerjob.model.record import Held, Renewed

from .separate_client import SeparateClient


class LuaLiveness(SeparateClient):
    """Renews a lease, and compares this node's clock with that of the server."""

    _ahead_us: int | None = None

    async def renew(self, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
        sent = self._clock.elapsed()
        reply = await self._run("renew", incarnation, ttl_us, running, count, fences_digest, timeout=ttl_us / 5_000_000)
        if not reply:
            return Renewed(dead=True)
        now, held, cancelled = reply
        # The round trip is measured in monotonic time, because the wall clock can be changed during the request.
        answered_us, round_trip_us = self._clock.time_us(), round((self._clock.elapsed() - sent) * 1_000_000)
        max_us = answered_us - int(now)
        return Renewed(
            now_us=int(now),
            held=tuple(map(_held, held[::2], held[1::2])) if held != b"" else None,
            cancelled=tuple(map(bytes.decode, cancelled)),
            ahead_us=self._compare(max_us - round_trip_us, max_us),
        )

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
