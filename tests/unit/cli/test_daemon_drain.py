"""Which process `jobd drain` takes without --pid, and when it stops waiting."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from peerjob import OptionError
from peerjob.cli.daemon.drain import only_daemon, wait_until_drained
from support.servers import free_port

DAEMON = b"/usr/bin/python3\0/usr/local/bin/jobd\0run\0--jobs\0app.jobs\0"
OTHERS = {1: b"/sbin/init\0", 7: b"/usr/bin/python3\0/usr/local/bin/jobd\0drain\0", 8: b"", 9: b"vim\0jobd\0"}


def proc(tmp_path: Path, processes: dict[int, bytes]) -> Path:
    for pid, words in processes.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(words)
    (tmp_path / "10").mkdir()  # a process that has just ended
    return tmp_path


@pytest.mark.parametrize(
    ("daemons", "pid"), [([30], 30), ([1], 1), ([1, 30], 1)], ids=["the only one", "a container", "process 1"]
)
def test_it_takes_the_only_daemon_or_process_1(tmp_path: Path, daemons: list[int], pid: int) -> None:
    assert only_daemon(proc(tmp_path, OTHERS | dict.fromkeys(daemons, DAEMON))) == pid


@pytest.mark.parametrize(("daemons", "found"), [([], "there is none that"), ([30, 31], "there are several: 30, 31")])
def test_without_exactly_one_daemon_it_asks_for_the_process_id(tmp_path: Path, daemons: list[int], found: str) -> None:
    with pytest.raises(OptionError, match=f"--pid: expected the process id of a jobd run .{found}"):
        only_daemon(proc(tmp_path, OTHERS | dict.fromkeys(daemons, DAEMON)))


@pytest.mark.parametrize("left_by_its_parent", [False, True])
def test_a_daemon_that_has_ended_is_not_waited_for(
    left_by_its_parent: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor one whose end its parent has not yet read."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if not left_by_its_parent:
        process.wait()
    try:
        assert wait_until_drained(process.pid, "127.0.0.1", free_port(), 30, time.monotonic() + 30) == 0
    finally:
        process.wait()
    assert capsys.readouterr().out == "the daemon has ended\n"
