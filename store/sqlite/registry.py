"""The files that this process has open, each once.

A fork waits until no thread is inside a call of SQLite. The child then closes its copies, because they would believe
that they hold the locks of the parent, and opens the files itself.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from peerjob.model.clock import Clock

from .location import check_mount, real_path
from .thread import FileThread


class FileRegistry:
    """The threads of this process's files, by path."""

    def __init__(self) -> None:
        self._threads: dict[Path, FileThread] = {}
        self._lock = threading.Lock()
        self._is_parked = False
        os.register_at_fork(before=self._park, after_in_parent=self._resume, after_in_child=self._forget)

    def acquire(self, path: Path, url: str, clock: Clock) -> FileThread:
        """The thread of a file, for one more user; raises OptionError for a file on a network file system."""
        check_mount(path)
        path = real_path(path)
        with self._lock:
            self._threads = {at: thread for at, thread in self._threads.items() if thread.users or thread.is_alive}
            known = self._threads.get(path)
            if known is None or not known.users:
                known = self._threads[path] = FileThread(path, url, clock, known)
            known.users += 1
            return known

    def release(self, thread: FileThread) -> bool:
        """One user less; True if that was the last one, who then ends the thread."""
        with self._lock:
            thread.users -= 1
            return thread.users == 0

    def _park(self) -> None:
        self._lock.acquire()
        self._is_parked = True
        for thread in self._threads.values():
            thread.park()

    def _resume(self) -> None:
        if not self._is_parked:
            return  # this module was imported while the fork waited for another library
        self._is_parked = False
        for thread in self._threads.values():
            thread.resume()
        self._lock.release()

    def _forget(self) -> None:
        for thread in self._threads.values():
            thread.abandon()
        self._threads = {}
        self._is_parked = False
        self._lock = threading.Lock()


FILES = FileRegistry()
