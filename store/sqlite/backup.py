"""A copy of a store's file while its processes run, by SQLite's own backup.

A plain copy would miss what is only in the log of changes, and may catch the file in the middle of a write.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from peerjob.model.errors import OptionError, StoreError
from peerjob.store.url import redact, scheme_of

from .errors import translated
from .file import StoreFile
from .location import file_at
from .rights import create_file


def back_up(url: str, target: Path) -> int:
    """Copy the file of a store into a new file; its size in bytes.

    Raises OptionError for a URL without such a file, and for a target that exists. A process that has the store open
    must not call this.
    """
    if scheme_of(url) != "sqlite":
        raise OptionError("store", redact(url), "the URL of a SQLite file; servers have backups of their own")
    path, exists = file_at(url)
    if not exists:
        raise OptionError("store", str(path), "a file that exists")
    if target.exists():
        raise OptionError("FILE", str(target), "a file that does not exist")
    partial = target.with_name(f".{target.name}.partial")
    try:
        # a copy that was killed can have left one, with the rights of that time
        partial.unlink(missing_ok=True)
        create_file(partial)
    except OSError as error:
        raise OptionError(
            "FILE", str(target), f"a path in a folder that this user may write ({error.strerror})"
        ) from None
    try:
        _copy(path, url, partial)
        partial.replace(target)
    except sqlite3.Error as error:
        raise translated(error, str(target)) from error
    finally:
        partial.unlink(missing_ok=True)
    return target.stat().st_size


def _copy(path: Path, url: str, partial: Path) -> None:
    source = StoreFile(path, url, identity="")
    try:
        with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as copy:
            source.connection.backup(copy)
            # without a log beside it, the copy is one file
            copy.execute("PRAGMA journal_mode = DELETE")
            if (verdict := copy.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
                raise StoreError(f"the file of the store at {url} is damaged ({verdict[0]}): replace it with a backup")
    finally:
        source.close()
