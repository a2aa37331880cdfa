# pyright: reportPrivateUsage=false
# only this file and cluster/node_tasks.py use the internals of asyncio's selector event loop
"""Puts the timers of a running event loop on virtual time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, cast

MAX_STANDSTILL = 5.0
"""Real seconds without an event after which the clock reports that time stands still."""
_RESOLUTION = 0.5e-6
"""Seconds by which a timer may fire early.

Half a microsecond is safe, since all timers are set to whole microseconds.
"""


def whole_us(when: float, now: float) -> float:
    """Round the time of a timer up to a whole microsecond; a time after now stays after now.

    Wall-clock times are whole microseconds, so a timer for one of them must not fire a fraction too late.
    """
    # subtract 0.1 first: the rounding error of a sum of floats must not round the time up to the next microsecond
    micros = math.ceil(when * 1_000_000 - 0.1)
    if when > now >= micros / 1_000_000:
        micros += 1
    return micros / 1_000_000


class DrivenLoop:
    """The running loop, on virtual time from `now` until `release`.

    When the loop has nothing left to run, it calls `at_rest`, which moves `now` or makes a callback ready. If `at_rest`
    can do neither, it returns False: the loop then waits for I/O and other threads, however early its next timer is. If
    this takes long, the loop calls `on_standstill` once. `enter` and `leave` are called around the work of an executor.
    Timers that were set before keep their remaining time.
    """

    def __init__(
        self,
        now: float,
        at_rest: Callable[[], bool],
        on_standstill: Callable[[], None],
        enter: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError("virtual time needs a running asyncio event loop; trio cannot be driven") from None
        if not isinstance(running, asyncio.SelectorEventLoop):
            raise RuntimeError(
                f"virtual time cannot drive {type(running).__module__}.{type(running).__qualname__}: "
                "run the test on asyncio.SelectorEventLoop (without uvloop)"
            )
        self.loop = cast("_SelectorLoop", running)
        if isinstance(self.loop._selector, _IdleSelector):
            raise RuntimeError(
                "another VirtualClock drives this event loop: leave its block first, or pass it on as clock= "
                "(that of a TestCluster is cluster.clock)"
            )
        self.now = now
        self._numbers = itertools.count()
        self._enter, self._leave = enter, leave
        self._run_in_executor = self.loop.run_in_executor
        ahead = now - self.loop.time()
        for timer in self.loop._scheduled:
            timer._when = whole_us(timer._when + ahead, now)
        self.loop._selector = _IdleSelector(self.loop._selector, at_rest, on_standstill)
        # set a coarser resolution: after hundreds of virtual days, the machine's resolution is too fine for a float,
        # and no timer would become due
        self._real_resolution, self.loop._clock_resolution = self.loop._clock_resolution, _RESOLUTION
        for name, method in self._methods().items():
            setattr(self.loop, name, method)

    def release(self) -> None:
        """Put the loop back on real time."""
        if self.loop.is_closed():
            return
        self.loop._selector = self.loop._selector.real
        self.loop._clock_resolution = self._real_resolution
        for name in self._methods():
            delattr(self.loop, name)
        behind = self.loop.time() - self.now
        for timer in self.loop._scheduled:
            timer._when += behind

    def next_timer(self) -> float:
        """Time of the loop's first timer; infinity without timers."""
        timers = self.loop._scheduled
        return timers[0].when() if timers else float("inf")

    def first_timer(self, but: Callable[[asyncio.TimerHandle], bool]) -> float:
        """Time of the first timer for which `but` is False; infinity without such timers."""
        return min(
            (timer.when() for timer in self.loop._scheduled if not timer.cancelled() and not but(timer)),
            default=float("inf"),
        )

    def skip(self, by: float, moved: Callable[[asyncio.TimerHandle], float]) -> None:
        """Move `now` on by seconds, and each timer by `moved(timer)`. Overdue timers then fire at once."""
        self.now += by
        for timer in self.loop._scheduled:
            timer._when = max(self.now, timer._when + moved(timer))
        heapq.heapify(self.loop._scheduled)

    def _methods(self) -> dict[str, Callable[..., object]]:
        return {"time": self._time, "call_at": self._call_at, "run_in_executor": self._run_outside}

    def _time(self) -> float:
        return self.now

    def _call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _OrderedTimer(whole_us(when, self.now), callback, args, self.loop, context)
        timer.number = next(self._numbers)
        heapq.heappush(self.loop._scheduled, timer)
        timer._scheduled = True
        return timer

    def _run_outside(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = self._run_in_executor(executor, func, *args)
        self._enter()
        # call back in an empty context: in the context of a paused or dead node, the callback would not run
        future.add_done_callback(lambda _: self._leave(), context=Context())
        return future


class _Timer(asyncio.TimerHandle):
    """The attributes of a timer that this module uses."""

    _when: float
    _scheduled: bool


class _OrderedTimer(_Timer):
    """A timer that fires after those set earlier for the same time."""

    number: int

    def __lt__(self, other: object) -> bool:
        if type(other) is _OrderedTimer:
            return self._when < other._when or (self._when == other._when and self.number < other.number)
        return super().__lt__(cast(_Timer, other))


def raise_soon(error: BaseException) -> None:
    """Raise an error out of the running loop at its next iteration, if the loop is on virtual time."""
    selector = getattr(asyncio._get_running_loop(), "_selector", None)
    if isinstance(selector, _IdleSelector):
        selector.error = error


class _SelectorLoop(asyncio.SelectorEventLoop):
    """The attributes of a loop that this module uses."""

    _clock_resolution: float
    _selector: Any
    _scheduled: list[_Timer]


class _IdleSelector:
    """A loop's selector that detects when the loop has nothing left to run, and never sleeps for a timer."""

    def __init__(
        self, real: selectors.BaseSelector, at_rest: Callable[[], bool], on_standstill: Callable[[], None]
    ) -> None:
        self.real = real
        self._at_rest = at_rest
        self._on_standstill = on_standstill
        self._reported = False
        self.error: BaseException | None = None
        """An error that the event loop raises at its next iteration."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if (error := self.error) is not None:
            self.error = None
            raise error
        events = self.real.select(0)
        if events or (timeout is not None and timeout <= 0) or self._at_rest():
            return events
        events = self.real.select(None if self._reported else MAX_STANDSTILL)
        if not events and not self._reported:
            self._reported = True
            self._on_standstill()
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)
