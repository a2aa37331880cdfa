"""The clock of a client, which takes the time of the nodes if the machine of the client has a wrong one."""

from __future__ import annotations

import contextlib
import random  # noqa: TID251  # only its type

from peerjob.model.clock import Clock

TRUSTED_US = 60_000_000
"""The most difference to the node's clock at which a client uses its own. An answer of a node can take 30 s."""


class ClientClock:
    """A clock whose time is that of a node, if the two differ by more than a minute when the client starts.

    Ids contain the time of their instance, and nodes refuse an id whose time is a day off. The time of the node then
    advances with the monotonic time, so a correction of the machine's clock has no effect.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead: float | None = None
        """Seconds from the monotonic time to the time of the node; None: use the machine's clock."""

    def compare(self, node_us: int) -> float:
        """Take the present time of a node; returns by how many seconds the machine's clock is ahead of it, or 0."""
        off_us = self._clock.time_us() - node_us
        if abs(off_us) <= TRUSTED_US:
            self._ahead = None
            return 0
        self._ahead = node_us / 1_000_000 - self._clock.elapsed()
        return off_us / 1_000_000

    @property
    def virtual(self) -> bool:
        return self._clock.virtual

    def time_us(self) -> int:
        """Microseconds since the epoch."""
        if self._ahead is None:
            return self._clock.time_us()
        return round((self._ahead + self._clock.elapsed()) * 1_000_000)

    def elapsed(self) -> float:
        return self._clock.elapsed()

    @property
    def random(self) -> random.Random:
        return self._clock.random

    def outside(self) -> contextlib.AbstractContextManager[None]:
        return self._clock.outside()

    def inside(self) -> contextlib.AbstractContextManager[None]:
        return self._clock.inside()

    def passing(self, timeout: float | None) -> contextlib.AbstractAsyncContextManager[None]:
        return self._clock.passing(timeout)
