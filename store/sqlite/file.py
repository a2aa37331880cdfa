"""One connection to the file: how it is opened, created and checked, and when its log is copied into it."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from peerjob.model.errors import LayoutError, OptionError, PeerjobError, StoreError, StoreUnavailableError

from .errors import code_of, is_busy, translated
from .location import check_location
from .rights import create_file, share_log
from .write_lock import user_of_another_file

APPLICATION = 0x706A6F62
"""SQLite's application id of our files: "pjob"."""
TABLES = 1
"""The version of the tables that this release writes, as SQLite's user version."""
BUSY = 2.0
"""Seconds for which SQLite itself waits for a lock. Our processes take the write lock first, so they wait here only
while a process opens or closes the file."""
_PAUSE = 0.02
SCHEMA = (
    """CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL, mod INTEGER NOT NULL, lease INTEGER NOT NULL)
    WITHOUT ROWID""",
    "CREATE INDEX kv_lease ON kv (lease) WHERE lease != 0",
    "CREATE TABLE lease (id INTEGER PRIMARY KEY, boot TEXT NOT NULL, ends INTEGER NOT NULL, ttl INTEGER NOT NULL)",
    "CREATE TABLE watch (socket TEXT, prefix TEXT, PRIMARY KEY (socket, prefix)) WITHOUT ROWID",
    """CREATE TABLE store (one INTEGER PRIMARY KEY CHECK (one = 1), identity TEXT NOT NULL, revision INTEGER NOT NULL,
    watches INTEGER NOT NULL, changes INTEGER NOT NULL, copied INTEGER NOT NULL)""",
)
"""The statements that make the tables."""
_SETTINGS = (
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA cache_size = -16000",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA secure_delete = OFF",
)


class StoreFile:
    """An open file of ours. Raises OptionError, LayoutError or StoreError for any other file."""

    def __init__(self, path: Path, url: str, *, identity: str) -> None:
        self.path = path
        self._folder = path.parent
        self._url = url
        check_location(path)
        self._check_users()
        self.connection = _connect(path, url)
        try:
            self._check_owner()
            self._prepare(identity)
            share_log(path)
            status = path.stat()
        except BaseException as error:
            self.connection.close()
            if isinstance(error, sqlite3.Error):
                raise translated(error, url) from error
            raise
        self._file = (status.st_dev, status.st_ino)

    @property
    def identity(self) -> str:
        """The id that the file got when it was created."""
        return str(self.connection.execute("SELECT identity FROM store").fetchone()[0])

    def check_same(self) -> None:
        """Raise StoreError if the path no longer names this file: what is written now would be lost."""
        try:
            status = os.stat(self.path)  # noqa: PTH116  # once for each write, and cheaper than Path.stat
        except FileNotFoundError:
            raise StoreError(f"the file of the store at {self._url} was removed: restart its processes") from None
        except OSError as error:
            raise StoreUnavailableError(self._url, error.strerror or str(error)) from error
        if (status.st_dev, status.st_ino) != self._file:
            raise StoreError(f"the file of the store at {self._url} was replaced: restart its processes")

    def free_bytes(self) -> tuple[int, int]:
        """The free bytes of the file system, and its size."""
        usage = os.statvfs(self._folder)
        return usage.f_bavail * usage.f_frsize, usage.f_blocks * usage.f_frsize

    def checkpoint(self) -> bool:
        """Copy the log into the file, so that the log starts again; False if readers still need the log."""
        busy, frames, copied = self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return not busy and frames == copied

    def another_connection(self) -> sqlite3.Connection:
        """A further connection to this file, with the same settings."""
        connection = _connect(self.path, self._url)
        for setting in _SETTINGS:
            connection.execute(setting)
        return connection

    def close(self) -> None:
        self.connection.close()

    @property
    def inode(self) -> int:
        return self._file[1]

    def _check_users(self) -> None:
        """Raise StoreError while a process has open the file that was at the path before.

        SQLite would mix the changes in its log, which is named after the path, into this file.
        """
        inode = self.path.stat().st_ino if self.path.exists() else None
        user = user_of_another_file(self.path, inode)
        if user is not None:
            who = f"process {user}" if user else "another process"
            raise StoreError(
                f"the file of the store at {self._url} was {'removed' if inode is None else 'replaced'} while {who} "
                f"has it open: stop that process first"
            )

    def _check_owner(self) -> None:
        """Raise OptionError for a file of another application, and LayoutError for one of a newer release.

        This reads only: another application's file stays as it is.
        """
        try:
            (application,) = self.connection.execute("PRAGMA application_id").fetchone()
            (version,) = self.connection.execute("PRAGMA user_version").fetchone()
            (tables,) = self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            if code_of(error) & 0xFF != sqlite3.SQLITE_NOTADB:
                raise
            raise OptionError("store", str(self.path), "a file of peerjob; this one is no SQLite file") from error
        if application != APPLICATION and (application or version or tables):
            raise OptionError("store", str(self.path), "a file of peerjob; this SQLite file is another application's")
        if version > TABLES:
            raise LayoutError(
                f"the file of the store at {self._url} has tables of version {version}, this release has version "
                f"{TABLES}; a newer release writes it: upgrade this node",
                found=version,
                known=TABLES,
            )

    def _prepare(self, identity: str) -> None:
        """Set up the connection, and create the tables in a new file."""
        run = self.connection.execute
        # a new file and a restored backup have another mode, and the mode stays in the file
        (mode,) = run("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"the file system of the store at {self._url} shares no memory between processes")
        if not run("PRAGMA user_version").fetchone()[0]:
            self._create(identity)
        for setting in _SETTINGS:
            run(setting)

    def _create(self, identity: str) -> None:
        run = self.connection.execute
        run("BEGIN IMMEDIATE")
        try:
            # another process may have been faster
            if not run("PRAGMA user_version").fetchone()[0]:
                for statement in SCHEMA:
                    run(statement)
                run("INSERT INTO store VALUES (1, ?, 0, 0, 0, 0)", (identity,))
                run(f"PRAGMA application_id = {APPLICATION}")
                run(f"PRAGMA user_version = {TABLES}")
            run("COMMIT")
        except BaseException:
            run("ROLLBACK")
            raise


def _connect(path: Path, url: str) -> sqlite3.Connection:
    try:
        create_file(path)
        return sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            timeout=BUSY,
        )
    except OSError as error:
        raise OptionError("store", str(path), _creatable(path)) from error
    except sqlite3.Error as error:
        if code_of(error) & 0xFF == sqlite3.SQLITE_CANTOPEN:
            raise OptionError("store", str(path), _creatable(path)) from error
        raise translated(error, url) from error


def _creatable(path: Path) -> str:
    return f"a file that this user may create in {path.parent}"


def opened(path: Path, url: str, *, identity: str, seconds: float) -> StoreFile:
    """The open file. Another process may be creating it, so a busy file is tried again for some seconds."""
    until = time.monotonic() + seconds
    while True:
        try:
            return StoreFile(path, url, identity=identity)
        except PeerjobError as error:
            cause = error.__cause__
            if time.monotonic() > until or not (isinstance(cause, sqlite3.Error) and is_busy(cause)):
                raise
        time.sleep(_PAUSE)
