"""Connections of redis-py: it opens sockets, TLS and Unix sockets, and signs in. Then a protocol has the stream.

redis-py has no public call that hands over the stream of a connection. This module alone uses its private names:
`_reader`, `_writer` and `_connection_arguments`, and `_sock` and `_wrap_socket_with_ssl` of its blocking classes. A
test fails if a release of redis-py renames one of them.
"""

from __future__ import annotations

import asyncio
import socket
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from ssl import SSLContext, SSLSocket
from typing import Any, cast

from redis import connection as blocking
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from peerjob.store.lua.scripts.script import Argument
from peerjob.store.url import Host

from .connection_options import ConnectionOptions
from .credentials import Given
from .replies import CallTimeoutError, not_connected


class StreamOwner(asyncio.Protocol):
    """A protocol of asyncio that takes over the stream of an open connection."""

    @abstractmethod
    def take(self, stream: asyncio.StreamWriter, early: bytes) -> None:
        """Take the stream; `early` is what the server sent already."""

    @abstractmethod
    def send(self, commands: Sequence[tuple[Argument, ...]], deadline: float) -> Awaitable[list[Any]]:
        """Send commands; the replies include the server's errors as values."""

    @abstractmethod
    def end(self) -> None:
        """Close the connection at once."""


class _HandedOver(AbstractConnection):
    """A connection of redis-py whose owner takes the stream before the sign-in.

    So the limits of time and size of the owner hold for the sign-in, and the server's errors keep their codes.
    """

    owner: StreamOwner
    deadline: float
    _unsent: list[tuple[Argument, ...]]
    _unread: deque[Any]

    async def on_connect(self) -> None:
        """Do nothing: `connect` signs in, and redis-py would sign in on a Unix socket a second time."""

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Hand over the stream, then sign in."""
        reader, stream = self._reader, self._writer
        assert reader is not None, "the connection is open"
        assert stream is not None, "the connection is open"
        self._reader = self._writer = None  # redis-py warns of each connection that it still has at its end
        self._unsent, self._unread = [], deque()
        stream.transport.set_protocol(self.owner)
        if reader.at_eof():
            stream.transport.abort()
        reader.feed_eof()  # no protocol feeds it any more: `read` returns what it has, and waits for nothing
        self.owner.take(stream, await reader.read())
        await super().on_connect_check_health(check_health=False)

    async def send_command(self, *words: Any, **_: Any) -> None:
        """Keep a command until its reply is wanted."""
        self._unsent.append(words)

    async def read_response(self, *_: Any, **__: Any) -> Any:
        """Send the commands that are kept, and return the next reply; raises ServerError."""
        if not self._unread:
            commands, self._unsent = self._unsent, []
            self._unread.extend(await self.owner.send(commands, self.deadline))
        reply = self._unread.popleft()
        if isinstance(reply, Exception):
            raise reply
        return reply


class _Plain(_HandedOver, Connection):
    pass


class _Unix(_HandedOver, UnixDomainSocketConnection):
    pass


class _Encrypted(_HandedOver, SSLConnection):
    """A connection to one address of a host, whose certificate has the name of the host."""

    name: str

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = cast("Mapping[str, Any]", super()._connection_arguments())  # pyright: ignore[reportUnknownMemberType]
        return {**arguments, "server_hostname": self.name}


async def connect(
    owner: StreamOwner,
    server: Host | str,
    address: str,
    options: ConnectionOptions,
    given: Given,
    tls: SSLContext | None,
    deadline: float,
) -> None:
    """Connect to one address of a host, or to the path of a socket, and sign in; then the owner has the connection.

    Raises DisconnectedError, CallTimeoutError, and ServerError if the server refuses the connection.
    """
    connection = _made(server, address, options, given)
    connection.owner, connection.deadline = owner, deadline
    if isinstance(connection, _Encrypted):
        connection.name = server.name if isinstance(server, Host) else address
        connection.ssl_context.context = tls
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException as error:
        owner.end()
        if isinstance(error, RedisError | OSError) and not isinstance(error, CallTimeoutError):
            raise not_connected(server, error.__cause__ or error.__context__ or error) from error
        raise


def _made(server: Host | str, address: str, options: ConnectionOptions, given: Given) -> _HandedOver:
    *user, password = given
    common: dict[str, Any] = _common(options) | {
        "username": user[0] if user else None,
        "password": password or None,
        "db": options.db,
        "client_name": options.name or None,
    }
    if isinstance(server, str):
        return _Unix(path=address, **common)
    kind = _Plain if options.tls is None else _Encrypted
    return kind(host=address, port=server.port, **common)


def _common(options: ConnectionOptions) -> dict[str, Any]:
    return {
        "protocol": 2,
        "driver_info": None,
        "socket_timeout": None,
        "socket_connect_timeout": options.timeout,
    }


class _BlockingEncrypted(blocking.SSLConnection):
    """A connection to one address of a host, whose certificate has the name of the host."""

    name: str
    context: SSLContext
    until: float

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> SSLSocket:
        sock.settimeout(max(0.001, self.until - time.monotonic()))  # of the whole handshake
        return self.context.wrap_socket(sock, server_hostname=self.name)


def connect_blocking(server: Host | str, address: str, options: ConnectionOptions, timeout: float) -> socket.socket:
    """Connect to one address of a host, or to the path of a socket; for a thread without an event loop.

    It takes at most `timeout` seconds, the handshake of TLS included. The caller sets the timeout of the socket. Raises
    DisconnectedError.
    """
    common = _common(options)
    common |= {"socket_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
    common["socket_connect_timeout"] = min(options.timeout, timeout)
    until = time.monotonic() + timeout
    tls = options.tls_context()
    connection: Any
    if isinstance(server, str):
        connection = blocking.UnixDomainSocketConnection(path=address, **common)  # type: ignore[abstract,no-untyped-call]
    else:
        kind = blocking.Connection if tls is None else _BlockingEncrypted
        connection = kind(host=address, port=server.port, socket_keepalive=True, **common)
        connection.name, connection.context, connection.until = server.name, tls, until
    try:
        connection.connect()
    except RedisError as error:
        raise not_connected(server, error.__cause__ or error.__context__ or error) from error
    sock: socket.socket = connection._sock
    connection._sock = None  # redis-py closes each socket that it still has at its end
    return sock
