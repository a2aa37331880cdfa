"""The lock file of a SQLite store is closed once: a child of a fork closes what it has inherited."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peerjob.store.sqlite.write_lock import WriteLock, user_of_another_file

USE = """
import sys
from pathlib import Path
from peerjob.store.sqlite.write_lock import WriteLock

lock = WriteLock(Path(sys.argv[1]))
lock.use(int(sys.argv[2]))
print("uses", flush=True)
sys.stdin.read()
"""


def test_a_second_close_leaves_a_file_alone_that_got_the_number(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path / "jobs")
    lock.close()
    reading, writing = os.pipe()
    lock.close()
    os.write(writing, b"x")
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("other", [6, 8])
def test_the_user_of_another_file_is_found(tmp_path: Path, other: int) -> None:
    path = tmp_path / "jobs"
    command = [sys.executable, "-c", USE, str(path), str(other)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "uses\n"
        assert user_of_another_file(path, 7) == process.pid
        assert user_of_another_file(path, other) is None
        assert user_of_another_file(path, None) == process.pid
        process.stdin.close()
