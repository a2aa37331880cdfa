"""Group enqueue: small calls that come while one is under way go to the server together, in one script."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from peerjob.record import MAX_BATCH, MAX_BATCH_BYTES, Enqueued, NewInstance

SMALL = 50
"""Calls of more instances go alone: they gain nothing from company."""

Send = Callable[[Sequence[NewInstance], str], Awaitable[list[Enqueued]]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    instances: Sequence[NewInstance]
    node: str
    answer: asyncio.Future[list[Enqueued]]


class Gather:
    """Sends at once when nothing is under way, and what came meanwhile in one batch after that."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._busy = False
        self._waiting: deque[_Waiting] = deque()
        self._draining: asyncio.Task[None] | None = None

    async def enqueue(self, instances: Sequence[NewInstance], node: str) -> list[Enqueued]:
        """The answers for these instances."""
        if self._busy and len(instances) <= SMALL:
            waiting = _Waiting(instances, node, asyncio.get_running_loop().create_future())
            self._waiting.append(waiting)
            return await waiting.answer
        if self._busy:
            return await self._send(instances, node)
        self._busy = True
        try:
            return await self._send(instances, node)
        finally:
            if self._waiting:
                self._draining = asyncio.create_task(self._drain())
            else:
                self._busy = False

    async def _drain(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            together = [one for waiting in batch for one in waiting.instances]
            try:
                answers = iter(await self._send(together, batch[0].node))
            except Exception as error:  # noqa: BLE001  # it belongs to those who wait
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
                continue
            for waiting in batch:
                answer = [next(answers) for _ in waiting.instances]
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)
        self._busy = False

    def _next_batch(self) -> list[_Waiting]:
        """The longest run of waiting calls from one node that one script may hold, at least one."""
        batch = [self._waiting.popleft()]
        count, size = len(batch[0].instances), _size(batch[0])
        while self._waiting and self._waiting[0].node == batch[0].node:
            count += len(self._waiting[0].instances)
            size += _size(self._waiting[0])
            if count > MAX_BATCH or size > MAX_BATCH_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch


def _size(waiting: _Waiting) -> int:
    return sum(len(one.spec) for one in waiting.instances)
