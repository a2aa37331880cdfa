"""The shape of a long-running role: a loop that starts, survives errors, and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from peerjob.model.clock import Clock
from peerjob.model.errors import LayoutError, StoreError

logger = logging.getLogger("peerjob.cluster")


class Watchdog:
    """Beats once for each turn of a loop; may be asked from another thread.

    `patience` is how many seconds a turn may take at most while whoever it depends on answers; None: its waits have no
    bound, and nobody can tell.
    """

    def __init__(self, clock: Clock, patience: float | None) -> None:
        self._clock = clock
        self.patience = patience
        self._last = clock.elapsed()

    def beat(self) -> None:
        """A turn has come to its end."""
        self._last = self._clock.elapsed()

    def missing(self, since: float = 0.0) -> float:
        """Seconds without a beat, counted from a moment of the clock at the earliest."""
        return max(0.0, self._clock.elapsed() - max(self._last, since))

    def stopped(self, since: float = 0.0) -> bool:
        """Whether it has not beaten for longer than its patience, counted from that moment at the earliest."""
        return self.patience is not None and self.missing(since) > self.patience


class BackgroundRole:
    """Runs `run()` as a task until `stop()`. An error is logged and `run()` begins anew; a role never dies quietly."""

    name = "role"
    restart_delay = 1.0
    """Seconds before `run()` begins anew after an error."""
    patience: float | None = None
    """Most seconds between two beats of the watchdog while the store answers; None: a role whose waits have no bound.

    A role that has a patience beats when a turn has come to its end. That the store refused is an end; an unexpected
    error is none, as the next turn may be no better until the process begins anew.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.watchdog = Watchdog(clock, self.patience)
        self._task: asyncio.Task[None] | None = None
        self.last_error: BaseException | None = None
        self.failures = 0
        """How often `run()` ended in an error."""
        self._on_layout_change: Callable[[LayoutError], None] | None = None

    async def run(self) -> None:
        """The role's loop; only cancellation ends it."""
        raise NotImplementedError

    @property
    def started(self) -> bool:
        """Whether it was started and not stopped."""
        return self._task is not None

    @property
    def died(self) -> bool:
        """Whether it has ended though nobody stopped it."""
        return self._task is not None and self._task.done()

    @property
    def ending(self) -> bool:
        """Whether it was told to stop, or ends with its loop."""
        return self._task is None or self._task.done() or self._task.cancelling() > 0

    def start(self, on_layout_change: Callable[[LayoutError], None] | None = None) -> None:
        """Start the loop. The role ends with a call of `on_layout_change` when another release writes the namespace."""
        self._on_layout_change = on_layout_change
        self.watchdog.beat()
        self._task = asyncio.get_running_loop().create_task(self._supervise(), name=f"peerjob-{self.name}")

    async def stop(self) -> None:
        """Cancel the loop and wait for it; idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def revive(self) -> None:
        """Start anew if the loop ends and has cancelled the role's task."""
        if self._task is not None and (self._task.done() or self._task.cancelling()):
            await self.stop()
            self.start(self._on_layout_change)

    async def pause(self, seconds: float, jitter: float = 0.1) -> None:
        """Sleep for about so long, spread so that peers do not act in step."""
        await asyncio.sleep(seconds * (1 + self.clock.random.uniform(-jitter, jitter)))

    async def _supervise(self) -> None:
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
                    logger.warning("%s: %s; it goes on when the store answers", self.name, error)
                self.last_error = error
            except Exception as error:
                self.failures += 1
                self.last_error = error
                logger.exception("%s: unexpected error; it starts anew", self.name)
            await self.pause(self.restart_delay)
