"""The child's side of a process for bodies: the main thread runs the bodies, a second thread listens to the node."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import inspect
import itertools
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any, NoReturn

from peerjob.handles.context import Context
from peerjob.handles.instance import Instance
from peerjob.handles.job_log import CaptureHandler
from peerjob.model.errors import NodeStateError, OptionError, PayloadTooLargeError, Snooze
from peerjob.model.injected import current_run
from peerjob.model.job import Job
from peerjob.model.policy import FinishedResult
from peerjob.model.references import resolve
from peerjob.model.worker import Worker

from . import frames
from .binding import Binding
from .errors import clipped, describe_error, pack_error, unpack_error

_PR_SET_PDEATHSIG = 1


def main(fd: int, parent: int) -> NoReturn:
    """Serve a node over a socket until the node closes it or dies."""
    _die_with(parent)
    # The node alone decides when this process ends, so SIGINT and SIGTERM have no effect. A handler replaces SIG_IGN,
    # because programs that a body starts would inherit SIG_IGN.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    os.set_inheritable(fd, False)
    connection = socket.socket(fileno=fd)
    server = _Server(connection)
    os.register_at_fork(after_in_child=server.leave_fork)
    threading.Thread(target=server.listen, name="peerjob-node", daemon=True).start()
    CaptureHandler(server).start()
    while True:
        server.serve()


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the node died before prctl was called, so the kernel sends no signal
        os._exit(0)


class _Server:
    """Runs one body after the other, and is the backend of the job context of each body."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._orders: queue.SimpleQueue[frames.Start] = queue.SimpleQueue()
        self._bindings: dict[tuple[str, str], Binding] = {}
        self._questions: dict[int, Future[frames.Owner]] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._start: frames.Start | None = None
        self._context: Context | None = None
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    # -- listening to the node, in a thread --------------------------------------------------------------------

    def listen(self) -> None:
        unpacker = frames.Unpacker(frames.decode_from_node)
        try:
            while data := self._connection.recv(1 << 16):
                for frame in unpacker.feed(data):
                    self._received(frame)
        finally:
            os._exit(0)  # the node is gone, so no process waits for the outcome of the body

    def _received(self, frame: frames.FromNode) -> None:
        match frame:
            case frames.Start():
                self._orders.put(frame)
            case frames.Cancel(reason):
                self._cancel(reason)
            case frames.Owner(number):
                question = self._questions.pop(number)
                # a body that stopped waiting has cancelled the future, which accepts no result after that
                if question.set_running_or_notify_cancel():
                    question.set_result(frame)

    def _cancel(self, reason: Any) -> None:
        with self._lock:
            if self._context is not None:
                self._context.cancel(reason)
            if self._task is not None:
                loop, task = self._task
                with contextlib.suppress(RuntimeError):  # the event loop has ended, so no task is left to cancel
                    loop.call_soon_threadsafe(task.cancel, reason)

    # -- running bodies, in the main thread --------------------------------------------------------------------

    def serve(self) -> None:
        """Run the next body."""
        start = self._start = self._orders.get()
        context = Context(
            id=start.id,
            kind=start.kind,
            fence=start.fence,
            attempt=start.attempt,
            deadline_us=start.deadline_us,
            schedule=start.schedule,
            nominal_us=start.nominal_us,
            backend=self,
        )
        logging.getLogger().setLevel(start.log_level)
        with self._lock:
            self._context = context
        try:
            ending = self._ending(start, context)
        finally:
            with self._lock, self._sending:
                self._context = None
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()  # this process ends by os._exit, which does not flush
        self._send(ending)

    def _ending(self, start: frames.Start, context: Context) -> frames.Ending:
        try:
            # import before the context variables are copied, so that values that the module sets stay for later bodies
            binding = self._binding(start.path, start.kind)
            return contextvars.copy_context().run(self._run, binding, start, context)
        except Snooze as snooze:
            return frames.Snoozed(snooze.seconds)
        except BaseException as error:  # noqa: BLE001  # an error of a body must not end the process
            return frames.Raised(describe_error(error), pack_error(error))

    def _run(self, binding: Binding, start: frames.Start, context: Context) -> frames.Ending:
        current_run.set(context)
        args, kwargs = binding.arguments(start.data, context)
        if context.deadline_us is not None:
            context.deadline_us += (time.monotonic_ns() - start.sent_ns) // 1000
        context.raise_if_cancelled()
        self._send(frames.Started())
        result = binding.executor(*args, **kwargs)
        if inspect.isawaitable(result):
            result = asyncio.run(self._awaited(result))
        finished = isinstance(result, FinishedResult)
        encoded = binding.result.encode(result.result if finished else result)
        if encoded is not None and len(encoded) >= frames.MAX_FRAME // 2:
            raise PayloadTooLargeError(f"result of {start.kind!r}", len(encoded), frames.MAX_FRAME // 2)
        return frames.Returned(encoded, finished)

    async def _awaited(self, result: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        with self._lock:
            self._task = asyncio.get_running_loop(), task
        try:
            return await result
        finally:
            with self._lock:
                self._task = None

    def _binding(self, path: str, kind: str) -> Binding:
        if (path, kind) not in self._bindings:
            self._bindings[path, kind] = Binding(Job(kind, resolve(path)))
        return self._bindings[path, kind]

    def _send(self, frame: frames.FromProcess) -> None:
        data = frames.pack(frame)
        with self._sending:
            self._connection.sendall(data)

    def _send_for(self, context: Context, frame: frames.FromProcess) -> bool:
        """Send a frame of a body, unless the body has ended: the node assigns each frame to the body that runs."""
        data = frames.pack(frame)
        with self._sending:
            if context is not self._context:
                # a thread of an earlier body sends this frame; the node would assign the frame to the present body
                return False
            self._connection.sendall(data)
            return True

    def leave_fork(self) -> None:
        """Serve nothing in a child that a body forked. The child sends no lines and no progress."""
        # an open copy would hide the death of this process from the node
        self._connection.close()
        # another thread can have held the lock at the moment of the fork
        self._sending = threading.Lock()
        self._context = None

    # -- the backend of job contexts ---------------------------------------------------------------------------

    def time_us(self) -> int:
        assert self._start is not None
        return self._start.now_us + (time.monotonic_ns() - self._start.sent_ns) // 1_000

    def report_progress(self, context: Context, fraction: float, message: str) -> None:
        self._send_for(context, frames.ProgressReport(fraction, clipped(message)))

    async def check_owner(self, context: Context) -> bool:
        return await self._ask(context, frames.AskOwner(number := next(self._numbers)), number)

    async def throttle(self, context: Context, limit: str, delay_us: int) -> None:
        await self._ask(context, frames.Throttle(number := next(self._numbers), limit, delay_us), number)

    def durable_run(self, context: Context, verb: str) -> NoReturn:
        raise OptionError("run_in", "process", f"another for {context.kind!r}, whose body calls {verb}()")

    async def _ask(self, context: Context, frame: frames.AskOwner | frames.Throttle, number: int) -> bool:
        question = self._questions[number] = Future[frames.Owner]()
        if not self._send_for(context, frame):
            del self._questions[number]
            return False
        answer = await asyncio.wrap_future(question)
        if answer.trouble is not None:
            raise unpack_error(answer.trouble.info, answer.trouble.packed)
        return answer.held

    def make_instance(self, context: Context) -> Instance[Any]:
        raise NodeStateError("a job that runs in a process has a Context, and no Instance")

    def make_worker(self, context: Context) -> Worker:
        number, node = self._start.worker if self._start is not None and self._start.worker else (0, "")
        return Worker(number=number, node=node, instance=context.id, kind=context.kind)

    def log_line(self, context: Context, level: int, message: str, fields: dict[str, object] | None) -> bool:
        return self._send_for(context, frames.Line(level, clipped(message), fields))
