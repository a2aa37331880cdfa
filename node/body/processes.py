"""Processes for bodies that must be killable, or that hold the interpreter: one body each at a time.

A process is started when a body first needs it, and is used again. It ends when its connection to the node ends; on
Linux, the kernel also kills it with the node. It leads a process group, so the programs that it started die with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from peerjob.handles.context import Context
from peerjob.model.clock import to_us
from peerjob.model.errors import JobProcessDied, OwnershipLost, Snooze
from peerjob.model.policy import FinishedResult

from . import frames
from .child_watcher import ChildWatcher
from .errors import BodyError, describe_error, pack_error, unpack_error
from .threads import wait_to_end
from .typed_positions import Encoded

if TYPE_CHECKING:
    from .binding import Binding

START_LIMIT = 300.0
"""Seconds in which a process must start and import a body; a slower process is killed."""
NOTICE = 1.0
"""Real seconds between the notice to a body that its node drains, and the kill of the process."""

_BOOT = (
    "import json, sys; fd, parent, sys.path[:] = json.loads(sys.argv[1]); "
    "from peerjob.node.body.process_child import main; main(fd, parent)"
)


class ProcessPool:
    """The processes of one node."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()

    async def run(
        self, binding: Binding, data: bytes, context: Context, began: Callable[[], None] | None = None
    ) -> Any:
        """Return the result of the body, as `Encoded`, or raise its error; JobProcessDied if the process ends first.

        A cancellation kills the process, and raises CancelledError once it is dead. `began` is called once the process
        has imported the body.
        """
        worker = context.worker
        start = frames.Start(
            path=binding.import_path,
            kind=binding.kind,
            data=data,
            id=context.id,
            fence=context.fence,
            attempt=context.attempt,
            deadline_us=context.deadline_us,
            worker=None if worker is None else (worker.number, worker.node),
            log_level=logging.getLogger().level,
            sent_ns=time.monotonic_ns(),
            now_us=to_us(context.now()),
            schedule=context.schedule,
            nominal_us=context.nominal_us,
        )
        run = _BodyRun(context, began)
        process = await self._run_in_process(start, run)
        if run.ending.result() is None and not run.started and not run.overdue and context.cancel_reason is None:
            # run the body in another process: the first one died before it read the order, so the body did not begin
            run = _BodyRun(context, began)
            process = await self._run_in_process(start, run)
        match run.ending.result():
            case frames.Returned(result, finished):
                return FinishedResult(Encoded(result)) if finished else Encoded(result)
            case frames.Raised(info, packed):
                error = unpack_error(info, packed)
                raise BodyError(error) if isinstance(error, StopIteration) else error
            case frames.Snoozed(seconds):
                raise Snooze(seconds)
            case None if context.cancel_reason is not None:
                context.told = True
                raise asyncio.CancelledError(context.cancel_reason)
            case None if run.overdue:
                module = start.path.partition(":")[0]
                raise TimeoutError(f"a process did not start and import {module!r} within {START_LIMIT:g} s")
            case None:
                raise JobProcessDied(process.status)

    def resize(self, size: int) -> None:
        """Change how many idle processes are kept."""
        self._size = size
        while self._idle and self._surplus > 0:
            self._idle.pop(0).kill()

    @property
    def _surplus(self) -> int:
        return sum(process.alive for process in self._all) - max(1, self._size)

    async def close(self) -> None:
        """Kill every process and wait for its end."""
        for process in list(self._all):
            process.kill()
            await process.ended

    def abandon(self) -> None:
        """Kill every process. The event loop is closed, so nothing waits for their end."""
        for process in list(self._all):
            process.kill_without_loop()

    async def _run_in_process(self, start: frames.Start, run: _BodyRun) -> _Process:
        """Run a body in a process, and return that process."""
        process = await self._take(run.context)
        process.will_load(start.path)
        limit = asyncio.get_running_loop().call_later(START_LIMIT, process.give_up, run)
        try:
            process.begin(run, start)
            ending = await wait_to_end(run.ending, lambda: process.end(run))
            if ending is None and not process.alive:
                await wait_to_end(process.ended, lambda: None)
            return process
        finally:
            limit.cancel()
            process.finish()
            if process.alive and self._surplus <= 0:
                self._idle.append(process)
            else:
                process.kill()

    async def _take(self, context: Context) -> _Process:
        while self._idle:
            process = self._idle.pop()
            if process.alive and process.is_current:
                return process
            process.kill()
        process = _Process(self._all.discard)
        self._all.add(process)
        connecting = asyncio.get_running_loop().create_task(process.connect())
        await wait_to_end(connecting, lambda: context.cancel("drain"))
        return process


class _BodyRun:
    """One run of a body in a process, and the future of its last frame."""

    def __init__(self, context: Context, began: Callable[[], None] | None) -> None:
        self.context = context
        self._began = began
        self.started = self.overdue = False
        self.ending: asyncio.Future[frames.Ending | None] = asyncio.get_running_loop().create_future()
        """The last frame of the body; None if the process ended before the body."""

    def start(self) -> None:
        self.started = True
        if self._began is not None:
            self._began()

    def end(self, ending: frames.Ending | None) -> None:
        if not self.ending.done():
            self.context.ended = ending is not None
            self.ending.set_result(ending)


