"""The write lock: a lock beside the file, which processes take before SQLite's own lock.

SQLite answers "busy" while another process writes, and does not say which. The kernel knows the holder of this lock,
and frees the lock when the holder dies. A second lock marks the process that writes checkpoints.

A third lock tells which file a process has open: its place in the lock file is the file's inode. A process that still
has a removed or replaced file open shares the log of SQLite, which is named after the path, with the new file.

The locks belong to the process. Any close of the lock file in the process drops them. So only this module opens it, and
`user_of_another_file` only while the process does not have the store open.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from pathlib import Path

from .rights import OWNER_ONLY, follow_file

_FLOCK = struct.Struct("hhqqi4x")
"""`struct flock` of Linux on machines with 64 bits: type, whence, start, length, process id."""
_WRITE, _CHECKPOINTS = 0, 1
_FILES = 16
"""The first of the bytes that stand for inodes."""
_INODES = 1 << 61
"""The number of these bytes; a lock file may be locked at places that it does not have."""


class WriteLock:
    """The locks of one process on one file."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(lock_path(path), flags, OWNER_ONLY)
        follow_file(lock_path(path), path)

    def take(self) -> bool:
        """Take the write lock; False if another process has it."""
        return self._lock(_WRITE)

    def give(self) -> None:
        """Give the write lock back."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _WRITE)

    def lead(self) -> bool:
        """Whether this process writes checkpoints; once it does, it does until it ends."""
        return self._lock(_CHECKPOINTS)

    def use(self, inode: int) -> None:
        """Tell other processes which file this one has open."""
        fcntl.lockf(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _byte_of(inode))

    def holder(self) -> int | None:
        """The process that has the write lock; None if there is none, or if this process cannot see it."""
        return _holder(self._fd, _WRITE, 1) or None

    def close(self) -> None:
        """Close the file; idempotent, because the number can belong to another file by the second call."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True


def user_of_another_file(path: Path, inode: int | None) -> int | None:
    """A process that has open the file that was at this path before this inode; None if there is none.

    It is 0 if this process cannot see the other one. The inode is None if no file exists.
    """
    try:
        fd = os.open(lock_path(path), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        # without a lock file, no process has the store open; any other problem is reported when the file is opened
        return None
    try:
        if inode is None:
            return _holder(fd, _FILES, _INODES)
        byte = _byte_of(inode)
        holder = _holder(fd, _FILES, byte - _FILES) if byte > _FILES else None
        return holder if holder is not None else _holder(fd, byte + 1, _INODES)
    finally:
        os.close(fd)


def _byte_of(inode: int) -> int:
    return _FILES + inode % _INODES


def _holder(fd: int, start: int, length: int) -> int | None:
    """A process that holds a lock on some of these bytes: None if there is none, 0 if this process cannot see it."""
    if sys.platform != "linux":
        return None
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind, *_, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, wanted))
    return max(pid, 0) if kind != fcntl.F_UNLCK else None


def lock_path(path: Path) -> Path:
    """The lock file of a store's file."""
    return path.with_name(f"{path.name}-lock")


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by SIGSTOP or a debugger."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[:1] in (["T"], ["t"])


def described(pid: int | None) -> str:
    """A sentence about the process that has the write lock."""
    if pid is None:
        return "another process is inside a write"
    if is_stopped(pid):
        return f"process {pid} is stopped inside a write: let it go on (kill -CONT {pid}) or kill it"
    return f"process {pid} is inside a write"
