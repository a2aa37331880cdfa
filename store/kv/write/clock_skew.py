"""Compares the clocks of nodes: on this engine, no server's clock decides what is due.

A node writes its clock to a key when it begins to listen, when a peer asks for it, and when the clock was corrected.
Peers read it from a watch, so an idle cluster neither reads nor writes for this. A node compares itself with the median
of all clocks. With an even number of clocks, the slower one of the middle two counts: nothing shows which of two clocks
is right, and a late fire does less harm than an early one.

A process that the OS paused reads its messages late, so the clocks of its peers look slow to it. So a node asks again
about a clock that disagrees with its own, and uses the later one of the last two messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace

from peerjob.model.clock import Clock, CorrectedTime
from peerjob.model.errors import StoreUnavailableError
from peerjob.store.kv.format.base import KeyValue, Watch
from peerjob.store.kv.format.keys import Keys, below
from peerjob.store.kv.format.rows import ClockReport, clock_report_of

LOGGER = logging.getLogger("peerjob.store")
MAX_OFF_US = 1_000_000
"""A node whose clock differs from the median by more than this leaves due instances to other nodes."""
_MAX_RIGHT_US = 750_000
"""A clock that was off counts as right again below this difference to the median. The limit is less than MAX_OFF_US, so
that warnings do not repeat."""
ALL_PEERS = ("*",)
_STEP_US = 250_000
"""A node reports a correction of its clock above this size. Two messages must confirm a larger
difference to a peer's clock."""
_SAMPLE = 16
"""If a node asks all peers for their clocks, about this number of peers answer, so that few messages are written."""
_MAX_ASKED = 2 * _SAMPLE
"""A node asks at most this number of peers by name for their clocks. To ask more peers, the node asks all."""
_ASK_AGAIN = 5.0
"""A node whose clock seems to be off asks its peers again after this number of seconds: each
message may have been late."""
_ANSWER = 0.1
"""Most seconds until a node answers a peer, or uses an answer, by an early renewal. All messages until then share it.
To use answers, a node of a large cluster waits this much longer, until all of them have come."""
_MAX_EARLY = 5.0
"""In a large cluster, each early renewal doubles the seconds until the next one, at most so many times; each second
halves them again. So many nodes that start together, or one after the other, cause few. Usual renewals come first."""
_LARGE = 32
"""Number of nodes of a large cluster. All nodes renew early, and each report goes to all nodes, so the cost grows with
the square of the number of nodes. In a smaller cluster, the delay grows by that share only: a node shall lead soon."""
_PAUSED = 0.5
"""While early renewals remain delayed for more than this number of seconds, a question to all peers causes none. Other
nodes answer it too, and this node answers with its next renewal."""
_UNKNOWN = 5.0
"""After this number of seconds without a usable clock of a peer, a node relies on its own clock."""
_WAIT = 3600.0
_PAUSE = 1.0


class SkewJudgement(msgspec.Struct, frozen=True):
    """The result of a comparison of clocks."""

    ahead_us: int = 0
    """Microseconds by which this node's clock is ahead of the median of all clocks; negative if the clock is behind."""
    apart_us: int = 0
    """Microseconds between the two middle clocks, if the number of clocks is even; otherwise 0."""
    known: bool = True
    """False while the node waits for the clocks of its peers: after the start of the node, and
    after its clock was set."""


class ClockSkew:
    """The last judgement of this node's clock; the thread that renews the lease writes it, other threads read it."""

    def __init__(self, clock: Clock) -> None:
        self.judgement = SkewJudgement()
        self.is_off = False
        """Whether this node's clock is so far off that other nodes must decide which instances are due."""
        self._is_apart = False
        self._time = CorrectedTime(clock)

    @property
    def decides(self) -> bool:
        """Whether this node's clock is known to be right, so that it decides what is due."""
        return self.judgement.known and not self.is_off

    def median_us(self) -> int:
        """The time by the median clock, as of the last renewal; corrections of this node's clock have no effect."""
        return self._time.time_us()

    def set(self, judgement: SkewJudgement) -> None:
        """Store a judgement; warns once when the difference becomes too large."""
        if not judgement.known:
            self.judgement = replace(self.judgement, known=False)
            return
        ahead_us = judgement.ahead_us
        self._time.correct(ahead_us)
        was_off, was_apart = self.is_off, self._is_apart
        self.judgement = judgement
        self.is_off = abs(ahead_us) > (_MAX_RIGHT_US if was_off else MAX_OFF_US)
        self._is_apart = judgement.apart_us > (_MAX_RIGHT_US if was_apart else MAX_OFF_US)
        if self.is_off and not was_off:
            LOGGER.warning(
                "this node's clock is %.1f s %s the others': other nodes decide what is due until it is corrected",
                abs(ahead_us) / 1_000_000,
                "ahead of" if ahead_us > 0 else "behind",
            )
        elif self._is_apart and not (was_apart or self.is_off):
            LOGGER.warning(
                "the nodes' clocks differ by %.1f s, and no majority shows which ones are right: the slower clocks, "
                "this node's among them, decide what is due until the clocks are corrected",
                judgement.apart_us / 1_000_000,
            )
        elif (was_off or was_apart) and not (self.is_off or self._is_apart):
            LOGGER.info("this node's clock is right again")


