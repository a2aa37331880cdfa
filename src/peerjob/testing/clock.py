"""A clock for tests; its time moves only when the test moves it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import logging
import random  # noqa: TID251  # seeded, so that a test can repeat the random choices
import threading
from collections.abc import AsyncGenerator, Awaitable, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self, TypeVar

from peerjob.model.arguments import typed, whole_number
from peerjob.model.clock import aware_us
from peerjob.model.durations import Duration, format_seconds, to_seconds
from peerjob.model.limits import MAX_SEED

from .loop import DrivenLoop, whole_us

logger = logging.getLogger("peerjob.testing")

Result = TypeVar("Result")

_START = datetime(2026, 1, 1, tzinfo=UTC)
WAIT_LIMIT = 3600.0
"""Virtual seconds after which a wait without a timeout fails. The limit ends a test that would wait forever."""


class VirtualClock:
    """A Clock on virtual time; the timers of the running event loop follow it.

    Use it as a context manager, or call `install` and `uninstall`. The first use inside a running loop installs the
    clock too, unless it was uninstalled. From then on, sleeps and timeouts of that loop end only within `advance` or
    `run`. These move time from timer to timer, each at a whole microsecond, and let the loop come to rest at each.

    Time stands still while a thread or process works for the loop: within `outside`, and during work in the loop's
    executors. Time does not wait for sockets: it can pass before an answer arrives.

    `start` is the first wall-clock time. The same seed gives the same course of events.
    """

    virtual = True

    @typed
    def __init__(self, start: datetime = _START, seed: int = 0) -> None:
        self._start_us = aware_us("start", start)
        self._random = random.Random(whole_number("seed", seed, -MAX_SEED, MAX_SEED))
        self._elapsed = 0.0
        self._driven: DrivenLoop | None = None
        self._uninstalled = False
        self._movers: list[_Mover] = []
        self._numbers = itertools.count()
        self._outside = 0
        self._outside_lock = threading.Lock()

    # -- the Clock that the code under test uses

    def time_us(self) -> int:
        """Microseconds since the epoch."""
        return self._start_us + round(self.elapsed() * 1_000_000)

    def elapsed(self) -> float:
        """Virtual seconds since the creation of the clock."""
        self._install_where_a_loop_runs()
        return self._elapsed if self._driven is None else self._driven.now

    @property
    def random(self) -> random.Random:
        """A generator that starts from the seed."""
        return self._random

    @contextlib.contextmanager
    def outside(self) -> Generator[None]:
        """Hold virtual time while a thread or a process works for the loop.

        Any thread may enter. Enter before the work is handed out; leave after its result has arrived.
        """
        self._install_where_a_loop_runs()
        self._enter_outside()
        try:
            yield
        finally:
            self._leave_outside()

    @contextlib.contextmanager
    def inside(self) -> Generator[None]:
        """Let virtual time pass while a thread that works `outside` waits for the loop.

        Enter and leave on the loop: time must stand still again before the thread continues.
        """
        self._leave_outside()
        try:
            yield
        finally:
            self._enter_outside()

    @contextlib.asynccontextmanager
    async def passing(self, timeout: float | None) -> AsyncGenerator[None]:
        """Move time on, from timer to timer, inside the block. Within `run` it does nothing, as time moves already.

        Without a `timeout`, it raises TimeoutError after a virtual hour.
        """
        if (outer := _running.get()) is not None and not outer.arrival.done():
            yield
            return
        self.install()
        mover = self._mover_to(float("inf"))
        limit = asyncio.timeout(WAIT_LIMIT if timeout is None else None)
        try:
            async with limit:
                yield
        except TimeoutError:
            if limit.expired():
                text = f"not done within {format_seconds(WAIT_LIMIT)} of virtual time; pass timeout= to wait longer"
                raise TimeoutError(text) from None
            raise
        finally:
            mover.arrive()

    # -- methods that tests call to move time

    async def advance(self, duration: Duration) -> None:
        """Move time on by a Duration. At every timer on the way, let the loop come to rest."""
        await self._mover(duration, "duration").arrival

    async def settle(self) -> None:
        """Wait until the loop is at rest: it has nothing to run, and no thread works for it."""
        await self.advance(0)

    async def run(self, awaitable: Awaitable[Result], limit: Duration = "1h") -> Result:
        """Move time on until the awaitable is done, and return its result.

        If the awaitable is not done within `limit` of virtual time, cancel it and raise TimeoutError.
        """
        try:
            mover = self._mover(limit, "limit")
        except BaseException:
            if asyncio.iscoroutine(awaitable):
                awaitable.close()
            raise
        token = _running.set(mover)
        task = asyncio.ensure_future(awaitable)
        _running.reset(token)
        task.add_done_callback(lambda _: mover.arrive())
        try:
            await mover.arrival
        finally:
            in_time = task.done()
            task.cancel()
        if not in_time:
            await self.settle()
            raise TimeoutError(f"not done within {limit} of virtual time")
        return await task

    def install(self) -> None:
        """Put the running loop on virtual time.

        Raises RuntimeError if the loop is not a SelectorEventLoop (uvloop, Proactor), if another clock drives it, or if
        this clock drives another loop that still runs.
        """
        if self._driven is not None:
            if self._driven.loop is asyncio.get_running_loop():
                return
            if self._driven.loop.is_running():
                raise RuntimeError("this clock drives another event loop: use one clock per loop")
            self.uninstall()
        self._driven = DrivenLoop(
            self._elapsed, self._at_rest, self._warn_of_standstill, enter=self._enter_outside, leave=self._leave_outside
        )
        self._uninstalled = False

    def uninstall(self) -> None:
        """Put the loop back on real time, and cancel calls that wait for time to move."""
        driven, self._driven = self._driven, None
        self._uninstalled = True
        movers, self._movers = self._movers, []
        if driven is None:
            return
        self._elapsed = driven.now
        driven.release()
        for mover in movers:
            if not driven.loop.is_closed():
                mover.arrival.cancel()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.uninstall()

    # -- helpers

    def _install_where_a_loop_runs(self) -> None:
        # a late call of time_us() after `uninstall` must not put the event loop of another test on virtual time
        if self._driven is None and not self._uninstalled:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return
            self.install()

    def _mover(self, duration: Duration, option: str) -> _Mover:
        seconds = to_seconds(duration, option)
        self.install()
        now = self.elapsed()
        return self._mover_to(whole_us(now + seconds, now))

    def _mover_to(self, target: float) -> _Mover:
        mover = _Mover(target, next(self._numbers))
        heapq.heappush(self._movers, mover)
        return mover

    def _at_rest(self) -> bool:
        while self._movers and self._movers[0].arrival.done():
            heapq.heappop(self._movers)
        driven = self._driven
        if driven is None or not self._movers or self._outside > 0:
            return False
        mover = self._movers[0]
        timer = driven.next_timer()
        if timer == mover.target == float("inf"):
            return False
        driven.now = max(driven.now, min(timer, mover.target))
        if timer > mover.target:
            mover.arrive()
        return True

    def _warn_of_standstill(self) -> None:
        """Warn that the test hangs.

        Only the main thread is checked: in the thread of a blocking node, waiting is normal.
        """
        if not self._movers and self._outside <= 0 and threading.current_thread() is threading.main_thread():
            logger.warning(
                "virtual time stands still and nothing moves it: if the test awaits a sleep or an event, it must await "
                "clock.run(...) of that, or advance(...)"
            )

    def _enter_outside(self) -> None:
        with self._outside_lock:
            self._outside += 1

    def _leave_outside(self) -> None:
        with self._outside_lock:
            self._outside -= 1
        if self._driven is not None:
            # a closed event loop raises RuntimeError, and needs no wake-up
            with contextlib.suppress(RuntimeError):
                self._driven.loop.call_soon_threadsafe(_wake_up)


def _wake_up() -> None:
    """Wake an event loop that waits for I/O, so that the loop checks again whether it is at rest."""


@dataclass(order=True)
class _Mover:
    """A call that waits until time reaches `target`. Of calls with the same target, the earliest ends first."""

    target: float
    number: int
    arrival: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future(), compare=False
    )

    def arrive(self) -> None:
        if not self.arrival.done():
            self.arrival.set_result(None)


_running: contextvars.ContextVar[_Mover | None] = contextvars.ContextVar("peerjob_virtual_run", default=None)
"""The mover of the `VirtualClock.run` call that the present code belongs to."""
