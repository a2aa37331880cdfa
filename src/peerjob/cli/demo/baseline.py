"""The same count in one process, to hold the cluster's totals against.

It goes on beside the cluster at a low priority, and uses what the cluster leaves idle while it waits for a lease to
run out.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Self

from .children import Child, end_with_demo
from .corpus import Count, count_files

NICENESS = 10


class Baseline:
    """A count under way in one process."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._child = Child("the count in one process", "baseline", answers=True)

    async def start(self) -> None:
        await self._child.tell(json.dumps(self._paths))

    async def count(self) -> Count:
        """What it counted, once it is done; raises DemoError."""
        return Count(**json.loads(await self._child.answer()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._child.close()


def main() -> None:
    """The process: a line with paths in, a line with their count out."""
    os.nice(NICENESS)
    paths = json.loads(sys.stdin.buffer.readline())
    end_with_demo()
    print(json.dumps(asdict(count_files(paths))), flush=True)


if __name__ == "__main__":
    main()
