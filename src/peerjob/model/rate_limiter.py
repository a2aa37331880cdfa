"""The rate limit: a token bucket for each client."""

from __future__ import annotations

from .arguments import finite_number
from .clock import Clock
from .latest import Latest

MAX_CLIENTS = 10_000
"""The most buckets. Above this number, the least recently used bucket is dropped; its client later gets a full one."""


class RateLimiter:
    """Allows each client `rate` calls per second, and `burst` together after a pause (default: those of a second)."""

    def __init__(self, rate: float, clock: Clock, *, burst: int | None = None) -> None:
        finite_number("rate", rate, "a number of calls per second, over zero and at most a billion", 1e-9, 1e9)
        self._rate = rate
        self._capacity = max(1.0, rate) if burst is None else float(burst)
        self._clock = clock
        self._buckets = Latest[str, tuple[float, float]](MAX_CLIENTS)

    def allows(self, client: str) -> bool:
        """Take one call from the client's bucket; False if the bucket is empty."""
        now = self._clock.elapsed()
        left, since = self._buckets.get(client, (self._capacity, now))
        left = min(self._capacity, left + (now - since) * self._rate)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left), now
        return allowed
