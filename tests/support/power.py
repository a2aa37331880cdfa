"""A server whose power can be cut: what it has written, but not yet synced to disk, is then gone.

Killing a process is no power cut: what it has written is the kernel's, and survives. So the server runs under strace,
which logs each write and each fsync: the size of the file at the last fsync is on disk for sure.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

from support.waiting import PATIENCE

_CALL = re.compile(r"(?P<thread>\d+) +(?P<call>write|fdatasync|fsync)\(\d+<(?P<file>[^>]+)>(?P<rest>.*)")
_END = re.compile(r"(?P<thread>\d+) +<\.\.\. (?P<call>write|fdatasync|fsync) resumed>(?P<rest>.*)")
_RESULT = re.compile(r"= (\d+)$")


def tracing(strace: str, trace: Path) -> list[str]:
    """The words before a server's command line that `synced_size` needs."""
    return [strace, "-DDD", "-f", "-q", "-y", "-s", "0", "-e", "trace=write,fdatasync,fsync", "-o", str(trace), "--"]


def wait_for_end(trace: Path, pid: int) -> None:
    """Wait until strace has logged the end of a process, and so everything before it."""
    deadline = time.monotonic() + PATIENCE
    while not re.search(rf"^{pid} +\+\+\+ ", trace.read_text(errors="replace"), re.MULTILINE):
        assert time.monotonic() < deadline, f"strace logged no end of {pid}"
        time.sleep(0.01)


def synced_size(trace: Path, file: Path) -> int:
    """How many bytes at the head of a file, which is only ever appended to, are on disk for sure."""
    written = synced = 0
    begun: dict[str, int] = {}
    """Thread → what had been written when its sync began."""
    for thread, call, has_begun, result in _calls(trace, file):
        if call == "write":
            written += result or 0
        elif has_begun:
            begun[thread] = written
        if call != "write" and result == 0:
            synced = max(synced, begun.pop(thread))
    return synced


def _calls(trace: Path, file: Path) -> Iterator[tuple[str, str, bool, int | None]]:
    """Thread, system call, whether this line logs its begin, and its result if the line logs its end."""
    ours: set[tuple[str, str]] = set()
    for line in trace.read_text(errors="replace").splitlines():
        if match := _CALL.match(line):
            if match["file"] != str(file):
                continue
            ours.add((match["thread"], match["call"]))
            has_begun = True
        elif (match := _END.match(line)) and (match["thread"], match["call"]) in ours:
            has_begun = False
        else:
            continue
        ended = _RESULT.search(match["rest"])
        if ended:
            ours.discard((match["thread"], match["call"]))
        yield match["thread"], match["call"], has_begun, int(ended[1]) if ended else None