class PeerClocks:
    """Receives the clocks of peers, over the connection of one lease.

    A clock is stored as its difference to this node's monotonic clock, which no correction of the time changes.
    """

    def __init__(self, kv: KeyValue, keys: Keys, clock: Clock) -> None:
        self._kv = kv
        self._keys = keys
        self._clock = clock
        self._own = ""
        self._offsets: dict[str, tuple[int, ...]] = {}
        """Peer → the clocks in the last two messages of the peer, as differences to this node's monotonic clock."""
        self._reported: tuple[int, int] | None = None
        """This node's clock at the last report, and how often peers had asked for the clock by
        then; None: a report is needed."""
        self._began = 0.0
        self._requests = 0
        self._doubtful: set[str] = set()
        """Peers that the next report asks for their clocks, because one message of a peer is not enough to judge by."""
        self._ask_from = 0.0
        self._may_be_gone = True
        """Whether a peer may have stopped since the live peers were last read, so that they must be read again."""
        self._nodes = 0
        """The number of live nodes, as last read."""
        self._known = False
        self._watch: Watch | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        """Calls `_wake` soon; None if no message needs it."""
        self._early_until = 0.0
        """The elapsed time until which early renewals are delayed because of those so far."""

    def start(self, wake: Callable[[], None] | None = None) -> None:
        """Listen until `stop`. `wake` is called if a renewal helps a node that has just started."""
        self._wake = wake
        self._began = self._clock.elapsed()
        # The watch begins before the first report. So of two nodes that start at once, the one that reports first hears
        # the other one, and answers it.
        self._watch = self._kv.watch(self._keys.clocks)
        self._task = asyncio.create_task(self._listen(self._watch), name="peerjob clocks")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def must_report(self) -> bool:
        """Whether this node's clock must be written, even if nothing else has changed."""
        own_us, requests = self._now()
        return (
            self._reported is None
            or requests != self._reported[1]
            or bool(self._doubtful)
            or abs(own_us - self._reported[0]) > _STEP_US
        )

    def report_as(self, own: str) -> None:
        """Report this node's clock under this incarnation."""
        if own != self._own:
            self._own, self._reported = own, None

    def report(self) -> tuple[ClockReport, Callable[[], None]]:
        """The report to write, and a function to call when it was written."""
        now, doubtful = self._now(), frozenset(self._doubtful)
        was_set = self._reported is not None and abs(now[0] - self._reported[0]) > _STEP_US
        if was_set:
            doubtful |= self._offsets.keys()
        asks = ALL_PEERS if self._reported is None or len(doubtful) > _MAX_ASKED else tuple(doubtful)

        def on_written() -> None:
            self._reported = now
            self._doubtful -= doubtful
            if was_set:
                # this node's clock was set: until one further message of each peer arrives, the time continues from the
                # last judgement
                self._offsets = {peer: offsets[-1:] for peer, offsets in self._offsets.items()}
                self._known, self._began = False, self._clock.elapsed()

        return ClockReport(self._clock.time_us(), asks), on_written

    async def judge(self) -> SkewJudgement:
        """Compare this node's clock with those of its peers."""
        judgement = self._compare()
        if self._may_be_gone or not self._known or max(abs(judgement.ahead_us), judgement.apart_us) > MAX_OFF_US:
            live = await self._live()
            self._nodes = len(live)
            self._offsets = {peer: offsets for peer, offsets in self._offsets.items() if peer in live}
            self._may_be_gone = False
            waits = live - {self._own} and not (self._offsets and all(map(self._is_usable, self._offsets.values())))
            self._known = self._known or not waits or self._clock.elapsed() - self._began > _UNKNOWN
            judgement = self._compare()
        if max(abs(judgement.ahead_us), judgement.apart_us) > MAX_OFF_US and self._clock.elapsed() >= self._ask_from:
            self._ask_from = self._clock.elapsed() + _ASK_AGAIN
            self._doubtful.update(peer for peer, offsets in self._offsets.items() if self._disagrees(max(offsets)))
        return judgement

    def _compare(self) -> SkewJudgement:
        own_us, _ = self._now()
        ahead = sorted([0, *(own_us - max(offsets) for offsets in self._offsets.values() if self._is_usable(offsets))])
        middle = len(ahead) // 2
        apart_us = 0 if len(ahead) % 2 else ahead[middle] - ahead[middle - 1]
        return SkewJudgement(ahead[middle], apart_us, self._known)

    def _is_usable(self, offsets: tuple[int, ...]) -> bool:
        """Whether a peer's clock agrees with this node's clock, or two messages of the peer confirm the difference."""
        return len(offsets) > 1 or not self._disagrees(max(offsets))

    def _disagrees(self, offset_us: int) -> bool:
        return abs(self._now()[0] - offset_us) > _STEP_US

    def _now(self) -> tuple[int, int]:
        return self._clock.time_us() - round(self._clock.elapsed() * 1_000_000), self._requests

    async def _live(self) -> set[str]:
        """The incarnations whose lease has not ended."""
        live = self._keys.live
        (answer,) = await self._kv.read([below(live, keys_only=True)])
        return {key[len(live) :] for key, _ in answer.items}

    async def _listen(self, watch: Watch) -> None:
        while True:
            try:
                self._receive(await watch.changed(_WAIT))
            except StoreUnavailableError:
                await asyncio.sleep(_PAUSE)

    def _receive(self, reports: Mapping[str, bytes] | None) -> None:
        """Store the clocks in new reports. None: reports were missed, so this node reports and asks all peers."""
        if reports is None:
            self._reported = None
            return
        at_us, cut = round(self._clock.elapsed() * 1_000_000), len(self._keys.clocks)
        for key, value in reports.items():
            peer, report = key[cut:], clock_report_of(value)
            if report is None or peer == self._own:
                continue
            offset_us, known = report.clock_us - at_us, self._offsets.get(peer)
            self._may_be_gone |= known is None
            # after a peer's clock was set, the larger of the last two differences may be the old one, so a third
            # message is needed
            if self._disagrees(offset_us) if known is None else abs(offset_us - known[-1]) > _STEP_US:
                self._doubtful.add(peer)
            self._offsets[peer] = (offset_us,) if known is None else (known[-1], offset_us)
            if self._own in report.asks or (report.asks == ALL_PEERS and self._is_in_sample()):
                self._requests += 1
                if report.asks != ALL_PEERS or self._early_until - self._clock.elapsed() <= _PAUSED:
                    self._wake_soon()
            if not self._known and (peer in self._doubtful or all(map(self._is_usable, self._offsets.values()))):
                self._wake_soon(after=_ANSWER)

    def _wake_soon(self, after: float = 0.0) -> None:
        """Renew soon, once for all messages until then, because a node that has just started waits to lead."""
        if self._wake is not None and self._timer is None:
            many = min(max(0.0, self._early_until - self._clock.elapsed()), _MAX_EARLY)
            seconds = max(after * self._share(), _ANSWER * (2.0**many - 1)) + self._clock.random.uniform(0, _ANSWER)
            self._timer = asyncio.get_running_loop().call_later(seconds, self._wake_now, self._wake)

    def _wake_now(self, wake: Callable[[], None]) -> None:
        self._timer = None
        self._early_until = max(self._early_until, self._clock.elapsed()) + self._share()
        wake()

    def _share(self) -> float:
        """The cost of an early renewal as a share of its cost in a large cluster, at most 1."""
        return min(1.0, max(self._nodes, len(self._offsets)) / _LARGE) ** 2

    def _is_in_sample(self) -> bool:
        """Whether this node answers a peer that asks all nodes: a random sample of the nodes is enough."""
        return self._clock.random.random() * len(self._offsets) < _SAMPLE
