"""Where a file may be: checks before SQLite touches it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from peerjob.model.errors import OptionError

from .address import parse_address

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "glusterfs", "lustre"),
        *("gfs2", "ocfs2", "gpfs", "beegfs", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs"),
        *("fuse.rclone", "fuse.gcsfuse", "fuse.davfs2"),
    )
)
_REAL_FILE = "a path in a folder that exists"


def check_location(path: Path) -> None:
    """Raise OptionError if the file cannot be there."""
    folder = path.parent
    check_mount(path)
    try:
        status = folder.stat()
    except OSError as error:
        raise OptionError("store", str(path), f"{_REAL_FILE} ({folder}: {error.strerror})") from None
    if not stat.S_ISDIR(status.st_mode):
        raise OptionError("store", str(path), f"{_REAL_FILE} ({folder} is no folder)")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError("store", str(path), f"a path in a folder that this user may write; {folder} is read-only")
    _check_file(path)


def check_location_of(url: str) -> None:
    """Raise OptionError if the file of a store cannot be there."""
    path = parse_address(url).path
    check_mount(path)  # before a link is followed, which may take forever there
    check_location(real_path(path))


def real_path(path: Path) -> Path:
    """The path without symbolic links; raises OptionError for links that lead to themselves."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        # Python before 3.13 raises RuntimeError for a loop
        raise OptionError("store", str(path), f"{_REAL_FILE} ({error})") from None


def file_at(url: str) -> tuple[Path, bool]:
    """The file of a store, without symbolic links, and whether it exists; raises OptionError if that is hidden."""
    path = real_path(parse_address(url).path)
    try:
        return path, path.exists()
    except OSError as error:
        raise OptionError("store", str(path), f"a file that this user may read ({error.strerror})") from None


def check_mount(path: Path) -> None:
    """Raise OptionError for a file on a network file system; reads no folder, which may take forever there."""
    kind = file_system_of(path.parent, _mounts())
    if kind in _NETWORK:
        expected = f"a file on a disk of this machine, since {kind} shares no memory between processes"
        raise OptionError("store", str(path), expected)


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        # from Python 3.13 on, `real_path` leaves a loop of links to this check
        expected = _REAL_FILE if error.errno == errno.ELOOP else "a file that this user may read"
        raise OptionError("store", str(path), f"{expected} ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise OptionError("store", str(path), "a file, not a folder or a device")
    if status.st_nlink > 1:
        # the log of SQLite is named after the path, so two names of one file have two logs
        raise OptionError("store", str(path), f"a file with one name; this one has {status.st_nlink} hard links")
    if not os.access(path, os.R_OK | os.W_OK):
        raise OptionError("store", str(path), "a file that this user may read and write")


def file_system_of(folder: Path, mounts: str) -> str:
    """The kind of the file system of a folder, from the text of `/proc/self/mountinfo`; "" if it is unknown."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        point = Path(fields[4].replace(r"\040", " ").replace(r"\011", "\t").replace(r"\134", "\\"))
        # of several mounts at one point, the last one is on top
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind


def _mounts() -> str:
    try:
        return _MOUNTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
