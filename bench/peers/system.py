"""What the kernel says of processes: their children, CPU time and memory; and their priority."""

from __future__ import annotations

import os
import platform
import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PRIORITY = 10


def take_priority() -> bool:
    """Let this process and all that it starts run before the other work of the machine; False if that is refused."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
    except PermissionError:
        return False
    return True


def has_priority() -> bool:
    """Whether this process still has the priority that `take_priority` gave it; an administrator may take it away."""
    return os.sched_getscheduler(0) == os.SCHED_RR


def raise_priority(pid: int) -> None:
    """Let a server run before its clients, if they have a priority."""
    if not has_priority():
        return
    for one in tree([pid]):
        for task in Path(f"/proc/{one}/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(PRIORITY + 1))


def tree(roots: Iterable[int]) -> list[int]:
    """The processes that run among these and all that they started."""
    children: dict[int, list[int]] = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children[int(_stat(path)[1])].append(int(path.parent.name))
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children[pid]
    return [pid for pid in found if Path(f"/proc/{pid}").exists()]


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time of processes, of all that they started, and of their children that have ended."""
    ticks = 0
    for pid in tree(roots):
        with suppress(OSError):
            ticks += sum(map(int, _stat(Path(f"/proc/{pid}/stat"))[11:15]))
    return ticks / TICKS


def peak_mib(roots: Iterable[int]) -> float:
    """The most memory that one of these processes, or of those that they started, has used."""
    return max((_kib(f"/proc/{pid}/status", "VmHWM") for pid in tree(roots)), default=0) / 1024


def shared_mib(roots: Iterable[int]) -> float:
    """The memory of all of them at this moment; a page that several share counts once."""
    return sum(_kib(f"/proc/{pid}/smaps_rollup", "Pss") for pid in tree(roots)) / 1024


def _kib(path: str, name: str) -> int:
    with suppress(OSError):
        if found := re.search(rf"^{name}:\s*(\d+) kB", Path(path).read_text(), re.MULTILINE):
            return int(found[1])
    return 0


def _stat(path: Path) -> list[str]:
    """The fields after the name of the program: state, parent and on."""
    return path.read_text().rpartition(")")[2].split()


def machine() -> dict[str, str]:
    """The processor, its cores, the memory, the kernel and the Python."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = _kib("/proc/meminfo", "MemTotal") / 2**20
    kernel = os.uname()
    return {
        "processor": cpu[1] if cpu else kernel.machine,
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{kernel.sysname} {kernel.release.partition('-')[0]}",
        "python": f"Python {platform.python_version()}",
    }
