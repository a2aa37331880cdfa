"""A connection to a server: redis-py opens it, and then a protocol of asyncio sends commands and reads replies.

redis-py opens the socket, encrypts it, signs in and selects the database. Its streams and a timeout object for each
call cost more time than a short call itself. So this module replaces the protocol of the open transport, and uses one
timer for all calls of a connection.
"""

from __future__ import annotations

import asyncio
from typing import Any, Self, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

from .redis_options import end

_CLOSED = "Connection closed by server."
_PARTIAL = object()
"""hiredis returns this if a reply has not arrived completely."""


class CallTimeoutError(TimeoutError):
    """The server did not answer in time."""

    def __init__(self, late: float) -> None:
        super().__init__()
        self.late = late
        """How many seconds after its time the event loop ran the timer."""


class ServerConnection(asyncio.Protocol):
    """An open connection with at most one call under way."""

    @classmethod
    async def open(cls, connection: AbstractConnection) -> Self:
        """Open a connection of redis-py, and take it over; raises an error of redis-py."""
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            return cls(connection)
        except BaseException:
            await end(connection)
            raise

    def __init__(self, connection: AbstractConnection) -> None:
        reader, writer = connection._reader, connection._writer  # pyright: ignore[reportPrivateUsage]
        assert reader is not None, "the connection is open"
        assert writer is not None, "the connection is open"
        parser = connection._parser  # pyright: ignore[reportPrivateUsage]
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._transport = cast("asyncio.Transport", writer.transport)
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=parser.parse_error,  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            notEnoughData=_PARTIAL,
        )
        self._answer: asyncio.Future[list[Any]] | None = None
        self._replies: list[Any] = []
        self._count = 0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)
        if reader.at_eof():
            raise RedisConnectionError(_CLOSED)

    def call(self, packed: bytes, count: int, deadline: float) -> asyncio.Future[list[Any]]:
        """Send commands; the future has a reply for each command, and errors of the server are replies.

        `deadline` is a time of the event loop. If the future raises an error or is cancelled, end the connection.
        """
        assert self._answer is None, "one call at a time"
        answer = self._answer = self._loop.create_future()
        if self.is_closed:
            self._fail(RedisConnectionError(_CLOSED))
            return answer
        self._replies = []
        self._count = count
        self._deadline = deadline
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._check_deadline)
        elif self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._check_deadline)
        self._transport.write(packed)
        return answer

    @property
    def is_closed(self) -> bool:
        """Whether the connection is known to be closed."""
        return self._transport.is_closing()

    def fail(self, error: Exception) -> None:
        """End the call under way, if there is one, and close the transport, so that no later call uses it."""
        self._fail(error)
        self._transport.abort()

    async def end(self) -> None:
        """Close the connection at once."""
        self._fail(RedisConnectionError("the connection ended"))
        if self._timer is not None:
            self._timer.cancel()
        await end(self._connection)

    def data_received(self, data: bytes) -> None:
        """Read the replies in new data; the last one ends the call."""
        replies = self._replies
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets(False)) is not _PARTIAL:
                replies.append(reply)
        except InvalidResponse as error:
            self.fail(error)
            return
        if self._answer is None or len(replies) > self._count:
            self.fail(InvalidResponse("the server sent a reply to no command"))
        elif len(replies) == self._count:
            answer, self._answer, self._replies = self._answer, None, []  # the caller alone keeps large replies
            if not answer.done():
                broken = next((reply for reply in replies if isinstance(reply, RedisConnectionError)), None)
                answer.set_result(replies) if broken is None else answer.set_exception(broken)

    def eof_received(self) -> None:
        """Close the connection: the server sends nothing more."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the call under way."""
        self._fail(RedisConnectionError(str(exc) if exc is not None else _CLOSED))

    def _fail(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def _check_deadline(self) -> None:
        """Fail the call under way if its time is over; otherwise start the timer again for that time."""
        self._timer = None
        if self._answer is None:
            return
        late = self._loop.time() - self._deadline
        if late < 0:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        else:
            self.fail(CallTimeoutError(late))
