"""What runs at a time, counted in the bodies of jobs."""

import asyncio
from collections import Counter, defaultdict
from typing import Any

from peerjob.testing.clock import VirtualClock


class Inside:
    """What runs at a time, by name, counted in the bodies; and when each began."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.starts: dict[str, list[float]] = defaultdict(list)
        self.order: list[tuple[str, Any]] = []

    async def run(self, name: str, seconds: float, what: Any = None) -> None:
        self.now[name] += 1
        self.most[name] = max(self.most[name], self.now[name])
        self.starts[name].append(self.clock.elapsed())
        self.order.append((name, what))
        try:
            await asyncio.sleep(seconds)
        finally:
            self.now[name] -= 1
