"""Converts errors of SQLite to errors of peerjob."""

from __future__ import annotations

import sqlite3

from peerjob.model.errors import PeerjobError, StoreError, StoreUnavailableError

_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA)
_PASSING = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PROTOCOL)


def code_of(error: sqlite3.Error) -> int:
    """The extended result code of SQLite; 0 for an error of the module itself."""
    return int(getattr(error, "sqlite_errorcode", 0))


def no_space(error: sqlite3.Error) -> bool:
    """Whether a write failed because the disk, the quota or the largest allowed file is full."""
    return code_of(error) in _FULL


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection holds a lock of the file."""
    return code_of(error) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def translated(error: sqlite3.Error, url: str) -> PeerjobError:
    """Our error for an error of SQLite."""
    code = code_of(error)
    if no_space(error):
        return StoreUnavailableError(url, f"no space is left for the file: {error}")
    if is_busy(error):
        return StoreUnavailableError(url, "another program keeps the file locked")
    if code & 0xFF in _DAMAGED:
        return StoreError(f"the file of the store at {url} is damaged ({error}): replace it with a backup")
    if code & 0xFF in _PASSING:
        return StoreUnavailableError(url, f"{error} ({getattr(error, 'sqlite_errorname', 'SQLite')})")
    return StoreError(f"the store at {url} refused a request: {error}")
