"""Runs bodies: async bodies on the loop, sync bodies in threads, and bodies that must be killable in processes."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from typing import Any

from peerjob.handles.context import Context
from peerjob.handles.durable_run import holds_thread
from peerjob.model.clock import Clock
from peerjob.model.errors import Snooze
from peerjob.model.injected import current_run

from .binding import Binding, Mode
from .errors import BodyError, as_exception
from .injection import Attempt, Resources, clear_cancellations
from .processes import ProcessPool
from .threads import ThreadPool


class Executor:
    """Runs each body to its end, where its job asks for.

    `threads` limits the sync bodies, and the processes, at a time. `pool` runs sync bodies instead of an own pool.
    """

    def __init__(self, clock: Clock, threads: int, resources: Resources, pool: ThreadPool | None = None) -> None:
        self._clock = clock
        self._resources = resources
        self._threads = pool or ThreadPool(threads)
        self._processes = ProcessPool(threads)

    async def call(
        self, binding: Binding, data: bytes, context: Context, run_in: str, began: Callable[[], None] | None = None
    ) -> Any:
        """Return or raise what the body does, once its resources have ended too; set `context.ended` after the body.

        `began` is called when the attempt begins: for a process, once it has imported the body.

        To cancel, call `context.cancel(reason)` and cancel the task that awaits this call. At the end, `context.told`
        says whether the body learned of it. An async body gets the CancelledError. A thread cannot be ended, so the
        wait goes on. A process is killed, for "drain" one second after a notice, and CancelledError is raised.

        Raises DecodeError or StoredArgumentError if no body ran. Errors of the body are raised unchanged, except those
        that would do harm on their way; these come in a BodyError.
        """
        mode = binding.mode(run_in)
        if began is not None and mode != "process":
            began()
        token = current_run.set(context)
        try:
            if mode == "async" and binding.signature.is_async and not binding.resources:
                args, kwargs = binding.arguments(data, context)
                result = await binding.executor(*args, **kwargs)
            else:
                result = await self._run(binding, data, context, mode, began)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and current_run.get() is not context:
                # the GeneratorExit is not from the body: Python destroys this coroutine because the event loop is gone
                raise
            await _end(context)
            current_run.reset(token)
            if isinstance(error, asyncio.CancelledError | Snooze) or as_exception(error) is error:
                raise
            raise BodyError(error) from error
        if context.cancel_reason is None:
            context.ended = True
        else:
            await _end(context)
        current_run.reset(token)
        return result

    async def call_in_thread(self, function: Callable[[], Any], on_cancel: Callable[[], object]) -> Any:
        """Call a function in a thread, with the context variables that it brings. A cancellation calls `on_cancel`."""
        with self._clock.outside():
            return await self._threads.run(function, on_cancel)

    def resize(self, threads: int) -> None:
        """Change the limit of threads and of processes; running bodies go on."""
        self._threads.resize(threads)
        self._processes.resize(threads)

    async def close(self) -> None:
        """End the threads and processes. Call it only while no body runs in a process."""
        self._threads.close()
        # processes end in real time, so virtual time must stand still until they have ended
        with self._clock.outside():
            await self._processes.close()

    def abandon(self) -> None:
        """End the threads after their present work, and kill the processes. The event loop of the bodies is closed."""
        self._threads.resize(0)
        self._processes.abandon()

    async def _run(
        self, binding: Binding, data: bytes, context: Context, mode: Mode, began: Callable[[], None] | None
    ) -> Any:
        aligned, kwargs = binding.converted(data)
        if mode == "process":
            with self._clock.outside():
                return await self._processes.run(binding, data, context, began)
        if not binding.resources:
            args, kwargs = binding.filled(aligned, kwargs, context)
            return await self._body(context, mode, lambda: binding.executor(*args, **kwargs))
        attempt = self._resources.attempt(binding.resources, context, in_thread=mode == "thread")
        values = await attempt.open()
        try:
            # the run was cancelled, but no CancelledError was raised: a factory suppressed the error, or the event loop
            # has not raised the error yet
            if context.cancel_reason is not None:
                await asyncio.sleep(0)
                raise asyncio.CancelledError(context.cancel_reason)
            if mode == "thread":
                result = await self._with_resources(attempt, binding, aligned, kwargs, context)
            else:
                args, named = binding.filled(aligned, kwargs, context, values)
                result = await self._body(context, mode, lambda: binding.executor(*args, **named))
        except BaseException as error:
            if isinstance(error, GeneratorExit) and current_run.get() is not context:
                raise
            await _end(context)
            await attempt.close(error)
            raise
        await attempt.close(None)
        return result

    async def _with_resources(
        self, attempt: Attempt, binding: Binding, aligned: list[Any], kwargs: dict[str, Any], context: Context
    ) -> Any:
        """Run a body in a thread that also makes and closes its sync resources."""
        loop = asyncio.get_running_loop()
        ending: list[tuple[bool, Any]] = []

        def body() -> Any:
            values = attempt.open_here()
            try:
                args, named = binding.filled(aligned, kwargs, context, values, loop)
                result = _called(lambda: binding.executor(*args, **named), context)
            except BaseException as error:
                context.ended = True
                ending.append((True, error))
                attempt.close_here(error)
                raise
            ending.append((False, result))
            attempt.close_here(None)
            return result

        def on_cancel() -> None:
            # a cancellation without a reason comes from the end of the event loop, which counts as a drain
            context.cancel("drain")
            if ending:
                raise _ClosingGivenUpError

        try:
            return await self._body(context, "thread", body, on_cancel)
        except _ClosingGivenUpError:
            attempt.log_unclosed()
            failed, value = ending[0]
            if failed:
                raise value from None
            return value

    async def _body(
        self, context: Context, mode: Mode, body: Callable[[], Any], on_cancel: Callable[[], object] | None = None
    ) -> Any:
        if mode == "async":
            result = _called(body, context)
        else:
            # a thread waits in real time, so virtual time must stand still until the body returns
            variables = contextvars.copy_context()
            with self._clock.outside():
                result = await self._threads.run(
                    lambda: variables.run(_called_here, body, context), on_cancel or (lambda: context.cancel("drain"))
                )
        if not inspect.isawaitable(result):
            return result
        asked = context.cancel_reason
        try:
            value = await result
        except BaseException as error:
            if isinstance(error, GeneratorExit) and current_run.get() is not context:
                raise
            await _end(context, thrown=asked is None)
            raise
        await _end(context, thrown=asked is None)
        return value


class _ClosingGivenUpError(Exception):
    """The body has ended in its thread, but the node cannot wait until the resources of the body are closed."""


def _called(body: Callable[[], Any], context: Context) -> Any:
    """Call the body, unless the run is cancelled. Set `context.ended`, unless the body returns an awaitable."""
    try:
        context.raise_if_cancelled()
        result = body()
    except StopIteration as error:  # a StopIteration would leave the coroutine as a RuntimeError
        context.ended = True
        raise BodyError(error) from error
    except BaseException:
        context.ended = True
        raise
    context.ended = not inspect.isawaitable(result)
    return result


def _called_here(body: Callable[[], Any], context: Context) -> Any:
    holds_thread.set(threading.get_ident())
    return _called(body, context)


async def _end(context: Context, *, thrown: bool = True) -> None:
    """Note that the body has ended, and whether a CancelledError reached the body: a pending error did not.

    `thrown` is False if the cancellation came before there was an async body to cancel.
    """
    if context.ended:
        return
    task = asyncio.current_task()
    asked = context.cancel_reason is not None
    if (asked and thrown) or (task is not None and task.cancelling()):
        try:
            await asyncio.sleep(0)
            heard = True
        except asyncio.CancelledError:
            heard = False
        if asked:
            clear_cancellations()
            context.told = heard if thrown else context.told
    context.ended = True
