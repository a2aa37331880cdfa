"""Deletes final instances whose retention is over. Commits delete them too, but only while instances end.

The leader also checks the admissions of key limits and the needs of waiting instances, some pages at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from peerjob.model.clock import Clock
from peerjob.store.base import Store

from .batch_size import BatchSize
from .role import BackgroundRole

PERIOD = 30.0
"""Seconds between two searches of the leader."""
FOLLOWER_PERIOD = 300.0
"""Seconds between two searches of any other node. On Redis and Valkey, a search reads all kinds of the namespace, so
one node is enough. The others search too, because a namespace can be without a leader."""
JITTER = 0.5
BATCH = 500
CHECKING = 0.25
"""Seconds after which the leader leaves further pages of a check to its next search."""
_Check = Callable[[str | None], Awaitable[tuple[int, str | None]]]


class RetentionRole(BackgroundRole):
    """Deletes in steps of limited size: the leader about every half minute, any other node every five minutes.

    `is_leader` says whether this node leads now.
    """

    name = "retention"

    def __init__(self, *, clock: Clock, store: Store, is_leader: Callable[[], bool]) -> None:
        super().__init__(clock)
        self._store = store
        self._is_leader = is_leader
        self._steps = BatchSize(BATCH)
        self._checked_to: dict[str, str | None] = {}

    async def run(self) -> None:
        while True:
            began = self.clock.elapsed()
            await self.pause(PERIOD, JITTER)
            if not self._is_leader():
                until = began + self.spread(FOLLOWER_PERIOD, JITTER)
                while not self._is_leader() and self.clock.elapsed() < until:
                    await self.pause(PERIOD, JITTER)
            while await self._steps.step(self._filled):
                pass
            await self._check("limits", self._store.check_limits)
            await self._check("needs", self._store.check_needs)

    async def _check(self, what: str, check: _Check) -> None:
        """Check pages, from where the last call ended: to the last page, but for a short time only."""
        until = self.clock.elapsed() + CHECKING
        while self._is_leader():
            _, self._checked_to[what] = await check(self._checked_to.get(what))
            if self._checked_to[what] is None or self.clock.elapsed() >= until:
                return

    async def _filled(self, limit: int) -> bool:
        """Delete up to `limit` instances; True if more may be left."""
        return await self._store.expire(limit) == limit
