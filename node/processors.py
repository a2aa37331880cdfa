"""Calls users' processors: before a commit where they may change a failure, after it where they are only told."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from peerjob.clock import Clock
from peerjob.injected import current_run
from peerjob.instance import Instance
from peerjob.joblog import make_line

from .failures import BodyError, as_exception, message_of, type_name
from .run import Run
from .threads import ThreadPool

logger = logging.getLogger("peerjob.node")

THREADS = 4


class Processors:
    """Runs callbacks, sync ones in threads. What one raises is logged on the instance and goes no further."""

    def __init__(self, clock: Clock, node: str) -> None:
        self._clock = clock
        self._node = node
        self._threads = ThreadPool(THREADS, "peerjob-processor")
        self._chains: dict[str, asyncio.Task[None]] = {}
        self.patience = 5.0
        """Seconds that a closing node gives its last processors."""

    async def terminate(
        self, run: Run, callback: Callable[..., Any], instance: Instance[Any], error: BaseException
    ) -> object:
        """What `on_terminate` says about a failed attempt; an exception that it raises counts as its answer."""
        try:
            return await self._call(run, callback, instance, error)
        except Exception as raised:  # noqa: BLE001  # whatever it is, it is the processor's answer
            self.note(run, callback, "raised", raised)
            return raised

    def tell(
        self, run: Run | None, instance: Instance[Any], *calls: tuple[Callable[..., Any], object]
    ) -> asyncio.Task[None]:
        """Call each in turn, in the background, after whatever this instance's processors still do.

        `run` is the instance's run here, if there is one: what is logged is kept with it.
        """
        before = self._chains.get(instance.id)

        async def chain() -> None:
            if before is not None:
                await asyncio.wait([before])
            for callback, argument in calls:
                try:
                    await self._call(run, callback, instance, argument)
                except Exception as raised:  # noqa: BLE001  # a processor must not hurt the node
                    self.note(run, callback, "raised", raised)

        return self._track(instance.id, chain())

    def _track(self, id: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._chains[id] = task

        def done(ended: asyncio.Task[None]) -> None:
            if self._chains.get(id) is ended:
                del self._chains[id]

        task.add_done_callback(done)
        return task

    async def close(self) -> None:
        """Wait for what is under way, for as long as `patience` says."""
        if self._chains:
            await asyncio.wait(list(self._chains.values()), timeout=self.patience)
        self._threads.close()
        for task in self._chains.values():
            task.cancel()

    async def _call(self, run: Run | None, callback: Callable[..., Any], *args: object) -> object:
        token = current_run.set(None if run is None else run.context)
        try:
            if inspect.iscoroutinefunction(callback):
                return await _harmless(callback(*args))
            within = contextvars.copy_context()
            with self._clock.outside():
                answer = await self._threads.run(
                    functools.partial(within.run, _called, callback, *args), on_cancel=lambda: None
                )
            return await _harmless(answer) if inspect.isawaitable(answer) else answer
        finally:
            current_run.reset(token)

    def note(self, run: Run | None, callback: Callable[..., Any], what: str, raised: Exception) -> None:
        """Log that a processor failed, and why, on its instance and on the node."""
        cause = raised.cause if isinstance(raised, BodyError) else raised
        name = getattr(callback, "__qualname__", repr(callback))
        text = f"processor {name} {what} {type_name(cause)}: {message_of(cause)}"
        if run is not None:
            now, attempt = self._clock.time_us(), run.claim.attempts
            run.logs.append(make_line(now, logging.ERROR, text, attempt=attempt, node=self._node))
        logger.warning("%s", text)


def _called(callback: Callable[..., Any], *args: object) -> Any:
    try:
        return callback(*args)
    except BaseException as error:  # noqa: BLE001  # a SystemExit would end the loop
        raise as_exception(error) from error.__cause__


async def _harmless(work: Awaitable[Any]) -> Any:
    """Await a callback's coroutine; what would end the loop, or is a cancellation of its own, comes in a BodyError."""
    task = asyncio.current_task()
    asked = 0 if task is None else task.cancelling()
    try:
        return await work
    except asyncio.CancelledError as error:
        if task is not None and task.cancelling() > asked:
            raise
        raise BodyError(error) from error
    except BaseException as error:  # noqa: BLE001  # as in _called
        raise as_exception(error) from error.__cause__
