"""The health of a file as a store of jobs: where it is, how much space it has, and which process is inside a write."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from peerjob.model.findings import Finding, Severity

from .address import parse_address
from .location import check_location, check_mount, real_path
from .rights import log_paths
from .session import reserve_of
from .write_lock import WriteLock, described, is_stopped, lock_path

_PATIENCE = 1.0
"""Seconds for which the write lock may be taken before that is a finding; a write takes some milliseconds."""
_PAUSE = 0.01


def diagnose_sqlite(url: str) -> list[Finding]:
    """See `peerjob.store.drivers.diagnose`; blocks for up to a second."""
    address = parse_address(url)
    check_mount(address.path)
    # the lock file is beside the real file
    path = real_path(address.path)
    check_location(path)
    kept = "each write waits for the disk" if address.sync == "full" else "a power cut can lose the last writes"
    findings = [Finding("file", Severity.OK, f"{path}, {_size(path)}; sync={address.sync}: {kept}")]
    findings.append(_space(path))
    findings.extend(_rights(path))
    if lock_path(path).exists():
        findings.append(_writer(path))
    return findings


def _size(path: Path) -> str:
    with contextlib.suppress(OSError):
        return f"{path.stat().st_size:,} bytes"
    return "not created yet"


def _space(path: Path) -> Finding:
    usage = os.statvfs(path.parent)
    free, reserve = usage.f_bavail * usage.f_frsize, reserve_of(usage.f_blocks * usage.f_frsize)
    text = f"{free:,} bytes are free"
    if free < reserve:
        return Finding("space", Severity.FAIL, f"{text}: new instances are refused below {reserve:,}")
    return Finding("space", Severity.WARN if free < 4 * reserve else Severity.OK, text)


def _rights(path: Path) -> list[Finding]:
    """Files that all local users may read or write. A group has its rights because an administrator gave them."""
    files = [file for file in (path, *log_paths(path), lock_path(path)) if file.exists()]
    for right, verb, verdict in ((0o002, "write", Severity.FAIL), (0o004, "read", Severity.WARN)):
        exposed = [file.name for file in files if file.stat().st_mode & right]
        if exposed:
            can = f"all users of this machine can {verb} {' '.join(exposed)}"
            return [Finding("rights", verdict, f"{can}, and with a lock stop all writes; chmod o-rw")]
    return []


def _writer(path: Path) -> Finding:
    try:
        lock = WriteLock(path)
    except OSError as error:
        return Finding("writer", Severity.FAIL, f"cannot open {lock_path(path)}: {error.strerror}")
    try:
        until = time.monotonic() + _PATIENCE
        holder = None
        while not lock.take():
            holder = lock.holder()
            if (holder is not None and is_stopped(holder)) or time.monotonic() > until:
                return Finding("writer", Severity.FAIL, f"{described(holder)}; all other writes wait for it")
            time.sleep(_PAUSE)
    finally:
        lock.close()
    return Finding("writer", Severity.OK, "no process is stuck inside a write")
