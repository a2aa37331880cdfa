"""A connection to a server: a protocol of asyncio that sends commands and reads replies.

Streams and a timeout object for each call would cost more time than a short call itself. So replies arrive in a
protocol, and one timer serves all calls of a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, cast

import hiredis

from peerjob.store.lua.scripts.script import Argument
from peerjob.store.url import Host

from .connection_options import ConnectionOptions
from .first_answer import NoAnswerError, first_answer
from .replies import CallTimeoutError, ConnectionLostError, ProtocolError, ServerError

_CLOSED = "Connection closed by server."
_PARTIAL = object()
"""hiredis returns this if a reply has not arrived completely."""
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds without data until the system asks if the peer is there, seconds until it asks again, and questions without
an answer that close the connection."""

# Cast, because the type stub of hiredis allows only commands of one word.
pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


class ServerConnection(asyncio.Protocol):
    """An open connection with at most one call under way."""

    server: Host | str
    """The host or the path of a socket, as given to `open`."""
    _transport: asyncio.Transport

    @classmethod
    async def open(cls, server: Host | str, options: ConnectionOptions, deadline: float) -> Self:
        """Connect to a host, or to the path of a socket, and sign in until `deadline`, a time of the event loop.

        Raises ConnectionLostError, CallTimeoutError, and ServerError if the server refuses the connection.
        """
        connection = await cls._connected(server, options)
        connection.server = server
        try:
            if commands := list(options.sign_in()):
                await connection._sign_in(commands, deadline)
        except BaseException:
            connection.end()
            raise
        return connection

    @classmethod
    async def _connected(cls, server: Host | str, options: ConnectionOptions) -> Self:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(options.timeout):
                if isinstance(server, str):
                    _, connection = await loop.create_unix_connection(cls, server)
                    return connection
                return await cls._connected_to_any(server, options)
        except TimeoutError as error:
            raise ConnectionLostError(f"Timeout connecting to {server}") from error
        except (OSError, ValueError) as error:
            raise ConnectionLostError(_not_connected(server, error)) from error

    @classmethod
    async def _connected_to_any(cls, server: Host, options: ConnectionOptions) -> Self:
        """Connect to the first address of a host that accepts: a dead address must not take the time of the others."""
        tls = options.tls_context()
        addresses = await _addresses(server)
        if len(addresses) == 1:
            return await cls._connected_to(addresses[0], server, tls)
        attempts = [partial(cls._connected_to, address, server, tls) for address in addresses]
        try:
            return await first_answer(attempts, expected=(OSError, ValueError), discard=cls.end)
        except NoAnswerError as error:
            reasons = dict.fromkeys(_not_connected(server, problem) for problem in error.problems)
            raise ConnectionLostError(" ".join(reasons)) from None

    @classmethod
    async def _connected_to(cls, address: str, server: Host, tls: ssl.SSLContext | None) -> Self:
        name = server.name if tls is not None else None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, address, server.port, ssl=tls, server_hostname=name)
        try:
            connection._keep_alive()
        except BaseException:
            connection.end()
            raise
        return connection

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(protocolError=ProtocolError, replyError=ServerError, notEnoughData=_PARTIAL)
        self._answer: asyncio.Future[list[Any]] | None = None
        self._replies: list[Any] = []
        self._count = 0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def _keep_alive(self) -> None:
        """Let the system notice a peer that is gone without a word, while a call waits for hints."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if (option := getattr(socket, name, None)) is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    async def _sign_in(self, commands: Sequence[tuple[Argument, ...]], deadline: float) -> None:
        problem: Exception | None = None
        try:
            replies = await self.send(commands, deadline)
        except ConnectionLostError as error:
            # A server that refuses a connection answers once, and closes it.
            problem, replies = error, self._replies
        problem = next((reply for reply in replies if isinstance(reply, ServerError)), problem)
        if problem is not None:
            raise problem

    def send(self, commands: Sequence[tuple[Argument, ...]], deadline: float) -> asyncio.Future[list[Any]]:
        """Pack commands, and send them as `call` does."""
        return self.call(b"".join(map(pack, commands)), len(commands), deadline)

    def call(self, packed: bytes, count: int, deadline: float) -> asyncio.Future[list[Any]]:
        """Send commands; the future has a reply for each command, and errors of the server are replies.

        `deadline` is a time of the event loop. If the future raises an error or is cancelled, end the connection.
        """
        assert self._answer is None, "one call at a time"
        answer = self._answer = self._loop.create_future()
        if self.is_closed:
            self._fail(ConnectionLostError(_CLOSED))
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
        """Whether the connection is known to be closed, or its event loop is."""
        return self._loop.is_closed() or self._transport.is_closing()

    def fail(self, error: Exception) -> None:
        """End the call under way, if there is one, and close the transport, so that no later call uses it."""
        self._fail(error)
        self._transport.abort()

    def end(self) -> None:
        """Close the connection at once; with TLS, an orderly end would wait for the server."""
        if self._loop.is_closed():
            return  # Python closes the socket with the transport, which needs the event loop for all else
        self.fail(ConnectionLostError("the connection ended"))
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)
        _connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Read the replies in new data."""
        replies = self._replies
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets(False)) is not _PARTIAL:
                replies.append(reply)
        except ProtocolError as error:
            self.fail(error)
        else:
            self._received(replies)

    def _received(self, replies: list[Any]) -> None:
        """End the call under way, if `replies` has its last one."""
        if self._answer is None or len(replies) > self._count:
            self.fail(ProtocolError("the server sent a reply to no command"))
        elif len(replies) == self._count:
            answer, self._answer, self._replies = self._answer, None, []  # the caller alone keeps large replies
            if not answer.done():
                ending = next((one for one in replies if isinstance(one, ServerError) and one.ends_connection), None)
                answer.set_result(replies) if ending is None else answer.set_exception(ending)

    def eof_received(self) -> None:
        """Close the connection: the server sends nothing more."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the call under way."""
        self._fail(ConnectionLostError(str(exc) if exc is not None else _CLOSED))

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


async def _addresses(server: Host) -> Sequence[str]:
    """Return the addresses of a host, the preferred one first."""
    if _is_address(server.name):
        return [server.name]
    found = await asyncio.get_running_loop().getaddrinfo(server.name, server.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(_with_scope(address) for *_, address in found))


def _is_address(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, name)
            return True
    return False


def _with_scope(address: Sequence[Any]) -> str:
    """Return an address with the network interface of a link-local one."""
    name, _, *more = address
    return f"{name}%{more[1]}" if more and more[1] else name


def _not_connected(server: Host | str, error: Exception) -> str:
    number, *rest = error.args or (type(error).__name__,)
    return f"Error {number} connecting to {server}." + (f" {rest[0]}." if rest else "")


_connections = weakref.WeakSet[ServerConnection]()
"""All connections of this process."""


def _part_all_from_parent() -> None:
    for connection in list(_connections):
        connection.part_from_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_part_all_from_parent)
