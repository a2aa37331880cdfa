"""Waits for final instances: hints wake the waiters, and a poll each second finds what hints missed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from peerjob.cluster.role import BackgroundRole
from peerjob.model.clock import Clock
from peerjob.model.errors import NodeStateError, UnknownInstanceError
from peerjob.model.record import MAX_BATCH, Record
from peerjob.model.state import State
from peerjob.store.base import Store

POLL = 1.0


class Waiters(BackgroundRole):
    """The waiters of a node, by instance. One step of the store registers a waiter and reads, so no end is missed."""

    name = "waiters"

    def __init__(self, clock: Clock, store: Store, incarnation: Callable[[], str]) -> None:
        super().__init__(clock)
        self._store = store
        self._incarnation = incarnation
        self._waiting: dict[str, list[asyncio.Future[Record]]] = {}
        self._new: set[str] = set()
        self._final: set[str] = set()
        self._wake = asyncio.Event()

    async def final(self, id: str, timeout: float | None = None) -> Record:
        """Return the record of an instance when it is final; raises UnknownInstanceError, and TimeoutError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Record] = loop.create_future()
        timer = None if timeout is None else loop.call_later(timeout, _expire, future)
        self._waiting.setdefault(id, []).append(future)
        self._new.add(id)
        self._wake.set()
        try:
            return await future
        finally:
            if timer is not None:
                timer.cancel()
            waiting = self._waiting.get(id)
            if waiting is not None:
                if future in waiting:
                    waiting.remove(future)
                if not waiting:
                    del self._waiting[id]

    async def final_or_removed(self, id: str) -> None:
        """Wait until an instance is final, or is no longer stored, which a clear does only to final ones."""
        with contextlib.suppress(UnknownInstanceError):
            await self.final(id)

    def ended(self, id: str) -> None:
        """Read an instance soon: a hint or a commit of this node says that the instance is final."""
        if id in self._waiting:
            self._final.add(id)
            self._wake.set()

    @property
    def waits(self) -> bool:
        """Whether a caller waits for the end of an instance."""
        return bool(self._waiting)

    async def stop(self) -> None:
        """Stop, and raise NodeStateError in the remaining waiters."""
        await super().stop()
        for id in list(self._waiting):
            self._resolve(id, NodeStateError("the node has stopped, so the wait for this instance ends"))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        poll_at = loop.time() + POLL
        while True:
            self._wake.clear()
            new, self._new = self._new, set()
            if new:
                await self._read(list(new), register=True)
            if loop.time() >= poll_at:
                await self._read(list(self._waiting), register=True)
                poll_at = loop.time() + self.spread(POLL)
            ended, self._final = self._final, set()
            if ended:
                await self._read(list(ended), register=False)
            if self._new or self._final:
                continue
            if not self._waiting:
                await self._wake.wait()
                poll_at = loop.time() + POLL
                continue
            timer = loop.call_at(poll_at, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()

    async def _read(self, ids: list[str], *, register: bool) -> None:
        for start in range(0, len(ids), MAX_BATCH):
            part = [id for id in ids[start : start + MAX_BATCH] if id in self._waiting]
            if not part:
                continue
            try:
                answers: Sequence[Record | State | None]
                if register:
                    answers = await self._store.watch_final(self._incarnation(), part)
                else:
                    answers = await self._store.get_ended(part)
            except BaseException:
                # `run` reads these instances when the role runs again after the error
                self._new.update(ids[start:])
                raise
            for id, answer in zip(part, answers, strict=True):
                if not register and id in self._new:
                    continue  # the record can be older than the latest waiter, for which the next round reads
                if answer is None:
                    self._resolve(id, UnknownInstanceError(id))
                elif isinstance(answer, Record):
                    if answer.state.is_final:
                        self._resolve(id, answer)
                elif answer.is_final:
                    self._final.add(id)

    def _resolve(self, id: str, answer: Record | Exception) -> None:
        for future in self._waiting.pop(id, ()):
            if future.done():
                continue
            if isinstance(answer, Record):
                future.set_result(answer)
            else:
                future.set_exception(answer)


def _expire(future: asyncio.Future[Record]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
