"""Which users of the machine may read and write the files of a store.

A new file belongs to its owner alone, with any umask. What peerjob and SQLite keep beside a file follows the
rights of that file: a file that a group shares works for the whole group.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

OWNER_ONLY = 0o600
_SETTINGS = 0o7000
"""The bits above the rights, such as the one that gives new files the group of their folder."""


def create_file(path: Path) -> None:
    """Make an empty file that only its owner can read and write; a file that exists stays as it is."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, OWNER_ONLY)
    except FileExistsError:
        return
    try:
        os.fchmod(fd, OWNER_ONLY)
    finally:
        # SQLite has no lock on the file yet, which this close would drop
        os.close(fd)


def follow_file(path: Path, file: Path) -> None:
    """Give the lock file or the folder at `path` to the users that may write the store's file.

    Another user only reads the store's file, and a lock that it takes on the lock file would stop all writes.
    """
    with contextlib.suppress(OSError):
        like = file.stat()
        writers = OWNER_ONLY | sum(0o6 << shift for shift in (3, 0) if like.st_mode >> shift & 0o2)
        _follow(path, like, writers | (writers & 0o222) >> 1 if path.is_dir() else writers)


def share_log(file: Path) -> None:
    """Give SQLite's log the group of the file: SQLite gives it the rights only."""
    with contextlib.suppress(OSError):
        like = file.stat()
        for log in log_paths(file):
            _follow(log, like, like.st_mode & 0o666)


def log_paths(file: Path) -> tuple[Path, Path]:
    """The log of SQLite, and the index of the log."""
    return file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")


def _follow(path: Path, like: os.stat_result, rights: int) -> None:
    """Set owner, group and rights. Nothing changes if the path is another user's: that user's processes do it."""
    # by path, since the close of a second descriptor of the file would drop this process's locks
    with contextlib.suppress(OSError):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return
        owner = like.st_uid if os.geteuid() == 0 else status.st_uid
        if (status.st_uid, status.st_gid) != (owner, like.st_gid):
            try:
                os.chown(path, owner, like.st_gid, follow_symlinks=False)
            except OSError:
                # this user is not in the group of the file, and must not give these rights to another group
                rights &= ~0o070
        if status.st_mode & 0o777 != rights:
            path.chmod(status.st_mode & _SETTINGS | rights)
