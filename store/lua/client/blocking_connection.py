"""A connection to a server for threads without an event loop: a call blocks its thread."""

from __future__ import annotations

import os
import socket
import time
import weakref
from typing import Any

from .announced import ReplyReader
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

    def call(self, packed: bytes, count: int, timeout: float) -> list[Any]:
        """Send commands, and return a reply for each; errors of the server are replies.

        Raises DisconnectedError, ProtocolError, and OSError, also if the replies take more than `timeout` seconds.
        After an error, end the connection.
        """
        self._socket.sendall(packed)
        replies: list[Any] = []
        self._read(replies)
        if len(replies) < count:
            until = time.monotonic() + timeout
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