class _Process(asyncio.Protocol):
    """One child process, and the node's end of its connection."""

    def __init__(self, on_ended: Callable[[_Process], None]) -> None:
        self._on_ended = on_ended
        self._loop = asyncio.get_running_loop()
        self._unpacker = frames.Unpacker(frames.decode_from_process)
        self._transport: asyncio.Transport | None = None
        self._notice: object | None = None
        """Identifies the notice to the current body, so that the timer of an older notice kills nothing; or None."""
        self._answers: set[asyncio.Task[None]] = set()
        self._modules: dict[str, ModuleType | None] = {}
        self.running: _BodyRun | None = None
        self.killed = False
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done once the process has ended and is reaped."""
        self._socket, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as on_failure:
            on_failure.callback(self._socket.close)
            order = json.dumps([theirs.fileno(), os.getpid(), sys.path])
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, order],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
            on_failure.pop_all()
        self._watcher = ChildWatcher(self._popen, on_reaped=self._reaped)

    async def connect(self) -> None:
        """Connect to the process, unless it was killed before."""
        if self.killed:
            return
        await self._loop.create_unix_connection(lambda: self, sock=self._socket)

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self.killed and not self._transport.is_closing()

    def will_load(self, path: str) -> None:
        """Note the module of a body that the process is about to import."""
        name = path.partition(":")[0]
        self._modules.setdefault(name, sys.modules.get(name))

    @property
    def is_current(self) -> bool:
        """Whether the node has not reloaded a module that the process imported."""
        return all(sys.modules.get(name) is module for name, module in self._modules.items())

    @property
    def status(self) -> int | None:
        """The exit status; negative for the signal that ended the process."""
        return self._popen.returncode

    def begin(self, run: _BodyRun, start: frames.Start) -> None:
        self.running = run
        if self.alive and run.context.cancel_reason is None:
            self._send(start)
        else:
            run.end(None)

    def end(self, run: _BodyRun) -> None:
        """End the body: immediately, or one second after a notice if the node drains."""
        context = run.context
        context.cancel("drain")
        if run.ending.done():
            return
        context.told = True
        if context.cancel_reason != "drain" or self._notice is not None:
            self.kill()
            return
        self._send(frames.Cancel("drain"))
        notice = self._notice = object()
        self._watcher.call_later(NOTICE, lambda: self._notice_over(notice))

    def _notice_over(self, notice: object) -> None:
        if self._notice is notice:
            self.kill()

    def give_up(self, run: _BodyRun) -> None:
        """Kill the process, unless the body has begun: from then on, the job's own timeout counts."""
        if not run.started:
            run.overdue = True
            self.kill()

    def finish(self) -> None:
        """Note that the body has ended."""
        self.running = None
        self._notice = None

    def kill(self) -> None:
        """Kill the process, and all programs that it started."""
        if not self.killed:
            self.killed = True
            self._kill_group()
            if self._transport is not None:
                self._transport.abort()
            else:
                # without a connection, asyncio does not call connection_lost, which otherwise reaps the process
                self._watcher.reap()

    def kill_without_loop(self) -> None:
        """Kill the process. Its watcher reaps it."""
        self.killed = True
        self._kill_group()
        self._watcher.reap()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def _send(self, frame: frames.FromNode) -> None:
        if self._transport is not None:
            self._transport.write(frames.pack(frame))

    # -- callbacks of the connection ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # cast without a check, because a transport of uvloop does not inherit from asyncio.Transport
        self._transport = cast(asyncio.Transport, transport)
        if self.killed:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._unpacker.feed(data):
                self._received(frame)
        except ValueError:  # the body wrote other bytes into the connection, so later frames cannot be read
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        # kill before reaping: as long as the process is not reaped, no other process gets the same number
        self.killed = True
        self._kill_group()
        self._watcher.reap()

    def _reaped(self) -> None:
        self._on_ended(self)
        if self._transport is None:
            self._socket.close()
        if not self.ended.done():
            self.ended.set_result(None)
        if self.running is not None:
            self.running.end(None)

    def _received(self, frame: frames.FromProcess) -> None:
        run = self.running
        if run is None:
            return
        match frame:
            case frames.Started():
                run.start()
            case frames.Line(level, message, fields):
                run.context.log_line(level, message, fields)
            case frames.ProgressReport(fraction, message):
                run.context.progress(fraction, message)
            case frames.AskOwner(number):
                task = self._loop.create_task(self._answer(number, run.context))
                self._answers.add(task)
                task.add_done_callback(self._answers.discard)
            case _:
                run.end(frame)

    async def _answer(self, number: int, context: Context) -> None:
        try:
            await context.assert_owner()
            answer = frames.Owner(number, held=True)
        except OwnershipLost:
            answer = frames.Owner(number, held=False)
        except Exception as error:  # noqa: BLE001  # the answer carries the error to the body that asked
            answer = frames.Owner(number, held=False, trouble=frames.Raised(describe_error(error), pack_error(error)))
        self._send(answer)
