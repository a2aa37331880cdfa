"""How much processor time something takes."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def least_seconds(work: Callable[[], object], times: int = 5) -> float:
    """The least processor time of this thread in which the work was done: garbage is collected in any one of them."""

    def once() -> float:
        begin = time.thread_time()
        work()
        return time.thread_time() - begin

    return min(once() for _ in range(times))


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far, all of its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
