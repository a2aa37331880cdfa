"""Blocking verbs for a node or a client, which runs on an event loop in its own thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import math
import os
import queue
import threading
import weakref
from abc import abstractmethod
from collections.abc import Coroutine
from typing import Any, Generic, Self, TypeVar

from peerjob.cluster.loop_thread import end_loop, new_loop, refuse_green_threads, refuse_running_loop
from peerjob.handles.blocking import BlockingVerbs
from peerjob.handles.manager import Manager
from peerjob.model.clock import Clock
from peerjob.model.durations import Duration
from peerjob.model.errors import NodeStateError
from peerjob.model.startable import Startable
from peerjob.node.exit import AtExit, wait_on

T = TypeVar("T")


class _Verb(Generic[T]):
    """A verb that runs on the event loop, and that the waiting thread can give up at any moment.

    The thread holds no lock while it waits. A signal handler can interrupt it at any moment, and wait for the event
    loop, which must not wait for this thread. A future of `concurrent.futures` has such a lock.
    """

    def __init__(self, work: Coroutine[Any, Any, T], timed: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._timed = timed
        self._task: asyncio.Task[T] | None = None
        self._given_up = False
        self._ended = queue.SimpleQueue[None]()

    def begin(self) -> None:
        """Run the verb; called on the event loop."""
        if self._given_up:
            self.close()
            return
        self._task = asyncio.get_running_loop().create_task(self._timed)
        self._task.add_done_callback(self._has_ended)

    def _has_ended(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # asyncio logs an error that nothing reads, and the thread has perhaps given up
        self._ended.put(None)

    def wait(self) -> T:
        """Wait for the answer; raises CancelledError if the verb was cancelled, or if the event loop has ended."""
        self._ended.get()
        task = self._task
        if task is None:
            self.close()
        elif task.done() and not task.cancelled():
            return task.result()
        raise concurrent.futures.CancelledError

    def give_up(self) -> None:
        """Cancel the verb, or keep it from beginning; called on the event loop."""
        self._given_up = True
        if self._task is not None:
            self._task.cancel()

    def abandon(self) -> None:
        """End the wait, because the event loop has ended."""
        self._ended.put(None)

    def close(self) -> None:
        """Close the coroutines of a verb that never began."""
        self._timed.close()
        self._work.close()


class StartableManager(Manager, Startable):
    """A manager that a program starts and stops: a node or a client."""

    clock: Clock

    @abstractmethod
    async def stop(self, grace: Duration = ...) -> None: ...

    @abstractmethod
    def remake(self) -> StartableManager:
        """Make a new manager with the same settings and jobs, not started: a forked process needs one."""

    def blocking(self) -> BlockingManager:
        """The same verbs for code without an event loop: Flask, Django, scripts.

        Use the result instead of starting this manager. Call this method before or after a fork. Make the first call
        of a verb in the process that uses it, because gRPC does not survive a fork.
        """
        return BlockingManager(self)


class BlockingManager(BlockingVerbs):
    """The same verbs as `Node` and `Client`, for Flask, Django and scripts.

    Use it with or without `with`. The node (or client) starts with the first call in each process, and stops at exit,
    so you may create it before a server forks. Every verb raises RuntimeError on a thread that runs an event loop, and
    NodeStateError after `close`, also if it is waiting. The time of a VirtualClock passes while a verb waits, and
    stands still between verbs.
    """

    def __init__(self, node: StartableManager) -> None:
        self._node = node
        self._lock = threading.RLock()
        self._is_starting = False
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._at_exit: AtExit | None = None
        self._calls: set[_Verb[Any]] = set()
        self._closed = False
        self._context = contextvars.copy_context()
        """The context of the node. The first call starts the node, which then serves all callers."""
        forked = weakref.WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (call := forked()) and call())

    def start(self) -> None:
        """Start the node now, not at the first verb."""
        refuse_running_loop()
        self._started_loop()

    def close(self, grace: Duration = 5.0) -> None:
        """Stop the node and its thread; idempotent."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or self._pid != os.getpid():
            self._closed = True
            return
        refuse_running_loop()
        self._closed = True
        self._loop = self._thread = None
        if self._at_exit is not None:
            self._at_exit.cancel()
        try:
            asyncio.run_coroutine_threadsafe(self._timed(self._node.stop(grace)), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            # calls that began while the event loop ended: their threads must not wait forever
            for verb in list(self._calls):
                verb.abandon()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def manager(self) -> Manager:
        refuse_running_loop()
        self._started_loop()
        return self._node

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            refuse_running_loop()
            loop = self._started_loop()
        except BaseException:
            work.close()
            raise
        verb = _Verb(work, self._timed(work))
        try:
            return self._result(verb, loop)
        except BaseException:
            # Ctrl-C or a signal handler can raise before there is a future to cancel, so tell the verb to give up. If
            # the error comes from the verb, the verb has ended, and `give_up` has no effect.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(verb.give_up)
            raise

    def _result(self, verb: _Verb[T], loop: asyncio.AbstractEventLoop) -> T:
        try:
            loop.call_soon_threadsafe(verb.begin)
        except RuntimeError:
            verb.close()
            raise _closed() from None
        self._calls.add(verb)
        if loop.is_closed():
            verb.abandon()
        try:
            return verb.wait()
        except concurrent.futures.CancelledError:
            if self._loop is loop:
                raise
            raise _closed() from None
        finally:
            self._calls.discard(verb)

    def _timed(self, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Let virtual time pass during the work: the caller is blocked, so the caller cannot move the time."""
        return self._passing(work) if self._node.clock.virtual else work

    async def _passing(self, work: Coroutine[Any, Any, T]) -> T:
        async with self._node.clock.passing(math.inf):  # no limit, because each verb has its own limit
            return await work

    def _forked(self) -> None:
        # if a thread of the parent held the lock during the fork, no thread of the child would ever unlock it
        self._lock = threading.RLock()
        self._is_starting = False
        # they are the parent's: the start in the child may fail, and other threads may call during the start
        self._loop = self._thread = None

    def _started_loop(self) -> asyncio.AbstractEventLoop:
        loop = self._loop
        if loop is not None and self._pid == os.getpid() and not self._closed:
            return loop  # without the lock, as a signal handler can interrupt this and call another verb
        with self._lock:
            if self._closed:
                raise _closed()
            if self._loop is not None and self._pid == os.getpid():
                return self._loop
            if self._is_starting:  # by this thread, which has the lock
                raise NodeStateError("a signal handler interrupted the start of this blocking manager: call it later")
            self._is_starting = True
            try:
                return self._start_loop()
            finally:
                self._is_starting = False

    def _start_loop(self) -> asyncio.AbstractEventLoop:
        """Start the thread of the event loop, and there the node."""
        refuse_green_threads()
        if self._pid not in (0, os.getpid()):
            # a forked child must not use the event loop and the connections of its parent, so make a new node
            self._node = self._node.remake()
        self._pid = os.getpid()
        self._calls = set()
        loop = new_loop()
        thread = threading.Thread(target=_run_loop, args=(loop,), name="peerjob-blocking", daemon=True)
        # Register before the node registers its own handler: Python calls exit handlers in reverse order, and the
        # node must leave the cluster first.
        at_exit = AtExit(self._exit)
        thread.start()
        try:
            starting = self._timed(self._node.start())
            self._context.copy().run(asyncio.run_coroutine_threadsafe, starting, loop).result()
        except BaseException:
            at_exit.cancel()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            raise
        self._loop, self._thread = loop, thread
        self._at_exit = at_exit
        return loop

    def _exit(self) -> None:
        """Stop at the exit of the process. The exit handler of a node has already left the cluster."""
        loop, thread = self._loop, self._thread
        self._closed = True
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            wait_on(loop, self._timed(self._node.stop(0)), 1.0, lambda: None)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(1.0)


def _closed() -> NodeStateError:
    return NodeStateError("this blocking manager was closed")


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        end_loop(loop)
