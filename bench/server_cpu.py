"""The CPU time that a Redis or Valkey server spends on the scripts of a store."""

import statistics
from collections.abc import Sequence
from itertools import pairwise

from peerjob.store.base import Store
from peerjob.store.lua.client.driver import Driver
from peerjob.store.lua.scripts.script import Call, Reply
from peerjob.store.lua.store import LuaStore


class ServerCpu:
    """Meters a store's scripts: the total so far, and the longest run of each script."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._run = driver.run
        self._idle_ms = 0.0
        self.spent_ms = 0.0
        self.longest_ms: dict[str, float] = {}
        driver.run = self._metered  # type: ignore[method-assign]

    @classmethod
    def of(cls, store: Store) -> "ServerCpu | None":
        """None for a store without scripts."""
        return cls(store._driver) if isinstance(store, LuaStore) else None  # pyright: ignore[reportPrivateUsage]

    async def calibrate(self) -> None:
        """Measure the CPU time of one reading, which is subtracted from each later measurement."""
        readings = [await self._read() for _ in range(21)]
        self._idle_ms = statistics.median(later - earlier for earlier, later in pairwise(readings))

    async def _read(self) -> float:
        info = await self._driver.info()
        return 1000 * sum(float(info[f"used_cpu_{what}_main_thread"]) for what in ("user", "sys"))

    async def _metered(self, *calls: Call) -> list[Reply]:
        before = await self._read()
        replies: Sequence[Reply] = await self._run(*calls)
        spent = max(0.0, await self._read() - before - self._idle_ms)
        self.spent_ms += spent
        name = "+".join(name for name, _ in calls)
        self.longest_ms[name] = max(self.longest_ms.get(name, 0), spent)
        return list(replies)
