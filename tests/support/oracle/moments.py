"""Keeps calls apart from the moments at which something changes by itself, on a clock that runs during calls.

The reference sets such a moment by the middle of a call, and a server by a time within that call. So for as long as the
longest call before and after the moment, either answer is right.
"""

from __future__ import annotations

from .clocks import SteppedClock
from .engines import LONGEST_WAIT, Engine
from .reference import Reference

NEAR_US = 400_000
"""A program waits for a moment that comes that soon: most operations take less."""


class Moments:
    """The moments of one run."""

    def __init__(self, engine: Engine, reference: Reference) -> None:
        self._engine = engine
        self._reference = reference
        self._ahead: set[int] = set()
        """Those that were ahead when the present operation began. Earlier ones are over for both sides."""

    async def step_over(self, longest_us: int) -> bool:
        """Before an operation, wait until the near moments are over; whether time has passed."""
        clock, waited = self._engine.clock, False
        if isinstance(clock, SteppedClock):
            return False
        while True:
            now_us = clock.time_us()
            self._ahead |= {one for one in self._reference.thresholds() if one > now_us}
            ends = [one + longest_us for one in self._ahead if one <= now_us + NEAR_US]
            left_us = max(ends, default=0) - now_us
            if left_us < 0:
                self._ahead = {one for one in self._ahead if one > now_us}
                return waited
            waited = True
            await self._engine.pass_time(min(left_us / 1_000_000 + 0.001, LONGEST_WAIT))

    def fall_into(self, before_us: int, after_us: int, longest_us: int) -> bool:
        """Whether a moment falls into a call, or so near to it that the two sides can see it differently."""
        if before_us == after_us:
            return False
        return any(before_us <= one <= after_us for one in self._reference.thresholds()) or any(
            before_us - longest_us <= one <= after_us + longest_us for one in self._ahead
        )
