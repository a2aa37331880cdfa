"""Calls processors of users: `on_terminate` before the commit, since it may change the outcome, the others after."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from peerjob.handles.instance import Instance
from peerjob.handles.job_log import make_line
from peerjob.model.child_tasks import cancel
from peerjob.model.clock import Clock
from peerjob.model.injected import current_run
from peerjob.node.body.context_vars import ContextVars
from peerjob.node.body.errors import BodyError, as_exception, message_of, type_name
from peerjob.node.body.threads import ThreadPool
from peerjob.node.exit import abandon

from .run import Run

logger = logging.getLogger("peerjob.node")

THREADS = 4
LIMIT = 60.0
"""Most seconds that the node waits for a processor. After that, the answer counts as None."""

LAST_PATIENCE = 1.0
"""Seconds that a closing node waits for cancelled processors to end."""


class Processors:
    """Runs callbacks, sync ones in threads, each with its own context variables.

    An error or a timeout of a callback is logged on the instance, and has no other effect. `pool` replaces the threads.
    """

    def __init__(self, clock: Clock, node: str, context_vars: ContextVars, pool: ThreadPool | None = None) -> None:
        self._clock = clock
        self._node = node
        self._context_vars = context_vars
        self._threads = pool or ThreadPool(THREADS, "peerjob-processor")
        self._chains: dict[str, asyncio.Task[None]] = {}
        self._calls: set[asyncio.Task[object]] = set()
        self.patience = 5.0
        """Seconds that a closing node gives its last processors before it cancels them."""

    async def terminate(
        self, run: Run, callback: Callable[..., Any], instance: Instance[Any], error: BaseException
    ) -> object:
        """The answer of `on_terminate` to a failed attempt. An exception that it raises is an answer, too.

        `on_terminate` runs after the callbacks for the start of the attempt.
        """
        if (before := self._chains.get(instance.id)) is not None:
            await asyncio.wait([before], timeout=LIMIT)
        try:
            return await self._call(run, callback, instance, error)
        except Exception as raised:  # noqa: BLE001  # an error that `on_terminate` raises is its answer
            self.report(run, callback, "raised", raised)
            return raised

    def tell(
        self, run: Run | None, instance: Instance[Any], *calls: tuple[Callable[..., Any], object]
    ) -> asyncio.Task[None]:
        """Call callbacks one after another in the background, after earlier calls for this instance.

        `run` is the run of the instance on this node, if any. It keeps the log lines.
        """
        before = self._chains.get(instance.id)

        async def chain() -> None:
            if before is not None:
                await asyncio.wait([before])
            for callback, argument in calls:
                try:
                    await self._call(run, callback, instance, argument)
                except Exception as raised:  # noqa: BLE001  # an error of a processor must not stop the node
                    self.report(run, callback, "raised", raised)

        return self._track(instance.id, chain())

    def _track(self, id: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # the caller can be a body, and processors must not see the context variables of that body
        task = asyncio.get_running_loop().create_task(work, context=self._context_vars.copy())
        self._chains[id] = task

        def done(ended: asyncio.Task[None]) -> None:
            if self._chains.get(id) is ended:
                del self._chains[id]

        task.add_done_callback(done)
        return task

    async def close(self) -> None:
        """Wait for running processors for `patience` seconds, then cancel them."""
        if self._chains:
            await asyncio.wait(list(self._chains.values()), timeout=self.patience)
        self._threads.close()
        calls = set(self._calls)
        for task in (*self._chains.values(), *calls):
            task.cancel()
        if calls:
            _, deaf = await asyncio.wait(calls, timeout=LAST_PATIENCE)
            for call in deaf:
                abandon(call)

    async def _call(self, run: Run | None, callback: Callable[..., Any], *args: object) -> object:
        variables = self._context_vars.copy() if run is None or run.variables is None else run.variables.copy()
        variables.run(current_run.set, None if run is None else run.context)
        work = asyncio.get_running_loop().create_task(self._answer(callback, args, variables), context=variables)
        self._calls.add(work)
        work.add_done_callback(self._calls.discard)
        # read the error of the call: asyncio warns of an unread error if the caller stopped waiting before the error
        work.add_done_callback(lambda work: work.cancelled() or work.exception())
        try:
            await asyncio.wait({work}, timeout=LIMIT)
            if work.cancelled():
                raise BodyError(asyncio.CancelledError())
            if work.done():
                return work.result()
        finally:
            cancel(work)
        self._log(run, f"processor {_name(callback)} was given up: it took longer than {LIMIT:g} s")
        return None

    async def _answer(
        self, callback: Callable[..., Any], args: tuple[object, ...], variables: contextvars.Context
    ) -> object:
        if inspect.iscoroutinefunction(callback):
            return await _harmless(callback(*args))
        with self._clock.outside():
            # the thread needs a copy of `variables`: only one thread at a time can enter a contextvars context
            call = functools.partial(variables.copy().run, _called, callback, *args)
            answer = await self._threads.run(call, on_cancel=_give_up)
        return await _harmless(answer) if inspect.isawaitable(answer) else answer

    def report(self, run: Run | None, callback: Callable[..., Any], what: str, raised: Exception) -> None:
        """Log the failure of a processor on its instance and on the node."""
        cause = raised.cause if isinstance(raised, BodyError) else raised
        self._log(run, f"processor {_name(callback)} {what} {type_name(cause)}: {message_of(cause)}")

    def _log(self, run: Run | None, text: str) -> None:
        if run is not None:
            now, attempt = self._clock.time_us(), run.claim.attempts
            run.logs.append(make_line(now, logging.ERROR, text, attempt=attempt, node=self._node))
        logger.warning("%s", text)


def _name(callback: Callable[..., Any]) -> str:
    return str(getattr(callback, "__qualname__", repr(callback)))


def _give_up() -> None:
    raise asyncio.CancelledError


def _called(callback: Callable[..., Any], *args: object) -> Any:
    try:
        return callback(*args)
    except BaseException as error:  # noqa: BLE001  # a SystemExit would end the event loop
        raise as_exception(error) from error.__cause__


async def _harmless(work: Awaitable[Any]) -> Any:
    """Await a callback. Wrap errors that would end the event loop, or look like a cancellation, in a BodyError."""
    task = asyncio.current_task()
    try:
        return await work
    except asyncio.CancelledError as error:
        if task is not None and task.cancelling():
            raise
        raise BodyError(error) from error
    except BaseException as error:  # a SystemExit would end the event loop
        if isinstance(error, GeneratorExit) and task is not None and task.get_loop().is_closed():
            raise  # Python destroys this coroutine
        raise as_exception(error) from error.__cause__
