"""What bodies wrote down about their own runs, to be compared with what the store recorded."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.stalls import Span

NOTICED_US = 1_000_000
"""How long after a stall a node may need to notice that it has lost its lease."""


@dataclass(kw_only=True)
class Run:
    """One run of a body, in microseconds of the machine's clock; no end: its process was killed."""

    fence: int
    host: str
    pid: int
    begin_us: int
    end_us: int | None = None


def read_journal(path: Path) -> dict[str, list[Run]]:
    """The runs of each instance, in the order in which they began."""
    runs: dict[str, list[Run]] = defaultdict(list)
    for line in path.read_text().splitlines():
        id, fence, host, pid, what, at = line.split()
        if what == "begin":
            runs[id].append(Run(fence=int(fence), host=host, pid=int(pid), begin_us=int(at)))
        else:
            (begun,) = (run for run in runs[id] if (run.fence, run.host, run.pid) == (int(fence), host, int(pid)))
            begun.end_us = int(at)
    return runs


def end_of(run: Run, stood_still: Iterable[Span]) -> int | None:
    """When a run ended, or its process stood still with it: until it is run again, it cannot know of a lost lease."""
    end_us = run.end_us
    if end_us is not None:
        for begin_us, over_us in sorted(stood_still, reverse=True):
            if run.begin_us < over_us and begin_us < end_us <= over_us + NOTICED_US:
                end_us = max(begin_us, run.begin_us)
    return end_us


def check_one_owner(
    runs: Mapping[str, list[Run]],
    ended_us: Callable[[Run], int | None],
    stood_still: Callable[[int], Iterable[Span]] = lambda pid: (),
) -> None:
    """ONE-OWNER, from the bodies' side: fences grow, and no run begins before the one before it has ended.

    `ended_us` gives the time at which the process of a run was killed or frozen; `stood_still`, pauses of a process.
    """
    for id, each in runs.items():
        for before, after in itertools.pairwise(each):
            assert after.fence > before.fence, (id, each)
            moments = [
                moment for moment in (end_of(before, stood_still(before.pid)), ended_us(before)) if moment is not None
            ]
            assert moments, (id, each)
            assert after.begin_us >= min(moments), (id, each)
