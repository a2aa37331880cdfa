"""The time of a cluster: one clock drives the loop, and each node has its own clock, which can be wrong."""

from __future__ import annotations

import asyncio
import contextlib
import random  # noqa: TID251  # seeded, so that a test can repeat the random choices
from collections.abc import Callable, Generator
from datetime import datetime

from peerjob.model.clock import to_us
from peerjob.model.durations import Duration
from peerjob.model.errors import NodeStateError
from peerjob.testing.clock import VirtualClock


class ClusterClock(VirtualClock):
    """Virtual time that can jump; its wall clock stands still while the nodes start.

    A jump moves the wall clock and the time of the loop. Leases and leaderships expire by `steady`, the time without
    jumps.
    """

    def __init__(self, start: datetime, seed: int) -> None:
        super().__init__(start, seed)
        self.start_us = to_us(start)
        self._shift_us = 0
        """Change of the difference between the wall clock and the monotonic clock since the start, in microseconds."""
        self._stands_us: int | None = None
        self._jumped = 0.0
        self.before_rest: Callable[[], bool] = lambda: False
        """Called when the event loop is at rest, before time moves on.

        Returns True if the call has given the loop work.
        """
        self._awaited: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def install(self) -> None:
        """Raise NodeStateError outside the cluster's block or loop: time would move without the nodes."""
        self.check()

    def check(self) -> None:
        """Raise NodeStateError unless the cluster runs on the running loop."""
        if self._loop is None:
            raise NodeStateError("the cluster does not run: use it within `async with TestCluster(...) as cluster`")
        if asyncio.get_running_loop() is not self._loop:
            raise NodeStateError("the cluster runs on another event loop: use it on the loop of its `async with`")

    def open(self) -> None:
        """Switch the running loop to the cluster's time."""
        super().install()
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Switch the loop back to real time."""
        self._loop = None
        self.uninstall()

    def _install_where_a_loop_runs(self) -> None:
        # only `open` installs the clock of a cluster; `VirtualClock` would install the clock in any running event loop
        return

    async def until(self, condition: Callable[[], bool], limit: Duration) -> bool:
        """Move time on until a condition holds while the loop is at rest; False if that takes over `limit`."""
        mover = self._mover(limit, "limit")
        awaited = (condition, mover.arrival)
        self._awaited.append(awaited)
        try:
            await mover.arrival
        finally:
            self._awaited.remove(awaited)
        return condition()

    def _at_rest(self) -> bool:
        for condition, arrival in self._awaited:
            if not arrival.done() and condition():
                arrival.set_result(None)
                return True
        if self._movers and self._outside <= 0 and self.before_rest():
            return True
        return super()._at_rest()

    @property
    def steady(self) -> float:
        """Virtual seconds without the jumps."""
        return self.elapsed() - self._jumped

    def at(self, time_us: int) -> float:
        """Convert a wall-clock time to the time of the loop."""
        return (time_us - self.start_us - self._shift_us) / 1_000_000

    def idle_seconds(self, stays: Callable[[asyncio.TimerHandle], bool]) -> float:
        """Seconds until the end of an `advance` or a limit, or until the first timer without `stays`."""
        driven = self._driven
        waiting = [mover.target for mover in self._movers if not mover.arrival.done()]
        if driven is None or not waiting:
            return 0.0
        return min(*waiting, driven.first_timer(stays)) - driven.now

    def jump(self, seconds: float, moved: Callable[[asyncio.TimerHandle], float]) -> None:
        """Skip seconds. Each timer moves by `moved(timer)` of them."""
        assert self._driven is not None
        self._jumped += seconds
        self._driven.skip(seconds, moved)

    def time_us(self) -> int:
        """Microseconds since the epoch, by a clock that is right."""
        if self._stands_us is not None:
            return self._stands_us
        return self.start_us + round(self.elapsed() * 1_000_000) + self._shift_us

    @contextlib.contextmanager
    def standing(self) -> Generator[None]:
        """Stop the wall clock inside the block."""
        self._stands_us = self.time_us()
        try:
            yield
        finally:
            self._shift_us = self._stands_us - self.start_us - round(self.elapsed() * 1_000_000)
            self._stands_us = None


class NodeClock:
    """A node's clock, `ahead_us` ahead of the right time."""

    virtual = True

    def __init__(self, driver: ClusterClock, seed: str) -> None:
        self.driver = driver
        self.ahead_us = 0
        self._random = random.Random(seed)
        self._holds = contextlib.ExitStack()
        self._outside = 0
        self._stopped = False

    def time_us(self) -> int:
        """Microseconds since the epoch, with the node's error."""
        return self.driver.time_us() + self.ahead_us

    def elapsed(self) -> float:
        """Seconds without the jumps, so that no lease expires in a jump."""
        return self.driver.steady

    @property
    def random(self) -> random.Random:
        """The node's own generator, so that other nodes do not change its sequence."""
        return self._random

    @contextlib.contextmanager
    def outside(self) -> Generator[None]:
        """Hold the cluster's time while a thread or process works for the node, unless the node is paused or dead."""
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    @contextlib.contextmanager
    def inside(self) -> Generator[None]:
        """Let the cluster's time pass while a thread of the node waits for the node."""
        self._change(-1)
        try:
            yield
        finally:
            self._change(1)

    def passing(self, timeout: float | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Let the cluster's time pass while the caller waits."""
        return self.driver.passing(timeout)

    def stand_still(self) -> None:
        """Stop holding the cluster's time: the node is paused or dead, and takes no answer of a thread."""
        self._stopped = True
        self._hold(0)

    def go_on(self) -> None:
        """Hold the cluster's time again while a thread works."""
        self._stopped = False
        self._hold(self._outside)

    def _change(self, by: int) -> None:
        self._outside += by
        if self._stopped:
            return
        if by > 0:
            self._holds.enter_context(self.driver.outside())
        else:
            self._hold(self._outside)

    def _hold(self, times: int) -> None:
        self._holds.close()
        for _ in range(times):
            self._holds.enter_context(self.driver.outside())


class StoreClock(NodeClock):
    """A node's clock for its store: the monotonic time follows the right wall clock.

    A store compares the two to find how far the clocks of nodes differ.
    """

    def __init__(self, clock: NodeClock) -> None:
        super().__init__(clock.driver, "")
        self._clock = clock

    def time_us(self) -> int:
        """Microseconds since the epoch, with the node's error."""
        return self._clock.time_us()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return (self.driver.time_us() - self.driver.start_us) / 1_000_000

    @property
    def random(self) -> random.Random:
        """The node's generator."""
        return self._clock.random
