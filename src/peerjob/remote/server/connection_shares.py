"""Closes connections of an address that has too many, since gRPC itself only limits their number in all.

gRPC tells nothing of a connection that has no calls. So the sockets of this process are read, twice a second, and only
if it has more open files than one address may have connections.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from peerjob.cluster.role import BackgroundRole
from peerjob.model.clock import Clock
from peerjob.model.shares import LimitLog
from peerjob.model.trusted_proxies import TrustedProxies, network_of

INTERVAL = 0.5
"""The seconds between two looks at the connections."""
LEAST_SHARE = 16
"""The connections that each address may have, also where the limit of all is low."""
FILES = Path("/dev/fd")

logger = logging.getLogger("peerjob.server")


class _Connection(NamedTuple):
    file: int
    inode: int
    address: str


class ConnectionShares(BackgroundRole):
    """Leaves each address half of the `most` connections to a port, and logs when a limit is met.

    Trusted proxies have no such limit, as many callers share them. A process with a default timeout of sockets is left
    alone: Python would change the mode of each socket at which this class looks.
    """

    name = "connections"

    def __init__(self, clock: Clock, *, port: Callable[[], int], most: int, proxies: TrustedProxies) -> None:
        super().__init__(clock)
        self._port = port
        self._most = most
        self._share = max(LEAST_SHARE, most // 2)
        self._proxies = proxies
        self._limits = LimitLog(logger, clock)
        self._known: dict[int, None] = {}
        """The connections of the last look by their inode, the oldest first."""

    async def run(self) -> None:
        while True:
            await self.pause(INTERVAL)
            self.check()

    def check(self) -> None:
        """Close the latest connections of each address that has more than its share."""
        try:
            files = [int(file) for file in os.listdir(FILES)]  # noqa: PTH208  # a Path for each file takes ten times as long
        except OSError:
            return
        if len(files) <= self._share or socket.getdefaulttimeout() is not None:
            self._known.clear()
            return
        port = self._port()
        connections = [connection for file in files if (connection := _connection(file, port)) is not None]
        if len(connections) >= self._most:
            self._limits.warn("all", "the server has %d connections and closes further ones at once", len(connections))
        age = {inode: number for number, inode in enumerate(self._known)}
        connections.sort(key=lambda connection: age.get(connection.inode, len(age)))
        self._known = dict.fromkeys(connection.inode for connection in connections)
        held: dict[str, int] = {}
        for connection in connections:
            caller = network_of(connection.address)
            held[caller] = held.get(caller, 0) + 1
            if held[caller] > self._share and not self._proxies.trusts(connection.address):
                self._limits.warn(
                    "address",
                    "the server closes connections from %s: one address may have %d of %d; if it is a proxy, trust it",
                    caller,
                    self._share,
                    self._most,
                )
                _close(connection, port)


def _connection(file: int, port: int) -> _Connection | None:
    """The connection of a file to a port; None if the file is another one, or is closed by now."""
    try:
        info = os.fstat(file)
        if not stat.S_ISSOCK(info.st_mode):
            return None
        with _copy(file) as copy:
            if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.getsockname()[1] != port:
                return None
            return _Connection(file, info.st_ino, str(copy.getpeername()[0]))
    except OSError:
        return None


def _copy(file: int) -> socket.socket:
    """A second file of a socket, which cannot become another socket while this process looks at it."""
    copied = os.dup(file)
    try:
        return socket.socket(fileno=copied)
    except OSError:
        os.close(copied)
        raise


def _close(given: _Connection, port: int) -> None:
    """End a connection, unless it has ended by itself. gRPC then closes its file."""
    with contextlib.suppress(OSError), _copy(given.file) as copy:
        if copy.getsockname()[1] == port and os.fstat(copy.fileno()).st_ino == given.inode:
            copy.shutdown(socket.SHUT_RDWR)
