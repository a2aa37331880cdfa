"""The lock file of a SQLite store is closed once: a child of a fork closes what it has inherited."""

import os
from pathlib import Path

from peerjob.store.sqlite.write_lock import WriteLock


def test_a_second_close_leaves_a_file_alone_that_got_the_number(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path / "jobs")
    lock.close()
    reading, writing = os.pipe()
    lock.close()
    os.write(writing, b"x")
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.close(writing)
