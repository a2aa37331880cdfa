"""Reaps: reclaims the claims of dead incarnations, one transaction of the store for each. Every node does it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from peerjob.model.clock import Clock
from peerjob.model.listed import listed
from peerjob.model.record import Reaped
from peerjob.store.base import Store

from .batch_size import BatchSize
from .lease import Lease
from .role import BackgroundRole, wait_set

logger = logging.getLogger("peerjob.cluster")

BATCH = 100
SPREAD = 0.4
"""Most intervals of renewals from the end of a lease to the look for dead peers."""
MIN_WAIT = 0.001
"""Least seconds of a wait: a shorter one may end before its time by the clock of the node."""


class Reaper(BackgroundRole):
    """Looks for expired leases, if the lease of this node is steady.

    The answer to each renewal tells when the first lease of a peer ends, and the role looks up to `SPREAD` later: peers
    do not all look at the same moment. Unless the store can tell, the role looks twice in each interval of renewals.
    """

    name = "reaper"

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        lease: Lease,
        on_reaped: Callable[[Sequence[Reaped]], None],
    ) -> None:
        super().__init__(clock)
        self._store = store
        self._lease = lease
        self._on_reaped = on_reaped
        self._steps = BatchSize(BATCH)
        self._look_at = 0.0
        self._is_soon = False
        """Whether a lease may have ended since the last look."""
        self._planned = asyncio.Event()

    def soon(self) -> None:
        """Look soon: a lease may have ended."""
        self._is_soon = True
        self._plan(min(self._look_at, self.clock.elapsed() + self._spread()))

    def renewed(self, reap_in_us: int | None) -> None:
        """Plan the next look by the answer to a renewal (`Renewed.reap_in_us`)."""
        if reap_in_us is None:
            return
        if reap_in_us <= 0:
            # renewals are spread already, and after a hint the look is near
            self._is_soon = True
            self._plan(min(self._look_at, self.clock.elapsed() + MIN_WAIT))
        elif not self._is_soon:  # the answer may be older than the hint
            self._plan(self.clock.elapsed() + reap_in_us / 1_000_000 + self._spread())

    def _plan(self, look_at: float) -> None:
        self._look_at = look_at
        self._planned.set()

    def _spread(self) -> float:
        return self.clock.random.uniform(0, SPREAD * self._lease.interval)

    async def run(self) -> None:
        while True:
            # without a further answer, as of a store that does not tell, the role looks twice in each interval
            self._look_at = self.clock.elapsed() + self.spread(self._lease.interval / 2)
            while (left := self._look_at - self.clock.elapsed()) > 0:
                self._planned.clear()
                await wait_set(self._planned, max(left, MIN_WAIT))
            self._is_soon = False
            while self._lease.may_reap and (reaped := await self._steps.step(self._reap)):
                logger.info(
                    "took back %d instance(s) from %s",
                    len(reaped),
                    listed(claim.node for claim in reaped),
                )
                self._on_reaped(reaped)

    async def _reap(self, limit: int) -> list[Reaped]:
        return await self._store.reap(limit, reaper=self._lease.incarnation)
