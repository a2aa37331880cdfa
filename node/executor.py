"""Runs bodies: async ones on the loop, sync ones in threads, and in processes what must be killable."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from typing import Any

from peerjob.clock import Clock
from peerjob.context import Context
from peerjob.errors import Snooze
from peerjob.injected import current_run

from .binding import Binding, Mode
from .failures import BodyError, RemoteBodyError, as_exception, describe_error
from .injection import Resources
from .processes import ProcessPool
from .threads import ThreadPool

__all__ = ["BodyError", "Executor", "RemoteBodyError", "describe_error"]


class Executor:
    """Runs bodies to their end, each in the place that its job asks for.

    `threads` is how many sync bodies, and how many processes, may be at work at a time.
    """

    def __init__(self, *, clock: Clock, threads: int, resources: Resources) -> None:
        self._clock = clock
        self._resources = resources
        self._threads = ThreadPool(threads)
        self._processes = ProcessPool(threads)

    async def call(self, binding: Binding, data: bytes, context: Context, run_in: str) -> Any:
        """What the body returns or raises, once it has ended.

        To cancel it, call `context.cancel(reason)` and cancel the task that awaits this. An async body gets the
        CancelledError. A thread cannot be ended: the wait goes on, and what the body returns or raises still counts.
        A process is killed, for "drain" only after a second's notice, and CancelledError raised.

        Raises DecodeError or StoredArgumentError where no body was run. Errors of the body come as they are, but for
        those that would do harm on their way, which come in a BodyError.
        """
        mode = binding.mode(run_in)
        token = current_run.set(context)
        try:
            if mode == "async" and binding.signature.is_async and not binding.resources:
                args, kwargs = binding.arguments(data, context)
                result = await binding.executor(*args, **kwargs)
            else:
                result = await self._run(binding, data, context, mode)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and current_run.get() is not context:
                raise  # not from the body: the loop is gone, and this coroutine is thrown away
            current_run.reset(token)
            if isinstance(error, asyncio.CancelledError | Snooze) or as_exception(error) is error:
                raise
            raise BodyError(error) from error
        current_run.reset(token)
        return result

    def resize(self, threads: int) -> None:
        """Change how many bodies may be at work in threads, and in processes; what runs, runs on."""
        self._threads.resize(threads)
        self._processes.resize(threads)

    async def close(self) -> None:
        """End the threads and processes; no body may be at work in a process."""
        self._threads.close()
        await self._processes.close()

    async def _run(self, binding: Binding, data: bytes, context: Context, mode: Mode) -> Any:
        placed, kwargs = binding.converted(data)
        if mode == "process":
            with self._clock.outside():
                return await self._processes.run(binding, data, context)
        if not binding.resources:
            args, kwargs = binding.filled(placed, kwargs, context)
            return await self._body(binding, context, mode, lambda: binding.executor(*args, **kwargs))
        loop = asyncio.get_running_loop()
        attempt = self._resources.attempt(binding.resources, context, in_thread=mode == "thread")

        def in_thread() -> Any:
            with attempt.in_thread() as values:
                args, named = binding.filled(placed, kwargs, context, values, loop)
                return binding.executor(*args, **named)

        async with attempt as values:
            if mode == "thread":
                return await self._body(binding, context, mode, in_thread)
            args, named = binding.filled(placed, kwargs, context, values)
            return await self._body(binding, context, mode, lambda: binding.executor(*args, **named))

    async def _body(self, binding: Binding, context: Context, mode: Mode, body: Callable[[], Any]) -> Any:
        if mode == "async":
            result = _called(body)
        else:
            # in a thread no wait is virtual, so virtual time stands still
            surroundings = contextvars.copy_context()
            with self._clock.outside():
                result = await self._threads.run(lambda: surroundings.run(_called, body), lambda: _tell(context))
        return await result if inspect.isawaitable(result) else result


def _called(body: Callable[[], Any]) -> Any:
    try:
        return body()
    except StopIteration as error:  # no coroutine can raise it
        raise BodyError(error) from error


def _tell(context: Context) -> None:
    """Tell a thread that it is to end, when it is not told yet: whoever cancels without a reason ends the loop."""
    context.cancel("drain")
