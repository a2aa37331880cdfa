"""A connection to a server: a protocol of asyncio that sends commands and reads replies.

Streams and a timeout object for each call would cost more time than a short call itself. So redis-py opens a connection
and signs in, and this protocol has its stream. Replies arrive in the protocol, and one timer serves all calls.
"""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import hiredis

from peerjob.store.lua.scripts.script import Argument
from peerjob.store.url import Host

from .announced import ReplyReader
from .connection_options import ConnectionOptions
from .credentials import Credentials, Given
from .opening import open_stream
from .redis_py import StreamOwner
from .replies import CallTimeoutError, DisconnectedError, ProtocolError, ServerError

_CLOSED = "Connection closed by server."

# Cast, because the type stub of hiredis allows only commands of one word.
pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


class ServerConnection(StreamOwner):
    """An open connection with at most one call in flight."""

    server: Host | str
    """The host or the path of a socket, as given to `open`."""
    given: Given
    """The credentials that the server accepted last."""
    _transport: asyncio.Transport

    @classmethod
    async def open(cls, server: Host | str, options: ConnectionOptions, deadline: float) -> Self:
        """Connect to a host, or to the path of a socket, and sign in until `deadline`, a time of the event loop.

        Raises DisconnectedError, CallTimeoutError, and ServerError if the server refuses the connection.
        """
        connection, given = await open_stream(cls, server, options, deadline)
        connection.server, connection.given = server, given
        return connection

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = ReplyReader()
        self._stream: asyncio.StreamWriter | None = None
        self._answer: asyncio.Future[list[Any]] | None = None
        self._replies: list[Any] = []
        self._count = 0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def take(self, stream: asyncio.StreamWriter, early: bytes) -> None:
        """Take the stream of an open connection."""
        self._stream = stream  # it would close the transport at its own end
        self._transport = cast("asyncio.Transport", stream.transport)
        self._transport.set_write_buffer_limits(0)  # or uvloop sends each command at the end of a turn of the loop
        _connections.add(self)
        if early:
            self._loop.call_soon(self.data_received, early)  # after the first command

    async def sign_in_again(self, credentials: Credentials, deadline: float) -> None:
        """Send the latest credentials, unless the server has them; a refusal asks the provider once more.

        Raises what `call` raises, and ServerError if the server refuses these, too.
        """
        given = credentials.renewed()
        if given is None or given == self.given:
            return
        try:
            (reply,) = await self.send([("AUTH", *given)], deadline)
        except ServerError as error:
            reply = error
        if isinstance(reply, ServerError):
            given = await credentials.instead_of(given)
            (reply,) = await self.send([("AUTH", *given)], deadline)
        if isinstance(reply, ServerError):
            raise reply
        self.given = given

    def send(self, commands: Sequence[tuple[Argument, ...]], deadline: float) -> asyncio.Future[list[Any]]:
        """Pack commands, and send them as `call` does."""
        return self.call(b"".join(map(pack, commands)), len(commands), deadline)

    def call(self, packed: bytes, count: int, deadline: float) -> asyncio.Future[list[Any]]:
        """Send commands; the future has a reply for each command, and errors of the server are replies.

        `deadline` is a time of the event loop. If the future raises an error or is cancelled, end the connection.
        """
        assert self._answer is None, "one call at a time"
        answer = self._answer = self._loop.create_future()
        if self._transport.is_closing():
            self._fail(DisconnectedError(_CLOSED))
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
    def address(self) -> str:
        """The address of the server, or the path of its socket."""
        if isinstance(self.server, str):
            return self.server
        name, _, *more = self._transport.get_extra_info("peername")
        return f"{name}%{more[1]}" if more and more[1] else name

    @property
    def is_closed(self) -> bool:
        """Whether the connection is known to be closed, or its event loop is."""
        return self._loop.is_closed() or self._transport.is_closing()

    def fail(self, error: Exception) -> None:
        """End the call in flight, if there is one, and close the transport, so that no later call uses it."""
        self._fail(error)
        self._transport.abort()

    def end(self) -> None:
        """Close the connection at once; with TLS, an orderly end would wait for the server."""
        if self._stream is None or self._loop.is_closed():
            return  # Python closes the socket with the transport, which needs the event loop for all else
        self.fail(DisconnectedError("the connection ended"))
        if self._timer is not None:
            self._timer.cancel()

    def part_from_parent(self) -> None:
        """Replace the socket of a forked child by one that is closed, because the parent goes on with its own.

        The event loop of the parent may go on in the child, too: it would take answers from the parent.
        """
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                os.dup2(ours.fileno(), sock.fileno(), inheritable=False)

    def data_received(self, data: bytes) -> None:
        """Read the replies in new data."""
        replies = self._replies
        try:
            self._reader.read(data, replies)
        except ProtocolError as error:
            self.fail(error)
        else:
            self._received(replies)

    def _received(self, replies: list[Any]) -> None:
        """End the call in flight, if `replies` has its last one."""
        if self._answer is None or len(replies) > self._count:
            self.fail(ProtocolError("the server sent a reply to no command"))
        elif len(replies) == self._count:
            answer, self._answer, self._replies = self._answer, None, []  # the caller alone keeps large replies
            if answer.done():
                return
            for reply in replies:
                if isinstance(reply, ServerError) and reply.ends_connection:
                    answer.set_exception(reply)
                    return
            answer.set_result(replies)

    def eof_received(self) -> None:
        """Close the connection: the server sends nothing more."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the call in flight."""
        self._fail(DisconnectedError(str(exc) if exc is not None else _CLOSED))

    def _fail(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def _check_deadline(self) -> None:
        """Fail the call in flight if its time is over; otherwise start the timer again for that time."""
        self._timer = None
        if self._answer is None:
            return
        late = self._loop.time() - self._deadline
        if late < 0:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        else:
            self.fail(CallTimeoutError(late))


_connections = weakref.WeakSet[ServerConnection]()
"""All connections of this process."""


def _part_all_from_parent() -> None:
    for connection in list(_connections):
        connection.part_from_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_part_all_from_parent)
