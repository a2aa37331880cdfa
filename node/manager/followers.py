"""Follows single instances: the present state, then each change until the instance is final."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from peerjob.cluster.role import wait_set
from peerjob.handles.update import Position, Update
from peerjob.model.clock import Clock
from peerjob.model.errors import NodeStateError, StoreError
from peerjob.model.record import Record
from peerjob.store.base import Store

POLL = 1.0
"""Seconds between two reads of a followed instance without a hint."""
STOPPED = "the node has stopped, so watch() ends"


class Followers:
    """The readers of single instances. Each reads the store at its own pace, so no event waits in memory.

    Hints name changed instances. Each reader also polls, so a lost hint only delays an update.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        read: Callable[[str], Awaitable[Record]],
        ask_for_hints: Callable[[], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._store = store
        self._read = read
        self._ask_for_hints = ask_for_hints
        self._wakes: dict[str, set[asyncio.Event]] = {}
        self._stopped = False

    @property
    def follows(self) -> bool:
        """Whether a caller reads the changes of an instance."""
        return bool(self._wakes)

    def changed(self, id: str) -> None:
        """Let the readers of an instance read it now."""
        for wake in self._wakes.get(id, ()):
            wake.set()

    def stop(self) -> None:
        """End every stream with NodeStateError."""
        self._stopped = True
        for id in self._wakes:
            self.changed(id)

    async def updates(self, id: str, after: Position | None = None) -> AsyncGenerator[Update]:
        """Yield what is new after a position; without one, begin with the present state and the log lines so far.

        Ends after the final state; raises UnknownInstanceError, NodeStateError and StoreUnavailableError.
        """
        wake = asyncio.Event()
        self._wakes.setdefault(id, set()).add(wake)
        position, final = after, False
        try:
            while not final:
                wake.clear()
                if self._stopped:
                    raise NodeStateError(STOPPED)
                # hints must come before the read, so that a change after the read wakes this reader
                await self._ask_for_hints()
                record = await self._read(id)
                async for update in self._news(record, position):
                    position = update.position
                    yield update
                final = record.state.is_final
                if not final:
                    await wait_set(wake, POLL * (1 + self._clock.random.uniform(-0.1, 0.1)))
        except StoreError as error:
            if self._stopped:
                raise NodeStateError(STOPPED) from error
            raise
        finally:
            self._wakes[id].discard(wake)
            if not self._wakes[id]:
                del self._wakes[id]

    async def _news(self, record: Record, position: Position | None) -> AsyncGenerator[Update]:
        """The changes of an instance since the last read. Log lines come in pages, before the states of their runs."""
        count = sum(entry.count for entry in record.history)
        if position is None:
            position = Position(entries=count, progress=record.progress)
            yield Update(record=record, entries=record.history[-1:], position=position)
        cursor = position.log_cursor
        # the store writes log lines no later than the state of the same outcome, and the record was read before
        while (page := await self._store.logs(record.id, cursor=cursor)).lines:
            cursor = page.cursor
            position = Position(entries=position.entries, log_cursor=cursor, progress=position.progress)
            # the body and the processors of an instance write separately, so the store can have lines out of order
            lines = tuple(sorted(page.lines, key=lambda line: line.at_us))
            yield Update(record=record, lines=lines, position=position)
        progressed = record.progress is not None and record.progress != position.progress
        new = min(count - position.entries, len(record.history))
        if new < 0 and record.state.is_final:
            new = 1  # the server lost its last writes, and the instance has ended with fewer entries
        if new > 0 or progressed:
            position = Position(entries=count, log_cursor=cursor, progress=record.progress)
            entries = record.history[len(record.history) - max(new, 0) :]
            yield Update(record=record, entries=entries, progressed=progressed, position=position)
