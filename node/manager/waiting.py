"""Waiters for final instances: woken by hints, and by reading again each second."""

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
    """Who waits for which instance. Registering and reading is one step in the store, so no end is missed."""

    name = "waiters"

    def __init__(self, *, clock: Clock, store: Store, incarnation: Callable[[], str]) -> None:
        super().__init__(clock)
        self._store = store
        self._incarnation = incarnation
        self._waiting: dict[str, list[asyncio.Future[Record]]] = {}
        self._new: set[str] = set()
        self._final: set[str] = set()
        self._wake = asyncio.Event()

    async def final(self, id: str) -> Record:
        """The record of an instance, once it is final; raises UnknownInstanceError."""
        future: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(id, []).append(future)
        self._new.add(id)
        self._wake.set()
        try:
            return await future
        finally:
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
        """A hint, or this node's own commit, says that an instance is final."""
        if id in self._waiting:
            self._final.add(id)
            self._wake.set()

    async def stop(self) -> None:
        """Stop, and tell whoever still waits."""
        await super().stop()
        for id in list(self._waiting):
            self._resolve(id, NodeStateError("the node that waited for this instance has stopped"))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        poll_at = loop.time() + POLL
        while True:
            self._wake.clear()
            fresh, self._new = self._new, set()
            if fresh:
                await self._look(list(fresh), register=True)
            if loop.time() >= poll_at:
                await self._look(list(self._waiting), register=True)
                poll_at = loop.time() + POLL * (1 + self.clock.random.uniform(-0.1, 0.1))
            ended, self._final = self._final, set()
            if ended:
                await self._look(list(ended), register=False)
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

    async def _look(self, ids: list[str], *, register: bool) -> None:
        for start in range(0, len(ids), MAX_BATCH):
            part = [id for id in ids[start : start + MAX_BATCH] if id in self._waiting]
            if not part:
                continue
            try:
                found: Sequence[Record | State | None]
                if register:
                    found = await self._store.watch_final(self._incarnation(), part)
                else:
                    found = await self._store.get(part)
            except BaseException:
                self._new.update(ids[start:])  # asked again when the role begins anew
                raise
            for id, one in zip(part, found, strict=True):
                if one is None:
                    self._resolve(id, UnknownInstanceError(id))
                elif isinstance(one, Record):
                    if one.state.is_final:
                        self._resolve(id, one)
                elif one.is_final:
                    self._final.add(id)

    def _resolve(self, id: str, answer: Record | Exception) -> None:
        for future in self._waiting.pop(id, ()):
            if future.done():
                continue
            if isinstance(answer, Record):
                future.set_result(answer)
            else:
                future.set_exception(answer)
