"""How far this node's clock is off: no server's clock decides, so nodes compare theirs.

A node tells its clock in a key of its own when it begins to listen, when a peer asks, and when the clock was corrected.
Peers take the time from the watch, so a cluster in which nothing happens reads and writes nothing for this. A node
judges itself by the median of the clocks. With an even number, the slower one of the two in the middle counts: of two
clocks that disagree nothing tells which one is right, and to fire late does less harm than to fire early.

A process that the OS paused hears late, and a clock that is heard late looks slow. So a node asks again about a clock
that disagrees with its own, and believes the later of the last two times that it heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

import msgspec

from peerjob.model.clock import Clock, CorrectedTime
from peerjob.model.errors import StoreUnavailableError

from .base import KeyValue, Range
from .keys import Keys, prefix_end
from .rows import ClockReport, clock_report_of

LOGGER = logging.getLogger("peerjob.store")
MAX_OFF_US = 1_000_000
"""How far off the median a clock may be that decides what is due."""
_BACK_US = 750_000
"""How far off it may be to count as right again: less, so that a clock at the limit is not told of each second."""
EVERYBODY = ("*",)
_STEP_US = 250_000
"""A correction of the clock that peers must hear of, and a difference that must be heard twice."""
_SAMPLE = 16
"""About how many peers answer a node that asks everybody."""
_MAX_ASKED = 8
"""Peers that a node asks by name; it asks everybody instead when there are more."""
_AGAIN = 5.0
"""Seconds after which a node whose clock seems to be off asks again: it may have heard late each time."""
_UNKNOWN = 5.0
"""Seconds after which a node that heard of no peer's clock goes by its own."""
_WAIT = 3600.0
_PAUSE = 1.0


class SkewJudgement(msgspec.Struct, frozen=True):
    """What a node makes of the clocks that it heard."""

    ahead_us: int = 0
    """How far its clock is ahead of the one that counts; negative: behind."""
    apart_us: int = 0
    """How far the two clocks in the middle are apart, where there are two."""
    known: bool = True
    """False while a node that began to listen, or whose clock was set, waits for its peers' clocks."""


class ClockSkew:
    """What a store knows of its clock; written by the thread that renews, read by the others."""

    def __init__(self, clock: Clock) -> None:
        self.judgement = SkewJudgement()
        self.is_off = False
        """Whether others should decide what is due."""
        self._is_apart = False
        self._time = CorrectedTime(clock)

    @property
    def decides(self) -> bool:
        """Whether this node's clock decides what is due: it is known to be right."""
        return self.judgement.known and not self.is_off

    def median_us(self) -> int:
        """The time by the clock that counts, as far as the last renewal tells, whatever this node's clock shows."""
        return self._time.time_us()

    def set(self, judgement: SkewJudgement) -> None:
        """Note how the clock compares with the others; warns once when the difference becomes too large."""
        if not judgement.known:
            self.judgement = msgspec.structs.replace(self.judgement, known=False)
            return
        ahead_us = judgement.ahead_us
        self._time.correct(ahead_us)
        was_off, was_apart = self.is_off, self._is_apart
        self.judgement = judgement
        self.is_off = abs(ahead_us) > (_BACK_US if was_off else MAX_OFF_US)
        self._is_apart = judgement.apart_us > (_BACK_US if was_apart else MAX_OFF_US)
        if self.is_off and not was_off:
            LOGGER.warning(
                "this node's clock is %.1f s %s the others': it leaves delayed jobs and schedules to them until "
                "that is put right",
                abs(ahead_us) / 1_000_000,
                "ahead of" if ahead_us > 0 else "behind",
            )
        elif self._is_apart and not (was_apart or self.is_off):
            LOGGER.warning(
                "the nodes' clocks differ by %.1f s, and no majority of nodes shows which ones are right: delayed jobs "
                "and schedules go by the slower ones, of which this node's is one, until that is put right",
                judgement.apart_us / 1_000_000,
            )
        elif (was_off or was_apart) and not (self.is_off or self._is_apart):
            LOGGER.info("this node's clock is right again")


