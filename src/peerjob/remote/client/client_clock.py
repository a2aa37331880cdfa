"""The clock of a client, which takes the time of the nodes if the machine of the client has a wrong one."""

from __future__ import annotations

import contextlib
import random  # noqa: TID251  # only its type

from peerjob.model.clock import Clock

TRUSTED_US = 60_000_000
"""The most difference to the node's clock at which a client uses its own. An answer of a node can take 30 s."""


class ClientClock:
    """A clock that is compared with that of a node, and then advances with the monotonic time.

    Ids contain the time of their instance, and nodes refuse an id whose time is a day off. The clock takes the time of
    the node if the two differ by more than a minute. A later step of the machine's clock changes nothing by itself, but
    is a reason to compare anew: the machine may have been suspended in a way that the monotonic time leaves out.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._zero_us: int | None = None
        """The time at which the monotonic time was zero; None before the first comparison."""
        self._lead_us = 0
        """Lead of the machine's clock over this clock at the last comparison."""

    def compare(self, node_us: int | None) -> float:
        """Take the present time of a node; returns by how many seconds the machine's clock is ahead of it, or 0.

        None is the time of a node that does not tell it: the machine's clock counts.
        """
        machine_us = self._clock.time_us()
        off_us = 0 if node_us is None else machine_us - node_us
        self._lead_us = off_us if abs(off_us) > TRUSTED_US else 0
        self._zero_us = machine_us - self._lead_us - self._elapsed_us()
        return self._lead_us / 1_000_000

    @property
    def has_stepped(self) -> bool:
        """Whether the machine's clock was set since the last comparison, by more than a minute."""
        return abs(self._clock.time_us() - self.time_us() - self._lead_us) > TRUSTED_US

    def _elapsed_us(self) -> int:
        return round(self._clock.elapsed() * 1_000_000)

    @property
    def virtual(self) -> bool:
        return self._clock.virtual

    def time_us(self) -> int:
        """Microseconds since the epoch."""
        return self._clock.time_us() if self._zero_us is None else self._zero_us + self._elapsed_us()

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
