"""How far this node's clock is off: no server's clock decides, so nodes compare theirs.

A node publishes its clock whenever it writes its lease anyway, for those that ask, and when it was put right, so nobody
writes while nothing happens. Who hears of it takes the difference to its own clock, and judges itself by the median.

Who was not scheduled for a while hears late, and whoever is heard late looks behind. So a node asks again about what is
new to it, and believes the later of the last two times that it was told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from peerjob.clock import Clock
from peerjob.errors import StoreUnavailableError

from .base import KeyValue, Range
from .keys import Keys, prefix_end
from .rows import live_of

LOGGER = logging.getLogger("peerjob.store")
MOST_OFF_US = 1_000_000
"""How far off the median a clock may be that decides what is due."""
_STEP_US = 250_000
"""A correction of the clock that peers must hear of."""
_WAIT = 3600.0
_PAUSE = 1.0


class Skew:
    """What a store knows of its clock; written by the thread that renews, read by the others."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead_us = 0
        self._median_us = 0
        """The median of the clocks when the monotonic one of this node was 0."""

    @property
    def is_off(self) -> bool:
        """Whether others should decide what is due."""
        return abs(self.ahead_us) > MOST_OFF_US

    def median_us(self) -> int:
        """What time it is by the median of the clocks, as far as the last renewal tells, whatever the own one says."""
        return self._median_us + round(self._clock.elapsed() * 1_000_000)

    def set(self, ahead_us: int) -> None:
        """Note how far the clock is ahead of the median; tells once when that becomes too much."""
        self._median_us = self._clock.time_us() - ahead_us - round(self._clock.elapsed() * 1_000_000)
        was_off, self.ahead_us = self.is_off, ahead_us
        if self.is_off and not was_off:
            LOGGER.warning(
                "this node's clock is %.1f s %s the others': it leaves delayed jobs and schedules to them until "
                "that is put right",
                abs(ahead_us) / 1_000_000,
                "ahead of" if ahead_us > 0 else "behind",
            )
        elif was_off and not self.is_off:
            LOGGER.info("this node's clock is right again")


class Clocks:
    """Listens to the clocks of peers, over the connection of one lease.

    What is kept of a clock is its distance to this node's monotonic one, which no correction of the time moves.
    """

    def __init__(self, kv: KeyValue, keys: Keys, clock: Clock) -> None:
        self._kv = kv
        self._keys = keys
        self._clock = clock
        self._heard: dict[str, tuple[int, ...]] = {}
        """The last two times that each told."""
        self._told: tuple[int, int] | None = None
        """This node's clock as it was published, and how many had asked before."""
        self._asked = 0
        self._doubts = self._settled = 0
        """How often something new was heard, and of how much of that it has asked again."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen until `stop`."""
        self._task = asyncio.create_task(self._listen(), name="peerjob clocks")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    @property
    def asks(self) -> bool:
        """Whether peers should publish their clocks: this node has just begun to listen, or heard something new."""
        return self._told is None or self._doubts != self._settled

    @property
    def must_tell(self) -> bool:
        """Whether this node's clock is to be published though nothing else changed: it was asked for, or put right."""
        own_us, asked = self._now()
        return self.asks or self._told is None or asked != self._told[1] or abs(own_us - self._told[0]) > _STEP_US

    def tell(self) -> Callable[[], None]:
        """Begin to publish this node's clock; to be called when that is done."""
        now, doubts = self._now(), self._doubts

        def told() -> None:
            self._told, self._settled = now, doubts

        return told

    def ahead_us(self, own: str) -> int:
        """How far the clock of an incarnation is ahead of the median, itself included; 0 without peers.

        Of two in the middle, the nearer one counts: with one peer only, nobody can tell who is wrong.
        """
        own_us, _ = self._now()
        ahead = sorted([0, *(own_us - max(heard) for one, heard in self._heard.items() if one != own)])
        return min(ahead[(len(ahead) - 1) // 2 : len(ahead) // 2 + 1], key=abs)

    def _now(self) -> tuple[int, int]:
        return self._clock.time_us() - round(self._clock.elapsed() * 1_000_000), self._asked

    async def _listen(self) -> None:
        watch = self._kv.watch(self._keys.live)
        try:
            while True:
                try:
                    told = await watch.changed(_WAIT)
                    if told != []:
                        await self._hear(told)
                except StoreUnavailableError:
                    await asyncio.sleep(_PAUSE)
        finally:
            watch.close()

    async def _hear(self, told: list[str] | None) -> None:
        """Take in what was written just now; None: nobody knows what, so no time can be told from it."""
        at_us, live = round(self._clock.elapsed() * 1_000_000), self._keys.live
        (found,) = await self._kv.read([Range(live, prefix_end(live))])
        heard: dict[str, tuple[int, ...]] = {}
        for key, entry in found.items:
            one, shown = key[len(live) :], live_of(entry.value)
            before = self._heard.get(one, ())
            if told is None or key in told:
                self._asked += shown.asks
            if told is not None and key in told and shown.clock_us:
                said = shown.clock_us - at_us
                heard[one] = (*before[-1:], said)
                self._doubts += not before or abs(said - before[-1]) > _STEP_US
            elif before:
                heard[one] = before
        self._heard = heard
