"""What many ask for at the same time goes to the store together: the first at once, the others in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from peerjob.model.errors import StoreError, StoreRefusedError

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Groups concurrent calls: the first goes at once, those that come meanwhile go together when it is answered.

    `send` answers a batch in its order, and `cut` makes batches that it takes of any number.
    """

    def __init__(
        self, send: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], cut: Callable[[Sequence[Q]], Sequence[Sequence[Q]]]
    ) -> None:
        self._send = send
        self._cut = cut
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._busy = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, one: Q) -> A:
        """The answer to one; raises what `send` raises for the batch."""
        if self._busy:
            future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
            self._waiting.append((one, future))
            return await future
        self._busy = True
        try:
            return (await self._send([one]))[0]
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
                batch, self._waiting = self._waiting, []
                for part in self._cut([one for one, _ in batch]):
                    futures, batch = batch[: len(part)], batch[len(part) :]
                    await self._answer(part, [future for _, future in futures])
        finally:
            self._busy = False

    async def _answer(self, part: Sequence[Q], futures: Sequence[asyncio.Future[A]]) -> None:
        try:
            answers = await self._send(part)
        except Exception as error:  # noqa: BLE001  # each caller gets it
            if len(part) > 1 and (isinstance(error, StoreRefusedError) or not isinstance(error, StoreError)):
                # one bad request must not fail those that happened to be sent with it
                half = len(part) // 2
                await self._answer(part[:half], futures[:half])
                await self._answer(part[half:], futures[half:])
                return
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        else:
            for future, answer in zip(futures, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