class PeerClocks:
    """Listens to the clocks of peers, over the connection of one lease.

    What is kept of a clock is its distance to this node's monotonic one, which no correction of the time moves.
    """

    def __init__(self, kv: KeyValue, keys: Keys, clock: Clock) -> None:
        self._kv = kv
        self._keys = keys
        self._clock = clock
        self._own = ""
        self._heard: dict[str, tuple[int, ...]] = {}
        """The last two times that each peer told."""
        self._told: tuple[int, int] | None = None
        """This node's clock as it was told, and how many had asked before."""
        self._began = 0.0
        self._asked = 0
        self._doubts: set[str] = set()
        """Peers that are to be asked again."""
        self._ask_from = 0.0
        self._may_be_gone = True
        """Whether peers may have gone since the last look at who lives."""
        self._known = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen until `stop`."""
        self._began = self._clock.elapsed()
        self._task = asyncio.create_task(self._listen(), name="peerjob clocks")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    @property
    def must_tell(self) -> bool:
        """Whether this node's clock is to be told though nothing else changed."""
        own_us, asked = self._now()
        return (
            self._told is None or asked != self._told[1] or bool(self._doubts) or abs(own_us - self._told[0]) > _STEP_US
        )

    def speak_as(self, own: str) -> None:
        """Tell this node's clock under an incarnation from now on."""
        if own != self._own:
            self._own, self._told = own, None

    def tell(self) -> tuple[ClockReport, Callable[[], None]]:
        """What is to be written of this node's clock, and what to call when that is done."""
        now, doubts = self._now(), frozenset(self._doubts)
        was_set = self._told is not None and abs(now[0] - self._told[0]) > _STEP_US
        if was_set:
            doubts |= self._heard.keys()
        asks = EVERYBODY if self._told is None or len(doubts) > _MAX_ASKED else tuple(doubts)

        def told() -> None:
            self._told = now
            self._doubts -= doubts
            if was_set:
                # all peers are to be heard again, and until then time passes by what was known
                self._heard = {one: heard[-1:] for one, heard in self._heard.items()}
                self._known, self._began = False, self._clock.elapsed()

        return ClockReport(self._clock.time_us(), asks), told

    async def judge(self) -> SkewJudgement:
        """Compare this node's clock with those that it heard."""
        judgement = self._compared()
        if self._may_be_gone or not self._known or max(abs(judgement.ahead_us), judgement.apart_us) > MAX_OFF_US:
            live = await self._live()
            self._heard = {one: heard for one, heard in self._heard.items() if one in live}
            self._may_be_gone = False
            waits = live - {self._own} and not (self._heard and all(map(self._is_usable, self._heard.values())))
            self._known = self._known or not waits or self._clock.elapsed() - self._began > _UNKNOWN
            judgement = self._compared()
        if max(abs(judgement.ahead_us), judgement.apart_us) > MAX_OFF_US and self._clock.elapsed() >= self._ask_from:
            self._ask_from = self._clock.elapsed() + _AGAIN
            self._doubts.update(one for one, heard in self._heard.items() if self._disagrees(max(heard)))
        return judgement

    def _compared(self) -> SkewJudgement:
        own_us, _ = self._now()
        ahead = sorted([0, *(own_us - max(heard) for heard in self._heard.values() if self._is_usable(heard))])
        middle = len(ahead) // 2
        apart_us = 0 if len(ahead) % 2 else ahead[middle] - ahead[middle - 1]
        return SkewJudgement(ahead[middle], apart_us, self._known)

    def _is_usable(self, heard: tuple[int, ...]) -> bool:
        """Whether a clock agrees with this node's, or was heard twice."""
        return len(heard) > 1 or not self._disagrees(max(heard))

    def _disagrees(self, said_us: int) -> bool:
        return abs(self._now()[0] - said_us) > _STEP_US

    def _now(self) -> tuple[int, int]:
        return self._clock.time_us() - round(self._clock.elapsed() * 1_000_000), self._asked

    async def _live(self) -> set[str]:
        """The incarnations that live."""
        live = self._keys.live
        (found,) = await self._kv.read([Range(live, prefix_end(live), keys_only=True)])
        return {key[len(live) :] for key, _ in found.items}

    async def _listen(self) -> None:
        watch = self._kv.watch(self._keys.clocks)
        try:
            while True:
                try:
                    self._hear(await watch.changed(_WAIT))
                except StoreUnavailableError:
                    await asyncio.sleep(_PAUSE)
        finally:
            watch.close()

    def _hear(self, told: Mapping[str, bytes] | None) -> None:
        """Take in what was told just now; None: some of it was missed, so this node tells its clock and asks anew."""
        if told is None:
            self._told = None
            return
        at_us, cut = round(self._clock.elapsed() * 1_000_000), len(self._keys.clocks)
        for key, value in told.items():
            one, shown = key[cut:], clock_report_of(value)
            if shown is None or one == self._own:
                continue
            said, heard = shown.clock_us - at_us, self._heard.get(one)
            self._may_be_gone |= heard is None
            # of a clock that was set, the later of two times is of no use before it is heard again
            if self._disagrees(said) if heard is None else abs(said - heard[-1]) > _STEP_US:
                self._doubts.add(one)
            self._heard[one] = (said,) if heard is None else (heard[-1], said)
            if self._own in shown.asks or (shown.asks == EVERYBODY and self._is_of_sample()):
                self._asked += 1

    def _is_of_sample(self) -> bool:
        """Whether this node is one of those that answer a node that asks everybody."""
        return self._clock.random.random() * len(self._heard) < _SAMPLE
