"""The blocking verbs that a sync job gets."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from peerjob.cluster.loop_thread import refuse_running_loop
from peerjob.handles.blocking import BlockingVerbs
from peerjob.handles.context import Context
from peerjob.handles.durable_run import OTHER_THREAD, holds_thread
from peerjob.handles.manager import Manager

T = TypeVar("T")


class BlockingBodyManager(BlockingVerbs):
    """The blocking verbs for a sync job, which runs in a thread; its calls run on the event loop of the node."""

    def __init__(self, manager: Manager, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        self._manager = manager
        self._loop = loop
        self._context = context

    @property
    def manager(self) -> Manager:
        return self._manager

    @property
    def direct_manager(self) -> Manager:
        refuse_running_loop()
        return self._manager

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return self._begin(work).result()

    def call_long(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._begin(work)
        try:
            return self._context.interrupted_by(future.cancel, until=future.result)
        except CancelledError:
            self._context.raise_if_cancelled()
            raise

    def _begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            refuse_running_loop()
        except BaseException:
            work.close()
            raise
        variables = contextvars.copy_context()
        if holds_thread.get() != threading.get_ident():  # another thread can have a copy of the context
            variables.run(holds_thread.set, OTHER_THREAD)
        work = self._inside(work) if self._manager.clock.virtual else work
        return variables.run(asyncio.run_coroutine_threadsafe, work, self._loop)

    async def _inside(self, work: Coroutine[Any, Any, T]) -> T:
        with self._manager.clock.inside():
            return await work
