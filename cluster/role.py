"""The base of a long-running role: a loop that starts, survives errors, and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from peerjob.model.clock import Clock
from peerjob.model.errors import LayoutError, StoreError

logger = logging.getLogger("peerjob.cluster")


class Watchdog:
    """Tells a role that hangs from a role that waits. The role calls `beat` after each round; any thread may ask.

    `patience` is the most seconds that a round may take while the store answers. None: a round may wait for ever.
    """

    def __init__(self, clock: Clock, patience: float | None) -> None:
        self._clock = clock
        self.patience = patience
        self._last = clock.elapsed()

    def beat(self) -> None:
        """Record the end of a round."""
        self._last = self._clock.elapsed()

    def missing(self, since: float = 0.0) -> float:
        """Seconds since the last beat, or since `since` if that is later."""
        return max(0.0, self._clock.elapsed() - max(self._last, since))

    def stopped(self, since: float = 0.0) -> bool:
        """Whether `missing(since)` exceeds the patience."""
        return self.patience is not None and self.missing(since) > self.patience


class BackgroundRole:
    """Runs `run()` as a task until `stop()`. After an error, the role logs it and calls `run()` again."""

    name = "role"
    restart_delay = 1.0
    """Seconds between an error and the next call of `run()`."""
    patience: float | None = None
    """Most seconds between two beats of the watchdog while the store answers; None for no limit.

    A role with a limit beats at the end of each round, even if the store refused the request of the round. After an
    unexpected error, the role does not beat, because possibly only a restart of the process helps.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.watchdog = Watchdog(clock, self.patience)
        self._task: asyncio.Task[None] | None = None
        self.last_error: BaseException | None = None
        self.failures = 0
        """How often `run()` raised an error."""
        self._on_layout_change: Callable[[LayoutError], None] | None = None

    async def run(self) -> None:
        """The loop of the role. Only a cancellation ends it."""
        raise NotImplementedError

    @property
    def started(self) -> bool:
        """Whether the role was started and not stopped."""
        return self._task is not None

    @property
    def died(self) -> bool:
        """Whether the task ended without a stop."""
        return self._task is not None and self._task.done()

    @property
    def ending(self) -> bool:
        """Whether the role is stopping, or its event loop is being closed."""
        return self._task is None or self._task.done() or self._task.cancelling() > 0

    def start(self, on_layout_change: Callable[[LayoutError], None] | None = None) -> None:
        """Start the task. If another version writes the namespace, the role calls `on_layout_change` and ends."""
        self._on_layout_change = on_layout_change
        self.watchdog.beat()
        self._task = asyncio.get_running_loop().create_task(self._supervise(), name=f"peerjob-{self.name}")

    async def stop(self) -> None:
        """Cancel the task of the role, and wait for its end; idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def revive(self) -> None:
        """Start again if the event loop is being closed and has cancelled the task."""
        if self._task is not None and (self._task.done() or self._task.cancelling()):
            await self.stop()
            self.start(self._on_layout_change)

    async def pause(self, seconds: float, jitter: float = 0.1) -> None:
        """Sleep for `seconds`, plus or minus a random part."""
        await asyncio.sleep(self.spread(seconds, jitter))

    def spread(self, seconds: float, jitter: float = 0.1) -> float:
        """The seconds, plus or minus a random part, so that peers do not act in step."""
        return seconds * (1 + self.clock.random.uniform(-jitter, jitter))

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self.run()
            except LayoutError as error:
                self.failures += 1
                if self._on_layout_change is not None:
                    self._on_layout_change(error)
                    return
                if repr(error) != repr(self.last_error):
                    logger.warning("%s: %s", self.name, error)
                self.last_error = error
            except StoreError as error:
                self.watchdog.beat()
                self.failures += 1
                if repr(error) != repr(self.last_error):
                    logger.warning("%s: %s; the role continues when the store answers", self.name, error)
                self.last_error = error
            except Exception as error:
                if loop.is_closed():
                    return  # Python destroys the task, and a `finally` of the role needed the event loop
                self.failures += 1
                self.last_error = error
                logger.exception("%s: unexpected error; the role starts again", self.name)
            await self.pause(self.restart_delay)


async def wait_set(event: asyncio.Event, seconds: float) -> None:
    """Wait until an event is set, for so many seconds at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
