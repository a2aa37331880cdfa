"""How often one client may call: a bucket of calls for each, which fills at a steady rate."""

from __future__ import annotations

from collections import OrderedDict

from peerjob.model.clock import Clock
from peerjob.model.errors import OptionError

MAX_CLIENTS = 10_000
"""Buckets kept; beyond it the one that was longest unused is forgotten, which is then full again."""


class RateLimiter:
    """Allows each client `rate` calls per second, and as many at once when it was quiet for a second."""

    def __init__(self, rate: float, clock: Clock) -> None:
        if not 0 < rate < float("inf"):
            raise OptionError("rate", rate, "a number of calls per second, over zero")
        self._rate = rate
        self._most = max(1.0, rate)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, client: str) -> bool:
        """Whether this client may call now; if so, it has."""
        now = self._clock.elapsed()
        left, since = self._buckets.pop(client, (self._most, now))
        left = min(self._most, left + (now - since) * self._rate)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left), now
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return allowed


def host_of(peer: str) -> str:
    """Who calls, from what gRPC tells about the other end: "ipv4:127.0.0.1:41234" is 127.0.0.1."""
    kind, _, rest = peer.partition(":")
    return rest.rpartition(":")[0] if kind in ("ipv4", "ipv6") else peer
