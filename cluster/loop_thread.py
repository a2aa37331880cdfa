"""Event loops in threads, which work until the process ends.

When the main thread ends, the interpreter shuts down the executors of `concurrent.futures`, before it calls exit
handlers. After that, a loop with the usual default executor cannot look up host names. From Python 3.12 on, no thread
can start either. A loop that still has to leave the cluster must not need either.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import select
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, TypeVarTuple, Unpack

from peerjob.model.errors import NodeStateError

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_THREADS = 32


def refuse_green_threads() -> None:
    """Raise NodeStateError if gevent or eventlet has replaced threads by greenlets.

    For asyncio, all greenlets are one thread, so they would all have the same running loop.
    """
    modules = {threading.get_ident.__module__, select.select.__module__}
    if not modules <= {"_thread", "select"}:
        patched = ", ".join(sorted(modules - {"_thread", "select"}))
        raise NodeStateError(
            f"this process was monkey-patched ({patched}), and event loops cannot run beside each other there: "
            "use real threads, such as gunicorn's --worker-class gthread"
        )


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread. An error for each thread without one would cost time."""
    return asyncio._get_running_loop()  # pyright: ignore[reportPrivateUsage]


def refuse_running_loop() -> None:
    """Raise RuntimeError on a thread that runs an event loop, which a blocking call would stop."""
    if running_loop() is not None:
        raise RuntimeError("a blocking verb would stop the running event loop; use the node itself and await it")


class LastingExecutor(ThreadPoolExecutor):
    """Runs calls in daemon threads, also while the interpreter exits. If no thread can start, the caller runs them.

    The base class is ThreadPoolExecutor because event loops accept no other class.
    """

    def __init__(self, most: int = MAX_THREADS, name: str = "peerjob-executor") -> None:
        super().__init__(max_workers=1)  # unused: this class replaces `submit`, so the base class starts no thread
        self._most = most
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle_threads = threading.Semaphore(0)
        self._started = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        call = functools.partial(_resolve, future, functools.partial(fn, *args, **kwargs))
        self._calls.put(call)
        if not self._idle_threads.acquire(blocking=False) and self._started < self._most:
            try:
                threading.Thread(target=self._serve, name=f"{self._name}-{self._started}", daemon=True).start()
            except RuntimeError:  # no thread can start while the interpreter exits, so the caller runs the call
                self._serve_one()
            else:
                self._started += 1
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let each thread end after its current call."""
        for _ in range(self._started):
            self._calls.put(None)
        self._started = 0

    def _serve(self) -> None:
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                self._idle_threads.release()
                call = self._calls.get()
            if call is None:
                return
            call()
            del call

    def _serve_one(self) -> None:
        with contextlib.suppress(queue.Empty):
            call = self._calls.get_nowait()
            if call is not None:
                call()


def _resolve(future: Future[T], work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001  # the future passes the error to the caller
        future.set_exception(error)
    else:
        future.set_result(result)


class QuietLoop(asyncio.SelectorEventLoop):
    """An event loop that can rest. Meanwhile, it does not watch the sockets that other libraries let it watch.

    gRPC lets all event loops of a process watch one socket, and each of its events wakes all of them. A loop that
    watches it for nothing also takes events of the others, and passes them on. While this loop rests, another one
    passes on its events, unless that one is blocked.
    """

    def __init__(self) -> None:
        super().__init__()
        self._watched: dict[FileDescriptorLike, tuple[Callable[..., Any], tuple[Any, ...]]] = {}

    def add_reader(self, fd: FileDescriptorLike, callback: Callable[[Unpack[Ts]], Any], *args: *Ts) -> None:
        self._watched[fd] = callback, args
        super().add_reader(fd, callback, *args)

    def remove_reader(self, fd: FileDescriptorLike) -> bool:
        self._watched.pop(fd, None)
        return super().remove_reader(fd)

    @contextlib.contextmanager
    def resting(self) -> Generator[None]:
        """Watch no such socket until the `with` block ends."""
        for fd in self._watched:
            super().remove_reader(fd)
        try:
            yield
        finally:
            for fd, (callback, args) in self._watched.items():
                super().add_reader(fd, callback, *args)


def resting(loop: asyncio.AbstractEventLoop) -> contextlib.AbstractContextManager[None]:
    """See `QuietLoop.resting`; nothing on any other loop."""
    return loop.resting() if isinstance(loop, QuietLoop) else contextlib.nullcontext()


def new_loop(*, quiet: bool = False) -> asyncio.AbstractEventLoop:
    """A new event loop whose default executor works until the process ends; with `quiet`, one that can rest."""
    loop = QuietLoop() if quiet else asyncio.new_event_loop()
    loop.set_default_executor(LastingExecutor())
    return loop


def run_here(main: Coroutine[Any, Any, None], *, quiet: bool = False) -> None:
    """Run a coroutine on a new loop in this thread, like `asyncio.run`, which needs a thread to close the loop."""
    loop = new_loop(quiet=quiet)
    try:
        loop.run_until_complete(main)
    finally:
        end_loop(loop)


def end_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel all tasks of a loop that does not run, wait until they end, and close the loop."""
    try:
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


class EndOfThread:
    """Lets an event loop wait for the end of a thread without an executor."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ended: asyncio.Future[None] = loop.create_future()

    def tell(self) -> None:
        """End `wait`. The thread makes this call last, before its end."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed, so no task waits
            self._loop.call_soon_threadsafe(self._set)

    async def wait(self) -> None:
        await asyncio.shield(self._ended)

    def _set(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
