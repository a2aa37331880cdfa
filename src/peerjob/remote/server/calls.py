"""The open calls of a server: how many there are, how much they have sent, and whether their callers still have rights.

gRPC buffers a message until it is complete, up to the largest size. So only a few calls may receive their messages at a
time; of the messages of further calls, gRPC takes only the first bytes from the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, NoReturn, cast

import grpc

from peerjob.cluster.role import BackgroundRole
from peerjob.model.clock import Clock
from peerjob.model.errors import UnauthenticatedError
from peerjob.model.permits import Permits
from peerjob.model.rights import Principal, Role
from peerjob.model.shares import LimitLog, Shares
from peerjob.model.trusted_proxies import network_of
from peerjob.remote.wire.errors import ErrorStatus, status_of

from .rpc_service import Context

MAX_CALLS = 10_000
"""The most open calls. Health checks do not count."""
MAX_CALLS_CALLER = 2_500
"""The most open calls of one caller: of a token, or without tokens of an address."""
RESERVED_CALLS = 500
"""The last of the open calls, which are for admins."""
MAX_ADMITTING = 1_000
"""The most calls of one address whose token is being checked, for which the server may have to read keys."""
MAX_UNREAD = 128 << 20
"""The most bytes of answers that one caller has not taken. Above them, it gets an error instead of an answer."""
MAX_RECEIVING = 16
"""The most messages that the server receives from one caller at a time."""
MAX_RECEIVING_CONNECTION = 3
"""The most messages that the server receives on one connection at a time."""
RECEIVE_SECONDS = 30.0
"""The seconds in which a caller must send a message."""
MAX_PROBES = 2
"""The most health checks whose message is not complete. A further one ends the oldest of them."""
MAX_PROBE_WATCHES = 64
"""The most open watches of the health. A further one ends the oldest of them."""
INTERVAL = 0.25
"""The seconds between two checks of the open calls."""

Task = asyncio.Task[Any]

logger = logging.getLogger("peerjob.server")

NO_RIGHTS = status_of(UnauthenticatedError("the token has expired, or was withdrawn"))
TOO_MANY = ErrorStatus(code=grpc.StatusCode.RESOURCE_EXHAUSTED, text="too many open calls; try again a little later")
TOO_MANY_OF_CALLER = ErrorStatus(
    code=grpc.StatusCode.RESOURCE_EXHAUSTED,
    text=f"the caller has {MAX_CALLS_CALLER:,} open calls, the most of one token, or without tokens of one address; "
    "wait until some end, or call with further tokens",
)
TOO_LATE = ErrorStatus(
    code=grpc.StatusCode.DEADLINE_EXCEEDED, text=f"the message did not arrive within {RECEIVE_SECONDS:g} s"
)
TOO_MUCH = ErrorStatus(
    code=grpc.StatusCode.RESOURCE_EXHAUSTED,
    text=f"the caller has not read {MAX_UNREAD >> 20} MiB of answers; read them, then try again",
)
NO_MESSAGE = ErrorStatus(code=grpc.StatusCode.INVALID_ARGUMENT, text="the call has no message")
REPLACED = ErrorStatus(code=grpc.StatusCode.RESOURCE_EXHAUSTED, text="too many health checks; later ones came")


class OpenCalls(BackgroundRole):
    """Keeps the limits of open calls, and ends long calls whose caller has lost its rights.

    `valid` says whether a caller still has its rights.
    """

    name = "calls"

    def __init__(self, clock: Clock, valid: Callable[[Principal], bool]) -> None:
        super().__init__(clock)
        self._valid = valid
        self._open = Shares(MAX_CALLS, MAX_CALLS_CALLER, RESERVED_CALLS)
        self._unread: dict[str, int] = {}
        self._admitting = Shares(MAX_CALLS, MAX_ADMITTING)
        self._limits = LimitLog(logger, clock)
        self._long: dict[Task, Principal] = {}
        self._receiving: dict[Task, float] = {}
        """Since when each call receives its message, the oldest first."""
        self._by_caller = _KeyLimit(MAX_RECEIVING)
        self._by_connection = _KeyLimit(MAX_RECEIVING_CONNECTION)
        self._probes: dict[Task, None] = {}
        self._probe_watches: dict[Task, None] = {}
        self._ended: dict[Task, ErrorStatus] = {}
        """The status for each call that this class has ended."""

    @contextlib.contextmanager
    def admitting(self, address: str) -> Generator[bool]:
        """Count a call whose token is being checked, until the `with` block ends; False if there are too many."""
        caller = network_of(address)
        if not self._admitting.admits(caller):
            self._limits.warn(
                "admitting",
                "the server refuses a call from %s: it checks the tokens of %d calls",
                address,
                MAX_ADMITTING,
            )
            yield False
            return
        with self._admitting.taken(caller):
            yield True

    async def count(self, caller: Principal, address: str, context: Context) -> str:
        """Count an open call until its answer is sent, and return the name under which its caller is counted.

        Aborts the call if there are too many, of this caller or of all, or if the caller does not read its answers.
        """
        key = caller.credential or network_of(address)
        if not self._open.admits(key, admin=caller.rights.role >= Role.ADMIN):
            self._limits.warn(
                "calls",
                "the server refuses a call of %s from %s: %d calls are open; one caller may have %d, and all %d",
                caller.name,
                address,
                self._open.total,
                MAX_CALLS_CALLER,
                MAX_CALLS,
            )
            await abort(context, TOO_MANY if self._open.has_share(key) else TOO_MANY_OF_CALLER)
        if self._unread.get(key, 0) > MAX_UNREAD:
            await abort(context, TOO_MUCH)
        self._open.take(key)
        _when_sent(context, lambda _: self._open.give_back(key))
        return key

    async def answer(self, key: str, answer: Any, context: Context, *, acts: bool) -> None:
        """Count the answer of a call until it is sent; aborts the call instead if its caller does not read answers.

        A call that acts has its answer in any case, since the caller must learn what was done.
        """
        size = len(answer) if isinstance(answer, bytes) else int(answer.ByteSize())
        if not acts:
            await self._check_unread(key, size, context)
        self._add_unread(key, size)
        _when_sent(context, lambda _: self._add_unread(key, -size))

    @contextlib.asynccontextmanager
    async def streamed(self, key: str, message: Any, context: Context) -> AsyncGenerator[None]:
        """Count a message of a stream while it is sent."""
        size = len(message) if isinstance(message, bytes) else int(message.ByteSize())
        await self._check_unread(key, size, context)
        self._add_unread(key, size)
        try:
            yield
        finally:
            self._add_unread(key, -size)

    async def _check_unread(self, key: str, size: int, context: Context) -> None:
        held = self._unread.get(key, 0)
        if held and held + size > MAX_UNREAD:
            self._limits.warn(
                "unread",
                "a caller from %s does not read %d bytes of its answers, and gets no more",
                context.peer(),
                held,
            )
            await abort(context, TOO_MUCH)

    def _add_unread(self, key: str, size: int) -> None:
        left = self._unread.get(key, 0) + size
        if left:
            self._unread[key] = left
        else:
            self._unread.pop(key, None)

    async def receive(self, key: str, context: Context) -> Any:
        """The message of a call, when its caller may send it; `key` is the name under which its caller is counted."""
        task, peer = _current(), context.peer()
        if (turn := self._by_connection.take(peer)) is not None:
            await turn
        try:
            if (turn := self._by_caller.take(key)) is not None:
                await turn
            try:
                self._receiving[task] = self.clock.elapsed()
                return await _message(context)
            finally:
                self._receiving.pop(task, None)
                self._by_caller.give_back(key)
        finally:
            self._by_connection.give_back(peer)

    async def receive_probe(self, context: Context) -> Any:
        """The message of a health check. Its permit is never held for long, so that probes always get one."""
        with self._replacing(self._probes, MAX_PROBES):
            return await _message(context)

    def watching_probe(self) -> contextlib.AbstractContextManager[None]:
        """Keep a permit for a watch of the health."""
        return self._replacing(self._probe_watches, MAX_PROBE_WATCHES)

    @contextlib.contextmanager
    def long(self, caller: Principal) -> Generator[None]:
        """End the call of this task when its caller loses its rights."""
        task = _current()
        self._long[task] = caller
        try:
            yield
        finally:
            del self._long[task]

    async def explain(self, context: Context) -> None:
        """Abort the cancelled call of this task with a status, if this class ended the call."""
        task = _current()
        status = self._ended.pop(task, None)
        if status is not None:
            task.uncancel()
            await abort(context, status)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            self.check()

    def check(self) -> None:
        """End the calls whose message takes too long, and the long calls of callers without rights."""
        late = self.clock.elapsed() - RECEIVE_SECONDS
        for task, since in list(self._receiving.items()):
            if since > late:
                break
            self._end(task, TOO_LATE)
        callers = {id(caller): caller for caller in self._long.values()}
        revoked = {key for key, caller in callers.items() if not self._valid(caller)}
        for task, caller in self._long.items():
            if id(caller) in revoked:
                self._end(task, NO_RIGHTS)

    @contextlib.contextmanager
    def _replacing(self, permits: dict[Task, None], most: int) -> Generator[None]:
        task = _current()
        if len(permits) >= most:
            oldest = next(iter(permits))
            del permits[oldest]
            self._end(oldest, REPLACED)
        permits[task] = None
        try:
            yield
        finally:
            permits.pop(task, None)

    def _end(self, task: Task, status: ErrorStatus) -> None:
        if task not in self._ended:
            self._ended[task] = status
            task.add_done_callback(lambda ended: self._ended.pop(ended, None))
            task.cancel()


class _KeyLimit:
    """Lets each key have `most` calls under it at a time; further calls wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._permits: dict[str, Permits] = {}
        self._users: dict[str, int] = {}

    def take(self, key: str) -> Awaitable[None] | None:
        """Take a permit under a key; if none is free, return what the call must await to have one."""
        permits = self._permits.get(key)
        if permits is None:
            permits = self._permits[key] = Permits(self._most)
        self._users[key] = self._users.get(key, 0) + 1
        return None if permits.take() else self._wait(key, permits)

    async def _wait(self, key: str, permits: Permits) -> None:
        try:
            await permits.wait()
        except BaseException:
            self._leave(key)
            raise

    def give_back(self, key: str) -> None:
        self._permits[key].give_back()
        self._leave(key)

    def _leave(self, key: str) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key], self._permits[key]


async def abort(context: Context, status: ErrorStatus) -> NoReturn:
    """End the call with a status."""
    await context.abort(status.code, status.text, status.metadata)
    raise AssertionError("abort raises")


def _when_sent(context: Context, action: Callable[[object], None]) -> None:
    """Call `action` when the answer of a call is sent, or when the call ends without it."""
    context.add_done_callback(action)


async def _message(context: Context) -> Any:
    message = await context.read()
    if message is grpc.aio.EOF:
        await abort(context, NO_MESSAGE)
    return message


def _current() -> Task:
    return cast(Task, asyncio.current_task())
