"""A connection to a server for threads without an event loop: a call blocks its thread."""

from __future__ import annotations

import os
import socket
import ssl
import time
import weakref
from typing import Any

from .announced import ReplyReader
from .connection import pack
from .connection_options import ConnectionOptions
from .credentials import Given
from .replies import DisconnectedError, ProtocolError

_READ_BYTES = 65_536


class BlockingConnection:
    """An open connection with at most one call under way, of any thread."""

    def __init__(self, sock: socket.socket, peer: object, given: Given) -> None:
        self.peer = peer
        """The server, and its address."""
        self.given = given
        """The credentials that the server accepted."""
        self._socket = sock
        self._reader = ReplyReader()
        _connections.add(self)

    def sign_in(self, options: ConnectionOptions, timeout: float) -> None:
        """Sign in, name the connection, and select the database; raises what `call` raises."""
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
        timeout = self._socket.gettimeout()
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
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
        self._socket.sendall(packed)
        replies: list[Any] = []
        self._read(replies)
        while len(replies) < count:
            if time.monotonic() > until:
                raise TimeoutError(f"no complete answer within {timeout:g} s")
            self._read(replies)
        if len(replies) > count:
            raise ProtocolError("the server sent a reply to no command")
        return replies

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
