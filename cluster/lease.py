"""Renews the lease of this node, and says whether the node may trust it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Protocol

from peerjob.model.clock import Clock, CorrectedTime
from peerjob.model.errors import LayoutError, StoreError
from peerjob.model.record import Renewed
from peerjob.store.base import Liveness

from .answer_limit import AnswerLimit
from .loop_thread import EndOfThread, resting, run_here
from .role import Watchdog

logger = logging.getLogger("peerjob.cluster")

INTERVAL = 1.15
"""Seconds between two renewals of a lease of 5 s or more. On etcd, a renewal has two requests, and an idle node shall
send at most two requests a second."""
OPEN_TIMEOUT = 5.0
"""Most seconds to open the connection of the lease."""
LEAVE_TIMEOUT = 5.0
"""Most seconds for leaving the cluster after the event loop of the node was closed."""
POLL = 0.02
"""Seconds between two looks at whether the thread of a closed node has ended."""
LOOP_ANSWERS = 0.25
"""Seconds before a renewal at which the event loop of the node is asked for a sign of life."""
WITHDRAW_TIMEOUT = 0.5
"""Most seconds to withdraw the claim of a node whose event loop is blocked. The next renewal tries it again."""
SLACK = 10.0
"""Seconds added to the time limits of a round before the watchdog objects, because a busy machine delays rounds."""


class LeaseListener(Protocol):
    """Gets the events of a lease, on the event loop of the node."""

    def lease_summary(self) -> tuple[int, int, int]:
        """(running, count, digest) of the held claims; called in the thread of the lease."""
        ...

    def lease_renewed(self, incarnation: str, reply: Renewed) -> None: ...
    def renewal_failed(self) -> None: ...
    def lease_dead(self, incarnation: str) -> None: ...
    def trust_ended(self) -> None: ...
    def trust_returned(self) -> None: ...
    def layout_changed(self, error: LayoutError) -> None: ...


class LoopProbe(Protocol):
    """Tells whether the event loop of the node runs. The thread of the lease calls the methods."""

    @property
    def answers(self) -> bool:
        """Whether the event loop has answered."""
        ...

    def ask(self) -> None: ...
    def check(self) -> str | None:
        """The request of a claim to withdraw, because the event loop did not answer."""
        ...


class Lease:
    """Renews the lease of an incarnation in a thread with its own event loop and connection.

    Under virtual time, a task on the event loop of the node renews the lease instead.

    If the event loop of the node is closed without a stop, the thread still runs. The thread awaits
    `farewell(incarnation)`, which leaves the cluster, and ends.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        ttl: float,
        liveness: Callable[[], Liveness],
        listener: LeaseListener,
        farewell: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._clock = clock
        self._ttl = ttl
        self._make_liveness = liveness
        self._listener = listener
        self._farewell = farewell
        self.interval = min(INTERVAL, 0.23 * ttl)
        self._margin = min(1.0, ttl / 5)
        self._answer_limit = AnswerLimit(clock, ttl, lambda: self.trusted)
        # each step of a round has a time limit, so a round that exceeds the sum of these limits hangs
        self.watchdog = Watchdog(clock, OPEN_TIMEOUT + self._answer_limit.most + self.interval + SLACK)
        self.time = CorrectedTime(clock)
        """The time of the store's clock, computed from the last renewal."""
        self._incarnation = ""
        self._trusted_until = 0.0
        self._steady_since: float | None = None
        self._last_answer = 0.0
        self.failures = 0
        """Renewals without an answer. Only the thread of the lease changes the number."""
        self._reported_trust = False
        self._stopping = False
        self._orphaned = False
        self._node_loop: asyncio.AbstractEventLoop | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._thread_end: EndOfThread | None = None
        self.loop_watch: LoopProbe | None = None
        """Set before `start`, unless time is virtual."""
        self._task: asyncio.Task[None] | None = None

    # -- for the node ----------------------------------------------------------------------------------------------

    @property
    def trusted(self) -> bool:
        """Whether the lease certainly holds, so that bodies may start."""
        return self._clock.elapsed() < self._trusted_until

    @property
    def incarnation(self) -> str:
        """The incarnation that holds the lease."""
        return self._incarnation

    @property
    def may_reap(self) -> bool:
        """Whether the store answered all renewals of a full TTL. Only then this node may declare peers dead."""
        since = self._steady_since
        return since is not None and self.trusted and self._clock.elapsed() - since >= self._ttl

    @property
    def answered_since(self) -> float | None:
        """The elapsed time of the clock since which the store answered each renewal; None after a failure."""
        return self._steady_since if self.trusted else None

    @property
    def started(self) -> bool:
        """Whether the lease was started and not stopped."""
        return self._thread is not None or self._task is not None

    @property
    def died(self) -> bool:
        """Whether the thread or task ended without a stop."""
        if self._thread is not None:
            return not self._thread.is_alive()
        return self._task is not None and self._task.done()

    @property
    def age(self) -> float:
        """Seconds since the last answered renewal."""
        return self._clock.elapsed() - self._last_answer

    def begin(self, incarnation: str, asked_at: float) -> None:
        """Trust the lease of a `join` that was sent at `asked_at`."""
        self._incarnation = incarnation
        self._steady_since = self._last_answer = asked_at
        self._trusted_until = asked_at + self._ttl - self._margin
        self._reported_trust = True
        self.renew_soon()

    def start(self) -> None:
        """Start to renew, after `begin`."""
        self._node_loop = asyncio.get_running_loop()
        self._stopping = False
        self.watchdog.beat()
        if self._clock.virtual:
            self._task = self._node_loop.create_task(self._main(), name="peerjob-lease")
        else:
            ended = self._thread_end = EndOfThread(self._node_loop)

            def renew() -> None:
                try:
                    run_here(self._main(), quiet=True)
                finally:
                    ended.tell()

            self._thread = threading.Thread(target=renew, name="peerjob-lease", daemon=True)
            self._thread.start()

    async def stop(self) -> None:
        """Stop, and wait until no renewal is in flight; idempotent."""
        self._stopping = True
        self.renew_soon()
        if self._task is not None:
            task, self._task = self._task, None
            await task
        if self._thread_end is not None:
            ended, thread, self._thread, self._thread_end = self._thread_end, self._thread, None, None
            await ended.wait()
            if thread is not None:
                thread.join()  # `join` returns immediately, because the thread has made its last call
        self._trusted_until = 0.0

    def leave_without_loop(self) -> None:
        """Let the thread of the lease leave the cluster, and wait. For a node whose event loop no longer runs."""
        thread = self._thread
        if thread is not None:
            self._orphaned = True
            self.renew_soon()
            thread.join(2 * LEAVE_TIMEOUT)

    async def end_without_loop(self) -> None:
        """Like `leave_without_loop`, for a caller in another event loop, which must not be blocked."""
        thread, until = self._thread, self._clock.elapsed() + 2 * LEAVE_TIMEOUT
        self._orphaned = True
        self.renew_soon()
        while thread is not None and thread.is_alive() and self._clock.elapsed() < until:  # noqa: ASYNC110  # threads set no event
            await asyncio.sleep(POLL)
        self._thread = self._thread_end = self._task = None
        self._trusted_until = 0.0

    def renew_soon(self) -> None:
        """Renew now, as after a hint."""
        loop, woken = self._loop, self._woken
        if loop is not None and woken is not None:
            with contextlib.suppress(RuntimeError):  # raised if the event loop of the lease was just closed
                loop.call_soon_threadsafe(woken.set)

    # -- renewals --------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        liveness: Liveness | None = None
        try:
            while not self._stopping and not self._is_orphan:
                self._woken.clear()
                self.watchdog.beat()
                began = self._clock.elapsed()
                # the timer reports the end of trust on time, even while a renewal waits for an answer
                watch = self._loop.call_later(self._trust_left() + 0.001, self._check_trust)
                try:
                    if liveness is None:
                        liveness = await self._opened()
                    async with self._answer_limit.applied():
                        await self._renew(liveness)
                except LayoutError as error:
                    self._trusted_until, self._stopping = 0.0, True
                    self._call_listener(functools.partial(self._listener.layout_changed, error))
                    return
                except (StoreError, TimeoutError) as error:
                    self._steady_since = None
                    self.failures += 1
                    logger.debug("renewal failed: %r", error)
                    self._call_listener(self._listener.renewal_failed)
                except Exception:
                    self._steady_since = None
                    self.failures += 1
                    logger.exception("renewal failed")
                finally:
                    watch.cancel()
                self._check_trust()
                left = self._until_next(began)
                ask = self._loop.call_later(max(left / 2, left - LOOP_ANSWERS), self._ask)
                with contextlib.suppress(TimeoutError), self._rest(self._loop):
                    await asyncio.wait_for(self._woken.wait(), left)
                ask.cancel()
            if self._is_orphan and self._farewell is not None:
                await self._leave(self._farewell)
        finally:
            self._loop = None
            if liveness is not None:
                await liveness.close()

    @property
    def _is_orphan(self) -> bool:
        """Whether the event loop of the node was closed, or no longer runs, without a stop of the node."""
        return self._orphaned or (self._node_loop is not None and self._node_loop.is_closed())

    async def _leave(self, farewell: Callable[[str], Awaitable[None]]) -> None:
        self._trusted_until = 0.0
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT):
                await farewell(self._incarnation)
        except Exception as error:  # noqa: BLE001  # not retried: if the node cannot leave, the lease expires
            logger.info("the node could not leave the cluster; its lease expires: %r", error)

    async def _opened(self) -> Liveness:
        liveness = self._make_liveness()
        async with asyncio.timeout(OPEN_TIMEOUT):
            await liveness.open(self.renew_soon)
        return liveness

    def _trust_left(self) -> float:
        return max(0.0, self._trusted_until - self._clock.elapsed())

    def _until_next(self, began: float) -> float:
        """Seconds until the next round: the rest of the interval, or of the trust in the lease if that is less."""
        left = max(0.0, began + self.interval - self._clock.elapsed())
        trust_left = self._trust_left()
        return min(left, max(trust_left, 0.01)) if trust_left > 0 else left

    def _rest(self, loop: asyncio.AbstractEventLoop) -> contextlib.AbstractContextManager[None]:
        """Leave what gRPC reports, as the clocks of peers, to the event loop of the node, unless that is blocked."""
        answers = self.loop_watch is None or self.loop_watch.answers
        return resting(loop) if answers else contextlib.nullcontext()

    def _ask(self) -> None:
        if self.loop_watch is not None:
            self.loop_watch.ask()

    async def _withdraw(self, liveness: Liveness) -> None:
        """Withdraw the claim that waits in the store, if the event loop of the node is blocked."""
        request = None if self.loop_watch is None else self.loop_watch.check()
        if request is not None:
            with contextlib.suppress(StoreError):
                await liveness.withdraw(self._incarnation, request, timeout=min(WITHDRAW_TIMEOUT, self._ttl / 10))

    async def _renew(self, liveness: Liveness) -> None:
        await self._withdraw(liveness)
        incarnation = self._incarnation
        asked_at = self._clock.elapsed()
        running, count, digest = self._listener.lease_summary()
        reply = await liveness.renew(
            incarnation,
            ttl_us=round(self._ttl * 1_000_000),
            running=running,
            count=count,
            fences_digest=digest,
        )
        if incarnation != self._incarnation:
            return
        if reply.dead:
            self._trusted_until = 0.0
            self._steady_since = None
            self._call_listener(lambda: self._listener.lease_dead(incarnation))
            return
        if self._steady_since is None or asked_at - self._last_answer > self._ttl / 2:
            self._steady_since = asked_at
        self._last_answer = asked_at
        self._trusted_until = asked_at + self._ttl - self._margin
        if reply.clock_known:
            self.time.correct(reply.ahead_us)
        self._call_listener(lambda: self._listener.lease_renewed(incarnation, reply))

    def _check_trust(self) -> None:
        trusted = self.trusted
        if trusted != self._reported_trust:
            self._reported_trust = trusted
            self._call_listener(self._listener.trust_returned if trusted else self._listener.trust_ended)

    def _call_listener(self, call: Callable[[], None]) -> None:
        loop = self._node_loop
        if loop is None or loop is self._loop:
            call()
        else:
            with contextlib.suppress(RuntimeError):  # raised if the event loop of the node is closed
                loop.call_soon_threadsafe(call)
