"""Sends concurrent requests to the store in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from peerjob.model.errors import StoreError, StoreRefusedError

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Sends the first request at once, and the requests that arrive meanwhile as batches after its answer.

    `send` answers a batch in its order. `split` makes batches of any number of requests.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Q]], Awaitable[Sequence[A]]],
        split: Callable[[Sequence[Q]], Sequence[Sequence[Q]]],
    ) -> None:
        self._send = send
        self._split = split
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._busy = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, request: Q) -> A:
        """Return the answer to one request; raises what `send` raises for its batch."""
        if self._busy:
            future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
            self._waiting.append((request, future))
            return await future
        self._busy = True
        try:
            return (await self._send([request]))[0]
        finally:
            self._busy = False
            if self._waiting:
                self._start_flush()

    def _start_flush(self) -> None:
        self._busy = True
        task = asyncio.get_running_loop().create_task(self._flush())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flush(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                for batch in self._split([request for request, _ in waiting]):
                    futures, waiting = waiting[: len(batch)], waiting[len(batch) :]
                    await self._answer(batch, [future for _, future in futures])
        finally:
            self._busy = False

    async def _answer(self, batch: Sequence[Q], futures: Sequence[asyncio.Future[A]]) -> None:
        try:
            answers = await self._send(batch)
        except Exception as error:  # noqa: BLE001  # each caller gets it
            if len(batch) > 1 and (isinstance(error, StoreRefusedError) or not isinstance(error, StoreError)):
                # one bad request must not fail the other requests of its batch
                half = len(batch) // 2
                await self._answer(batch[:half], futures[:half])
                await self._answer(batch[half:], futures[half:])
                return
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        else:
            for future, answer in zip(futures, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
