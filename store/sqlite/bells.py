"""Wakes other processes: each one has a Unix socket beside the file.

A process gets a message when another one has put a key that it watches. A message carries nothing: its receiver reads
the keys. A lost message costs up to a second, because each process also looks once a second whether another one has
written.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from pathlib import Path

from .rights import follow_file

_LOGGER = logging.getLogger("peerjob.store")
_FD_PATH = "/proc/self/fd"
_GONE = (errno.ECONNREFUSED, errno.ENOENT)


class Bells:
    """The socket of this process, and those of its peers.

    On a file system without sockets, nothing rings.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        """The name of this process's socket, in the folder of all sockets; "" if there is no socket."""
        self._folder = path.with_name(f"{path.name}-hints")
        self._fd = -1
        self.socket: socket.socket | None = None
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            follow_file(self._folder, path)
            self._fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.socket.setblocking(False)
            self.socket.bind(self._address(name))
            # the folder decides which users reach the socket; without this, a peer of the group looks once a second
            with contextlib.suppress(OSError):
                Path(self._address(name)).chmod(0o666)
        except OSError as error:
            _LOGGER.info("no hints between processes beside %s, so they look once a second: %s", path, error)
            self.close()

    def ring(self, name: str) -> bool:
        """Wake the process with this socket; False if the process has ended."""
        if self.socket is None:
            return True
        try:
            self.socket.sendto(b"\0", self._address(name))
        except OSError as error:
            if error.errno not in _GONE:
                return True
            self._remove(name)
            return False
        return True

    def heard(self) -> bool:
        """Take all messages; whether there was one."""
        any_heard = False
        if self.socket is not None:
            with contextlib.suppress(OSError):
                while True:
                    self.socket.recv(16)
                    any_heard = True
        return any_heard

    def close(self) -> None:
        if self.socket is not None:
            self._remove(self.name)
        self.abandon()

    def abandon(self) -> None:
        """Close the copy of a child; the parent keeps the socket."""
        if self.socket is not None:
            self.socket.close()
        if self._fd >= 0:
            os.close(self._fd)
        self.socket, self._fd, self.name = None, -1, ""

    def _address(self, name: str) -> str:
        # the kernel accepts about 100 bytes of path, so a long path goes over the open folder
        path = f"{self._folder}/{name}"
        return path if len(os.fsencode(path)) < 100 else f"{_FD_PATH}/{self._fd}/{name}"

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / name).unlink()
