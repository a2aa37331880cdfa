"""The file to which each body appends 16 bytes."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# as in programs/common.py, which runs in other venvs
MARK = struct.Struct("<IId")
LATENCY = 1_000_000
SKIPPED = 0.1
"""The part of the jobs that run before the clock starts, while the workers start."""


class Mark(NamedTuple):
    job: int
    pid: int
    at: float
    """By the monotonic clock, in seconds."""


class Marks:
    """The marks of one measurement."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clear()

    def clear(self) -> None:
        """Forget all marks; the programs append to the same file."""
        self.path.touch()
        with self.path.open("r+b") as file:
            file.truncate(0)

    def __len__(self) -> int:
        return self.path.stat().st_size // MARK.size

    def read(self) -> list[Mark]:
        """All marks, in the order of their times."""
        return sorted((Mark(*one) for one in MARK.iter_unpack(self.path.read_bytes())), key=lambda mark: mark.at)

    def wait(self, count: int, patience: float) -> bool:
        """Wait until so many are there; False after `patience` seconds without a new one."""
        seen, since = len(self), time.monotonic()
        while seen < count:
            time.sleep(0.002)
            if (now := len(self)) > seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() > since + patience:
                return False
        return True


def rate(marks: Sequence[Mark], *, processes: int) -> float:
    """Jobs per second after the start: the first tenth, and what ran before the last of the processes began."""
    firsts: dict[int, int] = {}
    for index, mark in enumerate(marks):
        firsts.setdefault(mark.pid, index)
    begin = int(len(marks) * SKIPPED)
    if len(firsts) == processes:
        begin = max(begin, *firsts.values())
    begin = min(begin, len(marks) - 2)
    return (len(marks) - 1 - begin) / (marks[-1].at - marks[begin].at)
