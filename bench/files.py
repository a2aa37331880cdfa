"""A SQLite file to measure on, in place of a server."""

import tempfile
from pathlib import Path
from typing import Self


class SqliteFile:
    """A new file in a folder of its own, on the disk of temporary files."""

    def __init__(self, sync: str) -> None:
        self._sync = sync
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.path = Path(self._folder.name, "peerjob.db")

    def start(self) -> Self:
        return self

    @property
    def url(self) -> str:
        return f"sqlite://{self.path}?sync={self._sync}"

    def close(self) -> None:
        self._folder.cleanup()
