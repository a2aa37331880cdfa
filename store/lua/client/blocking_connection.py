"""A connection to a server for threads without an event loop: a call blocks its thread."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import time
import weakref
from typing import Any

from .announced import ReplyReader
from .connection import pack
from .connection_options import ConnectionOptions
from .credentials import Given
from .replies import DisconnectedError, ProtocolError

_READ_BYTES = 65_536
_TIMEVAL = struct.Struct("ll")
"""A `struct timeval`: seconds, and microseconds."""


class BlockingConnection:
    """An open connection with at most one call under way, of any thread."""

    def __init__(self, sock: socket.socket, peer: object, given: Given) -> None:
        self.peer = peer
        """The server, and its address."""
        self.given = given
        """The credentials that the server accepted."""
        self._socket = sock
        self._reader = ReplyReader()
        self._is_encrypted = isinstance(sock, ssl.SSLSocket)
        self._arrived = select.poll()
        self._arrived.register(sock, select.POLLIN)
        _connections.add(self)

    def limit(self, seconds: float) -> None:
        """Let each read and write end after this time; necessary before the first call."""
        if self._is_encrypted:
            self._socket.settimeout(seconds)
            return
        # the kernel measures the time: for a timeout of the socket, Python would wait by a call of its own
        limit = _TIMEVAL.pack(int(seconds), max(1, int(seconds % 1 * 1_000_000)))
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def sign_in(self, options: ConnectionOptions, timeout: float) -> None:
        """Sign in, name the connection, and select the database; raises what `call` raises."""
        self.limit(timeout)
        commands = [("AUTH", *self.given)] if self.given[-1] else []
        commands.append(("CLIENT", "SETNAME", options.name))
        if options.db:
            commands.append(("SELECT", str(options.db)))
        replies = self.call(b"".join(map(pack, commands)), len(commands), timeout)
        refused = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if refused is not None:
            raise DisconnectedError(str(refused)) from refused

    @property
    def is_usable(self) -> bool:
        """Whether the connection is open, and the server has sent nothing since the last call."""
        if self._reader.has_rest:
            return False
        return not self._arrived.poll(0) or (self._is_encrypted and self._has_only_tickets())

    def _has_only_tickets(self) -> bool:
        """Whether an encrypted connection is open, and has got no data, but only messages of TLS itself."""
        timeout = self._socket.gettimeout()
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except ssl.SSLWantReadError:
            self._socket.settimeout(timeout)
            return True
        except OSError:
            pass
        return False

    def call(self, packed: bytes, count: int, timeout: float) -> list[Any]:
        """Send commands, and return a reply for each; errors of the server are replies.

        Raises DisconnectedError, ProtocolError, and OSError, also if the replies take more than `timeout` seconds.
        After an error, end the connection.
        """
        until = time.monotonic() + timeout
        replies: list[Any] = []
        try:
            if self._is_encrypted:
                self._socket.sendall(packed)
            elif (sent := self._socket.send(packed)) < len(packed):
                self._send_rest(packed, sent, until)
            self._read(replies)
            while len(replies) < count:
                if time.monotonic() > until:
                    raise TimeoutError
                self._read(replies)
        except (TimeoutError, BlockingIOError):  # the latter, if the kernel measures the time
            raise TimeoutError(f"no complete answer within {timeout:g} s") from None
        if len(replies) > count:
            raise ProtocolError("the server sent a reply to no command")
        return replies

    def _send_rest(self, packed: bytes, sent: int, until: float) -> None:
        rest = memoryview(packed)
        while sent < len(packed):
            if time.monotonic() > until:
                raise TimeoutError
            sent += self._socket.send(rest[sent:])

    def _read(self, replies: list[Any]) -> None:
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise DisconnectedError("Connection closed by server.")
        self._reader.read(data, replies)

    def end(self) -> None:
        """Close the connection at once; idempotent."""
        self._socket.close()


_connections = weakref.WeakSet[BlockingConnection]()
"""All connections of this process."""


def _end_all() -> None:
    """Close the sockets of a forked child, because the parent goes on with its own."""
    for connection in list(_connections):
        connection.end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_all)
